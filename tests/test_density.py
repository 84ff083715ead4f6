"""density.py against every answer computed by plain sequences, and what follows from a density against closed forms."""

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import data
from study import density
from test_capellm import keypoints, model, model3, photos, sequence  # noqa: F401 (two are fixtures)

VALUES = np.arange(1000) / 1000


def prefixes(model, pixels, keypoint, digits):
    """Probabilities (n, 2 K + 1) of the prefixes of 0, 1, ... 2 K digits of answers (n, 2 K), by plain sequences."""
    tokenizer, codec, digits = model.tokenizer, model.codec, torch.as_tensor(digits)
    start = data.write_question(tokenizer, keypoint) + tokenizer.encode_continuation("[0.")
    comma, ids = tokenizer.encode_continuation(",0."), torch.tensor(codec.ids)
    text = torch.cat(
        [
            ids[digits[:, : codec.K]],
            torch.tensor(comma).expand(len(digits), -1),
            ids[digits[:, codec.K :]],
        ],
        1,
    )
    x = torch.cat(
        [sequence(model, pixels, start).expand(len(digits), -1, -1), model.llm.embed(text)], 1
    )
    ends = (
        torch.tensor([*range(codec.K), *range(codec.K + len(comma), text.shape[1])])
        + x.shape[1]
        - text.shape[1]
        - 1
    )
    log_p = (
        model.llm.logits(model.llm(x)[:, ends], ids)
        .double()
        .log_softmax(-1)
        .gather(2, digits[..., None])[..., 0]
    )
    return torch.cat([torch.ones(len(digits), 1), log_p.cumsum(1).exp()], 1)


@pytest.fixture(scope="module")
@torch.inference_mode()
def brute_force(model3):
    """All 1000 x 1000 answers of a model with one token a coordinate: (keypoint, pixels, p)."""
    (keypoint,), pixels, codec = keypoints(1), photos(1)[0], model3.codec
    ids, start = (
        torch.tensor(codec.ids),
        data.write_question(model3.tokenizer, keypoint) + codec.open,
    )
    x = sequence(model3, pixels, start)
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
    """The set that shows the largest difference is the one where p is too large: total variation."""
    keypoint, pixels, expected = brute_force
    found = density.compute_density(model3, pixels, keypoint, cut)
    read = expected.sum(1) >= cut
    assert float((found.p - expected).clamp(min=0).sum()) <= found.spread + 1e-6
    assert found.spread == pytest.approx(
        float(expected[~read].sum()), abs=1e-6
    ) and found.prefixes == 1 + int(read.sum())
    torch.testing.assert_close(
        found.p.sum(1), expected.sum(1), rtol=1e-3, atol=1e-9
    )  # no column loses mass
    torch.testing.assert_close(found.p[read], expected[read], rtol=1e-3, atol=1e-9)


@torch.inference_mode()
@pytest.mark.parametrize("cut", [1e-4, 2e-3, 0.05])
def test_answers_and_blocks_of_three_digits(model, cut):
    """Answers drawn from the density and at random: read to the end they have their own probability, else their block's share."""
    (keypoint,), pixels = keypoints(1, seed=5), photos(1, seed=5)[0]
    found = density.compute_density(model, pixels, keypoint, cut)
    generator = torch.Generator().manual_seed(0)
    answers = torch.multinomial(found.p.flatten(), 100, generator=generator)
    answers = torch.cat([answers, torch.randint(10**6, (60,), generator=generator)])
    digits = answers[:, None] // 10 ** torch.arange(5, -1, -1) % 10
    depths = set()
    for answer, masses in zip(answers.tolist(), prefixes(model, pixels, keypoint, digits).tolist()):
        k = next((k for k in range(6) if masses[k] < cut), 6)  # digits of its block
        low = answer // 10 ** (6 - k) * 10 ** (6 - k)
        block = found.p.flatten()[
            low : low + 10 ** (6 - k)
        ]  # x first: a prefix is a run of answers
        assert float(block.sum()) == pytest.approx(masses[k], rel=1e-3)
        assert float(block.max()) == pytest.approx(float(block.min()), rel=1e-9)
        depths.add(k)
    assert len(depths) >= 2 and float(found.p.sum()) == pytest.approx(1, abs=1e-9)


