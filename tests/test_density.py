"""density.py: against every answer by plain sequences; what follows from p in closed forms."""

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import data
from helpers import embed_sequence, keypoints, photos
from study import density

VALUES = np.arange(1000) / 1000


def enumerate_prefixes(model, pixels, keypoint, digits):
    """Probabilities (n, 2 K + 1) of the prefixes of 0, 1, ... 2 K digits of answers (n, 2 K).

    By plain sequences.
    """
    tokenizer, codec = model.tokenizer, model.codec
    n, K = len(digits), codec.K
    start = data.write_question(tokenizer, keypoint) + tokenizer.encode_continuation("[0.")
    comma, ids = tokenizer.encode_continuation(",0."), torch.tensor(codec.ids)
    between = torch.tensor(comma).expand(n, -1)
    text = torch.cat([ids[digits[:, :K]], between, ids[digits[:, K:]]], 1)
    beginning = embed_sequence(model, pixels, start).expand(n, -1, -1)
    x = torch.cat([beginning, model.llm.embed(text)], 1)
    places = torch.tensor([*range(K), *range(K + len(comma), text.shape[1])])
    ends = places + beginning.shape[1] - 1
    log_p = model.llm.logits(model.llm(x)[:, ends], ids).double().log_softmax(-1)
    log_p = log_p.gather(2, digits[..., None])[..., 0]
    return torch.cat([torch.ones(n, 1), log_p.cumsum(1).exp()], 1)


@pytest.fixture(scope="module")
@torch.inference_mode()
def brute_force(model3):
    """All 1000 x 1000 answers of a model with one token a coordinate: (keypoint, pixels, p)."""
    (keypoint,), pixels, codec = keypoints(1), photos(1)[0], model3.codec
    ids = torch.tensor(codec.ids)
    start = data.write_question(model3.tokenizer, keypoint) + codec.open
    x = embed_sequence(model3, pixels, start)
    p = model3.llm.logits(model3.llm(x)[0, -1], ids).double().softmax(0)
    behind = torch.cat([ids[:, None], torch.tensor(codec.comma).expand(1000, -1)], 1)
    Z = model3.llm(torch.cat([x.expand(1000, -1, -1), model3.llm.embed(behind)], 1))[:, -1]
    return keypoint, pixels, p[:, None] * model3.llm.logits(Z, ids).double().softmax(1)


def test_all_answers_equal_brute_force(model3, brute_force):
    keypoint, pixels, expected = brute_force
    found = density.compute_density(model3, pixels, keypoint, cut=0)
    torch.testing.assert_close(found.p, expected, rtol=1e-3, atol=1e-9)
    assert found.spread == 0 and found.prefixes == 1 + 1000


@pytest.mark.parametrize("cut", [1e-4, 1e-3, 1e-2, 1])
def test_no_probability_is_wrong_by_more_than_was_spread(model3, brute_force, cut):
    """The set that shows the largest difference is that where p is too large: total variation."""
    keypoint, pixels, expected = brute_force
    found = density.compute_density(model3, pixels, keypoint, cut)
    read = expected.sum(1) >= cut
    assert float((found.p - expected).clamp(min=0).sum()) <= found.spread + 1e-6
    assert found.spread == pytest.approx(float(expected[~read].sum()), abs=1e-6)
    assert found.prefixes == 1 + int(read.sum())
    # No column loses mass.
    torch.testing.assert_close(found.p.sum(1), expected.sum(1), rtol=1e-3, atol=1e-9)
    torch.testing.assert_close(found.p[read], expected[read], rtol=1e-3, atol=1e-9)