def test_a_smaller_cut_reads_more_and_spreads_less(model):
    (keypoint,), pixels = keypoints(1, seed=5), photos(1, seed=5)[0]
    found = [density.compute_density(model, pixels, keypoint, cut) for cut in (1, 0.03, 3e-3, 3e-4)]
    assert all(
        a.spread > b.spread - 1e-9 and a.prefixes < b.prefixes for a, b in zip(found, found[1:])
    )
    assert found[-1].spread < 0.8
    for a in found:
        for b in found:
            assert float((a.p - b.p).clamp(min=0).sum()) <= a.spread + b.spread + 1e-9
    assert found[0].prefixes == 1 and found[0].spread == pytest.approx(1)


@pytest.mark.parametrize("batch, group", [(1, 5), (7, 1), (1000, 1000)])
def test_batches_and_groups_change_nothing(model, monkeypatch, batch, group):
    (keypoint,), pixels = keypoints(1, seed=5), photos(1, seed=5)[0]
    expected = density.compute_density(model, pixels, keypoint, 2e-3)
    monkeypatch.setattr(density, "BATCH", batch)
    monkeypatch.setattr(density, "GROUP", group)
    found = density.compute_density(model, pixels, keypoint, 2e-3)
    torch.testing.assert_close(found.p, expected.p, rtol=1e-3, atol=1e-12)
    assert found.prefixes == expected.prefixes


def test_a_cut_is_a_probability(model):
    with pytest.raises(ValueError, match="cut is 1.5, expected a probability"):
        density.compute_density(model, photos(1)[0], keypoints(1)[0], 1.5)


# What follows from p: a rectangle of even mass, a Gaussian far from the borders, atoms


def rectangle(x, y, w, h):
    p = torch.zeros(1000, 1000, dtype=torch.float64)
    p[x : x + w, y : y + h] = 1 / (w * h)
    return p


sides = st.tuples(
    st.integers(0, 900), st.integers(0, 900), st.integers(1, 100), st.integers(1, 100)
)


@settings(max_examples=10, deadline=None)
@given(sides, st.floats(0.05, 0.99))
def test_of_a_rectangle(sides, q):
    p, (x, y, w, h) = rectangle(*sides), sides
    assert density.mean(p) == pytest.approx((VALUES[x : x + w].mean(), VALUES[y : y + h].mean()))
    assert density.median(p) == pytest.approx(
        (VALUES[x + (w - 1) // 2], VALUES[y + (h - 1) // 2]), abs=0.0011
    )
    assert density.entropy(p) == pytest.approx(math.log(w * h / 1e6))
    u, v = density.mode(p)
    assert x <= round(1000 * u) < x + w and y <= round(1000 * v) < y + h
    region = density.region(p, q)
    assert (
        bool((p[region] > 0).all())
        and q * w * h - 1e-6 <= int(region.sum()) <= q * w * h + 1 + 1e-6
    )
    assert density.nll(p, (u, v)) == pytest.approx(-math.log(1e6 / (w * h)))
    assert density.nll(p, ((u + 0.5) % 0.9995, v)) == math.inf


@pytest.mark.parametrize("centre, sigma", [((0.5, 0.5), 0.03), ((0.321, 0.654), 0.05)])
def test_of_a_gaussian(centre, sigma):
    p = density.gaussian(centre, sigma)
    assert float(p.sum()) == pytest.approx(1)
    assert density.mode(p) == density.median(p) == pytest.approx(centre) and density.mean(
        p
    ) == pytest.approx(centre, abs=1e-6)
    assert density.entropy(p) == pytest.approx(math.log(2 * math.pi * math.e * sigma**2), abs=0.002)
    for q in (0.1, 0.5, 0.9):
        assert float(density.region(p, q).sum()) / 1e6 == pytest.approx(
            -2 * math.pi * sigma**2 * math.log(1 - q), rel=0.01
        )
    for dx, dy in ((0, 0), (0.02, -0.05), (-0.1, 0.003)):
        expected = (dx**2 + dy**2) / (2 * sigma**2) + math.log(2 * math.pi * sigma**2)
        assert density.nll(p, (centre[0] + dx, centre[1] + dy)) == pytest.approx(expected, abs=1e-4)
    for radius in (0.05, 0.1):
        point, expected = density.best(p, radius)
        assert point == pytest.approx(centre, abs=0.0011)
        assert expected == pytest.approx(1 - math.exp(-(radius**2) / (2 * sigma**2)), rel=0.01)


def test_nll_rounds_as_answers_do_and_refuses_what_lies_outside():
    p = torch.rand(1000, 1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for x, y in ((0.1234, 0.1236), (0.9994, 0.0004), (0.5, 0.99949)):
        i, j = (int(float(f"{v:.3f}") * 1000 + 0.5) for v in (x, y))
        assert density.nll(p, (x, y)) == pytest.approx(-math.log(1e6 * float(p[i, j])))
    for outside in ((-0.01, 0.5), (0.5, 0.9996), (math.nan, 0.5)):
        with pytest.raises(ValueError, match="lies outside the crop"):
            density.nll(p, outside)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0.002, 0.05, 0.07, 0.15, 0.2, 0.9]))