@torch.inference_mode()
@pytest.mark.parametrize("cut", [1e-4, 2e-3, 0.05])
def test_answers_and_blocks_of_three_digits(model, cut):
    """Answers drawn from the density and at random.

    Read to the end they have their own probability, else their block's share.
    """
    (keypoint,), pixels = keypoints(1, seed=5), photos(1, seed=5)[0]
    found = density.compute_density(model, pixels, keypoint, cut)
    generator = torch.Generator().manual_seed(0)
    answers = torch.multinomial(found.p.flatten(), 100, generator=generator)
    answers = torch.cat([answers, torch.randint(10**6, (60,), generator=generator)])
    digits = answers[:, None] // 10 ** torch.arange(5, -1, -1) % 10
    expected = enumerate_prefixes(model, pixels, keypoint, digits).tolist()
    depths = set()
    for answer, masses in zip(answers.tolist(), expected, strict=True):
        # Digits of its block.
        k = next((k for k in range(6) if masses[k] < cut), 6)
        # x first: a prefix is a run of answers.
        length = 10 ** (6 - k)
        low = answer // length * length
        block = found.p.flatten()[low : low + length]
        assert float(block.sum()) == pytest.approx(masses[k], rel=1e-3)
        assert float(block.max()) == pytest.approx(float(block.min()), rel=1e-9)
        depths.add(k)
    assert len(depths) >= 2 and float(found.p.sum()) == pytest.approx(1, abs=1e-9)


def test_a_smaller_cut_reads_more_and_spreads_less(model):
    (keypoint,), pixels = keypoints(1, seed=5), photos(1, seed=5)[0]
    cuts = (1, 0.03, 3e-3, 3e-4)
    found = [density.compute_density(model, pixels, keypoint, cut) for cut in cuts]
    for a, b in zip(found, found[1:], strict=False):
        assert a.spread > b.spread - 1e-9 and a.prefixes < b.prefixes
    assert found[-1].spread < 0.8
    for a in found:
        for b in found:
            assert float((a.p - b.p).clamp(min=0).sum()) <= a.spread + b.spread + 1e-9
    assert found[0].prefixes == 1 and found[0].spread == pytest.approx(1)


@pytest.mark.parametrize("batch, group", [(1, 5), (7, 1), (1000, 1000)])
def test_batches_and_groups_change_nothing(model, monkeypatch, batch, group):
    (keypoint,), pixels = keypoints(1, seed=5), photos(1, seed=5)[0]
    expected = density.compute_density(model, pixels, keypoint, 2e-3)
    monkeypatch.setattr(density, "PREFIXES_AT_ONCE", batch)
    monkeypatch.setattr(density, "X_AT_ONCE", group)
    found = density.compute_density(model, pixels, keypoint, 2e-3)
    torch.testing.assert_close(found.p, expected.p, rtol=1e-3, atol=1e-12)
    assert found.prefixes == expected.prefixes


def test_a_cut_is_a_probability(model):
    with pytest.raises(ValueError, match="cut is 1.5, expected a probability"):
        density.compute_density(model, photos(1)[0], keypoints(1)[0], 1.5)


@pytest.fixture
def listing_model(model):
    """The model, asked with an instruction that lists all keypoints."""
    before, model.config.instruction = model.config.instruction, "list"
    yield model
    model.config.instruction = before


def test_the_question_of_a_density_is_that_of_answers(listing_model):
    """What is listed leads to another density, which holds what `answer` finds."""
    asked, pixels = keypoints(3, seed=5), photos(1, seed=5)[0]
    compute = density.compute_density
    alone = compute(listing_model, pixels, asked[0], cut=1e-6).p
    listed = compute(listing_model, pixels, asked[0], cut=1e-6, listed=asked).p
    assert float((alone - listed).abs().sum()) > 0.01
    for p, together in ((alone, asked[:1]), (listed, asked)):
        (place, *_), (probability, *_), _ = listing_model.answer(pixels, together)
        assert float(p[density.find_cell(place)]) == pytest.approx(probability, rel=1e-3)


# What follows from p: a rectangle of even mass, a Gaussian far from the borders, atoms.


def rectangle(x, y, w, h):
    p = torch.zeros(1000, 1000, dtype=torch.float64)
    p[x : x + w, y : y + h] = 1 / (w * h)
    return p


corner, side = st.integers(0, 900), st.integers(1, 100)