def test_best_equals_trying_every_place(seed, radius):
    """A few atoms, some on the borders; a distance of just the radius is a miss, as in PCK."""
    rng = np.random.default_rng(seed)
    x, y = rng.choice([0, 999, *range(0, 1000, 10)], (2, 8))
    masses, p = rng.dirichlet(np.ones(8)), torch.zeros(1000, 1000, dtype=torch.float64)
    for i, j, m in zip(x, y, masses):
        p[i, j] += m
    grid, r = np.arange(1000), round(1000 * radius)
    score = sum(
        m * ((grid[:, None] - i) ** 2 + (grid - j) ** 2 < r**2) for i, j, m in zip(x, y, masses)
    )
    (u, v), expected = density.best(p, radius)
    assert expected == pytest.approx(score.max(), abs=1e-9)
    assert score[round(1000 * u), round(1000 * v)] == pytest.approx(score.max(), abs=1e-8)
    nearest = np.hypot(
        grid[:, None] / 1000 - (x * masses).sum() / 1000, grid / 1000 - (y * masses).sum() / 1000
    )
    assert nearest[round(1000 * u), round(1000 * v)] == pytest.approx(
        nearest[score > score.max() - 1e-8].min(), abs=1e-9
    )


def test_samples_smoothed_are_a_mean_of_gaussians():
    samples, h = [(0.3, 0.4), (0.35, 0.8), (0.3, 0.4)], 0.02
    x, y = VALUES[:, None], VALUES
    expected = (
        sum(
            np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * h**2)) / (2 * math.pi * h**2)
            for u, v in samples
        )
        / 3
        / 1e6
    )
    np.testing.assert_allclose(density.sample_density(samples, h), expected, atol=1e-12)
    assert float(density.sample_density([(0, 0.999)], 0.05).sum()) == pytest.approx(
        1
    )  # cut off at the crop, nothing lost


def mixture(*parts):
    """Even mass everywhere, and Gaussians (share, centre, sigma)."""
    ground = torch.full(
        (1000, 1000), (1 - sum(share for share, *_ in parts)) / 1e6, dtype=torch.float64
    )
    return sum((share * density.gaussian(centre, sigma) for share, centre, sigma in parts), ground)


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0.05, 0.1]))
def test_best_equals_trying_many_places_of_a_smooth_density(seed, radius):
    rng = np.random.default_rng(seed)
    (u, v), (s, t), share = (
        rng.uniform(0, 0.999, 2).tolist(),
        rng.uniform(0.02, 0.2, 2),
        rng.uniform(0.1, 0.4),
    )
    p = mixture((share, (u, v), s), (0.9 - share, (v, 1 - u), t))
    place, expected = density.best(p, radius)

    def inside(x, y):
        return float(
            p[torch.tensor(np.hypot(VALUES[:, None] - x, VALUES - y) < radius - 1e-9)].sum()
        )

    assert inside(*place) == pytest.approx(expected, abs=1e-9)
    for x, y in [
        density.mode(p),
        density.median(p),
        *(place + rng.normal(0, 0.02, (10, 2))).round(3).clip(0, 0.999).tolist(),
    ]:
        assert inside(x, y) <= expected + 1e-9


def test_levels_of_truths_drawn_from_a_density_are_even():
    """Also where it is coarse: a few atoms, of which two are equally likely, on even ground."""
    p = torch.full((1000, 1000), 0.4 / 1e6, dtype=torch.float64)
    for (i, j), mass in {(3, 4): 0.25, (800, 70): 0.15, (999, 0): 0.15, (20, 30): 0.05}.items():
        p[i, j] += mass
    rng, n = random.Random(5), 800
    drawn = (
        p.flatten()
        .multinomial(n, replacement=True, generator=torch.Generator().manual_seed(0))
        .tolist()
    )
    levels = np.array([density.level(p, density.point(i), rng.random()) for i in drawn])
    for q in (0.1, 0.25, 0.5, 0.55, 0.6, 0.68, 0.9, 0.95):
        assert abs((levels < q).mean() - q) < 4 * math.sqrt(q * (1 - q) / n)


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 2**32))
def test_levels_are_of_credible_regions(seed):
    rng = np.random.default_rng(seed)
    cells = rng.choice(10**6, 40, replace=False)
    masses, p = rng.dirichlet(np.ones(40)), torch.zeros(10**6, dtype=torch.float64)
    p[torch.tensor(cells)] = torch.tensor(masses)
    p = p.view(1000, 1000)
    for cell, mass in zip(cells[:5].tolist(), masses):
        above = sum(m for m in masses if m > mass)
        for u in (0, 0.5, 0.999):
            assert density.level(p, density.point(cell), u) == pytest.approx(
                above + u * mass, abs=1e-12
            )
        for q in (above - 1e-6, above + 1e-6, min(above + mass, 1)):
            assert bool(density.region(p, q).flatten()[cell]) == (
                density.level(p, density.point(cell), 0) < q
            )
    with pytest.raises(ValueError, match="lies outside the crop"):
        density.level(p, (0.5, 1), 0)


@settings(max_examples=15, deadline=None)
@given(st.tuples(*[st.floats(0, 0.999)] * 4), st.floats(0.02, 2))
def test_gaussians_at_once_equal_one_on_the_grid(places, sigma):
    centre, truth = (round(places[0], 3), round(places[1], 3)), places[2:]
    if (
        distance := math.dist(centre, truth)
    ) > 20 * sigma:  # where the grid's mass is no longer a number
        truth = tuple(c + 20 * sigma / distance * (t - c) for c, t in zip(centre, truth))
    expected = density.nll(density.gaussian(centre, sigma), truth)
    assert float(
        density.gaussian_nll([centre, centre], [truth, truth], [[sigma], [9]])[0]
    ) == pytest.approx(expected, abs=0.002)
    assert float(density.gaussian_nll([centre], [truth], sigma)) == pytest.approx(
        expected, abs=0.002
    )


@pytest.mark.parametrize("sigma", [0.01, 0.04])
def test_best_sigma_is_that_of_the_errors(sigma):
    rng = np.random.default_rng(2)
    centres = rng.uniform(0.4, 0.6, (500, 2))
    truths = centres + rng.normal(0, sigma, (500, 2))  # far from the borders: a closed form
    found = density.best_sigma(centres, truths)
    assert found == pytest.approx(math.sqrt(np.mean((centres - truths) ** 2)), rel=0.005)
    corner = np.zeros((2000, 2))  # three quarters are cut off
    assert density.best_sigma(corner, abs(rng.normal(0, sigma, (2000, 2)))) == pytest.approx(
        sigma, rel=0.06
    )


def test_drawn_answers_follow_the_density_and_scotts_rule():
    p = mixture((0.6, (0.3, 0.5), 0.02), (0.3, (0.8, 0.2), 0.05))
    samples, bandwidth = density.drawn(p, torch.Generator().manual_seed(1), 4000)
    left = samples[:, 0] < 0.5
    expected = float(p[:500].sum())
    assert abs(float(left.double().mean()) - expected) < 4 * math.sqrt(
        expected * (1 - expected) / 4000
    )
    assert samples.mean(0).tolist() == pytest.approx(density.mean(p), abs=4 * 0.3 / math.sqrt(4000))
    x, y = samples.numpy().T
    assert bandwidth == pytest.approx(
        math.sqrt((x.var(ddof=1) + y.var(ddof=1)) / 2) * 4000 ** (-1 / (2 + 4))
    )
    again = density.drawn(p, torch.Generator().manual_seed(1), 4000)[0]
    assert torch.equal(samples, again) and not torch.equal(
        samples, density.drawn(p, torch.Generator().manual_seed(2), 4000)[0]
    )
    atom = rectangle(7, 8, 1, 1)  # all samples the same: no bandwidth of 0
    assert density.mode(density.sample_density(*density.drawn(atom, torch.Generator()))) == (
        0.007,
        0.008,
    )


def test_the_question_of_a_density_is_that_of_answers(model, monkeypatch):
    """An instruction that lists all keypoints leads to another density, which holds what `answer` finds."""
    asked, pixels = keypoints(3, seed=5), photos(1, seed=5)[0]
    monkeypatch.setattr(model, "instruction", "list")
    alone, listed = (
        density.compute_density(model, pixels, asked[0], cut=1e-6, **more).p
        for more in ({}, {"listed": asked})
    )
    assert float((alone - listed).abs().sum()) > 0.01
    for p, together in ((alone, asked[:1]), (listed, asked)):
        (place, *_), (probability, *_) = model.answer(pixels, together)
        assert float(p[density.cell(place)]) == pytest.approx(probability, rel=1e-3)