@settings(max_examples=10, deadline=None)
@given(st.tuples(corner, corner, side, side), st.floats(0.05, 0.99))
def test_of_a_rectangle(rows, q):
    p, (x, y, w, h) = rectangle(*rows), rows
    centre = VALUES[x : x + w].mean(), VALUES[y : y + h].mean()
    assert density.find_mean(p) == pytest.approx(centre)
    middle = VALUES[x + (w - 1) // 2], VALUES[y + (h - 1) // 2]
    assert density.find_median(p) == pytest.approx(middle, abs=0.0011)
    assert density.compute_entropy(p) == pytest.approx(math.log(w * h / 1e6))
    u, v = density.find_mode(p)
    assert x <= round(1000 * u) < x + w and y <= round(1000 * v) < y + h
    region = density.find_region(p, q)
    assert bool((p[region] > 0).all())
    assert q * w * h - 1e-6 <= int(region.sum()) <= q * w * h + 1 + 1e-6
    assert density.compute_nll(p, (u, v)) == pytest.approx(-math.log(1e6 / (w * h)))
    assert density.compute_nll(p, ((u + 0.5) % 0.9995, v)) == math.inf


@pytest.mark.parametrize("centre, sigma", [((0.5, 0.5), 0.03), ((0.321, 0.654), 0.05)])
def test_of_a_gaussian(centre, sigma):
    p = density.make_gaussian(centre, sigma)
    assert float(p.sum()) == pytest.approx(1)
    assert density.find_mode(p) == density.find_median(p) == pytest.approx(centre)
    assert density.find_mean(p) == pytest.approx(centre, abs=1e-6)
    expected = math.log(2 * math.pi * math.e * sigma**2)
    assert density.compute_entropy(p) == pytest.approx(expected, abs=0.002)
    for q in (0.1, 0.5, 0.9):
        area = float(density.find_region(p, q).sum()) / 1e6
        assert area == pytest.approx(-2 * math.pi * sigma**2 * math.log(1 - q), rel=0.01)
    for dx, dy in ((0, 0), (0.02, -0.05), (-0.1, 0.003)):
        expected = (dx**2 + dy**2) / (2 * sigma**2) + math.log(2 * math.pi * sigma**2)
        found = density.compute_nll(p, (centre[0] + dx, centre[1] + dy))
        assert found == pytest.approx(expected, abs=1e-4)
    for radius in (0.05, 0.1):
        point, mass = density.find_best_point(p, radius)
        assert point == pytest.approx(centre, abs=0.0011)
        assert mass == pytest.approx(1 - math.exp(-(radius**2) / (2 * sigma**2)), rel=0.01)


def test_nll_rounds_as_answers_do_and_refuses_what_lies_outside():
    p = torch.rand(1000, 1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for x, y in ((0.1234, 0.1236), (0.9994, 0.0004), (0.5, 0.99949)):
        i, j = (int(float(f"{v:.3f}") * 1000 + 0.5) for v in (x, y))
        assert density.compute_nll(p, (x, y)) == pytest.approx(-math.log(1e6 * float(p[i, j])))
    for outside in ((-0.01, 0.5), (0.5, 0.9996), (math.nan, 0.5)):
        assert not density.has_answer(outside)
        with pytest.raises(ValueError, match="lies outside the crop"):
            density.compute_nll(p, outside)


@settings(max_examples=50, deadline=None)
@given(st.floats(-0.5, 1.5) | st.sampled_from([0.0, 0.9995, np.nextafter(0.9995, 0)]))
def test_places_with_an_answer_are_those_that_the_codec_can_write(model, value):
    has_code = bool(model.codec.has_code(value))
    assert density.has_answer((value, 0.5)) == density.has_answer((0.5, value)) == has_code
    if has_code:
        digits = "".join(map(str, model.codec.digits(value)))
        assert density.find_cell((value, 0.5)) == (int(digits), 500)


def mass_closer(p, place, radius):
    distance = np.hypot(VALUES[:, None] - place[0], VALUES - place[1])
    return float(p[torch.tensor(distance < radius - 1e-9)].sum())


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0.002, 0.05, 0.07, 0.15, 0.2, 0.9]))
def test_best_equals_trying_every_place(seed, radius):
    """A few atoms, some on the borders; a distance of just the radius is a miss, as in PCK."""
    rng = np.random.default_rng(seed)
    x, y = rng.choice([0, 999, *range(0, 1000, 10)], (2, 8))
    masses = rng.dirichlet(np.ones(8))
    p = torch.zeros(1000, 1000, dtype=torch.float64)
    grid, r = np.arange(1000), round(1000 * radius)
    score = np.zeros((1000, 1000))
    for i, j, m in zip(x, y, masses, strict=True):
        p[i, j] += m
        score += m * ((grid[:, None] - i) ** 2 + (grid - j) ** 2 < r**2)
    (u, v), mass = density.find_best_point(p, radius)
    u, v = round(1000 * u), round(1000 * v)
    assert mass == pytest.approx(score.max(), abs=1e-9)
    assert score[u, v] == pytest.approx(score.max(), abs=1e-8)
    # Of the best places the one nearest the mean.
    mean_x, mean_y = (x * masses).sum(), (y * masses).sum()
    distance = np.hypot(grid[:, None] - mean_x, grid - mean_y) / 1000
    nearest = distance[score > score.max() - 1e-8].min()
    assert distance[u, v] == pytest.approx(nearest, abs=1e-9)


def test_samples_smoothed_are_a_mean_of_gaussians():
    samples, h = [(0.3, 0.4), (0.35, 0.8), (0.3, 0.4)], 0.02
    expected = np.zeros((1000, 1000))
    for u, v in samples:
        squared = (VALUES[:, None] - u) ** 2 + (VALUES - v) ** 2
        expected += np.exp(-squared / (2 * h**2)) / (2 * math.pi * h**2) / 3 / 1e6
    np.testing.assert_allclose(density.smooth_samples(samples, h), expected, atol=1e-12)
    # Cut off at the crop, nothing is lost.
    assert float(density.smooth_samples([(0, 0.999)], 0.05).sum()) == pytest.approx(1)


def mixture(*parts):
    """Even mass everywhere, and Gaussians (share, centre, sigma)."""
    p = torch.full((1000, 1000), 1e-6, dtype=torch.float64)
    p *= 1 - sum(share for share, *_ in parts)
    for share, centre, sigma in parts:
        p += share * density.make_gaussian(centre, sigma)
    return p


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0.05, 0.1]))
def test_best_equals_trying_many_places_of_a_smooth_density(seed, radius):
    rng = np.random.default_rng(seed)
    u, v = rng.uniform(0, 0.999, 2).tolist()
    s, t = rng.uniform(0.02, 0.2, 2)
    share = rng.uniform(0.1, 0.4)
    p = mixture((share, (u, v), s), (0.9 - share, (v, 1 - u), t))
    place, mass = density.find_best_point(p, radius)
    assert mass_closer(p, place, radius) == pytest.approx(mass, abs=1e-9)
    around = (place + rng.normal(0, 0.02, (10, 2))).round(3).clip(0, 0.999).tolist()
    for other in [density.find_mode(p), density.find_median(p), *around]:
        assert mass_closer(p, other, radius) <= mass + 1e-9


def test_levels_of_truths_drawn_from_a_density_are_even():
    """Also where it is coarse: a few atoms, of which two are equally likely, on even ground."""
    p = torch.full((1000, 1000), 0.4 / 1e6, dtype=torch.float64)
    for (i, j), mass in {(3, 4): 0.25, (800, 70): 0.15, (999, 0): 0.15, (20, 30): 0.05}.items():
        p[i, j] += mass
    rng, n = random.Random(5), 800
    generator = torch.Generator().manual_seed(0)
    drawn = p.flatten().multinomial(n, replacement=True, generator=generator).tolist()
    truths = [density.find_point(i) for i in drawn]
    levels = np.array([density.compute_level(p, truth, rng.random()) for truth in truths])
    for q in (0.1, 0.25, 0.5, 0.55, 0.6, 0.68, 0.9, 0.95):
        assert abs((levels < q).mean() - q) < 4 * math.sqrt(q * (1 - q) / n)


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 2**32))
def test_levels_are_of_credible_regions(seed):
    rng = np.random.default_rng(seed)
    cells = rng.choice(10**6, 40, replace=False)
    masses = rng.dirichlet(np.ones(40))
    p = torch.zeros(10**6, dtype=torch.float64)
    p[torch.tensor(cells)] = torch.tensor(masses)
    p = p.view(1000, 1000)
    for cell, mass in zip(cells[:5].tolist(), masses, strict=False):
        above = sum(m for m in masses if m > mass)
        for u in (0, 0.5, 0.999):
            found = density.compute_level(p, density.find_point(cell), u)
            assert found == pytest.approx(above + u * mass, abs=1e-12)
        for q in (above - 1e-6, above + 1e-6, min(above + mass, 1)):
            inside = bool(density.find_region(p, q).flatten()[cell])
            assert inside == (density.compute_level(p, density.find_point(cell), 0) < q)
    with pytest.raises(ValueError, match="lies outside the crop"):
        density.compute_level(p, (0.5, 1), 0)


place = st.floats(0, 0.999)


@settings(max_examples=15, deadline=None)
@given(st.tuples(place, place), st.tuples(place, place), st.floats(0.02, 2))
def test_gaussians_at_once_equal_one_on_the_grid(centre, truth, sigma):
    centre = round(centre[0], 3), round(centre[1], 3)
    distance = math.dist(centre, truth)
    # Farther away the grid's mass is no longer a number.
    if distance > 20 * sigma:
        direction = (np.array(truth) - centre) / distance
        truth = tuple((centre + 20 * sigma * direction).tolist())
    expected = density.compute_nll(density.make_gaussian(centre, sigma), truth)
    two, _ = density.compute_gaussian_nll([centre, centre], [truth, truth], [[sigma], [9]])
    assert float(two) == pytest.approx(expected, abs=0.002)
    one = density.compute_gaussian_nll([centre], [truth], sigma)
    assert float(one) == pytest.approx(expected, abs=0.002)


@pytest.mark.parametrize("sigma", [0.01, 0.04])
def test_best_sigma_is_that_of_the_errors(sigma):
    rng = np.random.default_rng(2)
    # Far from the borders there is a closed form.
    centres = rng.uniform(0.4, 0.6, (500, 2))
    truths = centres + rng.normal(0, sigma, (500, 2))
    found = density.find_best_sigma(centres, truths)
    assert found == pytest.approx(math.sqrt(np.mean((centres - truths) ** 2)), rel=0.005)
    # Around a corner three quarters are cut off.
    corners, truths = np.zeros((2000, 2)), abs(rng.normal(0, sigma, (2000, 2)))
    assert density.find_best_sigma(corners, truths) == pytest.approx(sigma, rel=0.06)


def draw(p, seed, n):
    return density.draw_samples(p, torch.Generator().manual_seed(seed), n)


def test_drawn_answers_follow_the_density_and_scotts_rule():
    p, n = mixture((0.6, (0.3, 0.5), 0.02), (0.3, (0.8, 0.2), 0.05)), 4000
    samples, bandwidth = draw(p, 1, n)
    left, expected = float((samples[:, 0] < 0.5).double().mean()), float(p[:500].sum())
    assert abs(left - expected) < 4 * math.sqrt(expected * (1 - expected) / n)
    tolerance = 4 * 0.3 / math.sqrt(n)
    assert samples.mean(0).tolist() == pytest.approx(density.find_mean(p), abs=tolerance)
    x, y = samples.numpy().T
    deviation = math.sqrt((x.var(ddof=1) + y.var(ddof=1)) / 2)
    assert bandwidth == pytest.approx(deviation * n ** (-1 / (2 + 4)))
    again, _ = draw(p, 1, n)
    other, _ = draw(p, 2, n)
    assert torch.equal(samples, again) and not torch.equal(samples, other)
    # All samples are the same, but the bandwidth is not 0.
    atom = density.smooth_samples(*draw(rectangle(7, 8, 1, 1), 0, 100))
    assert density.find_mode(atom) == (0.007, 0.008)
