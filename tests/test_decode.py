"""decode.py against `CapeLLM.locate_slowly`: a plain causal sequence, computed for each token."""

import copy
import os
import random
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import data
import decode
from decode import grow_tree
from helpers import embed_sequence, keypoints, photo, photos
from study import density
from study.digits import DECODING
from support import passes
from support.passes import QUESTIONS_IN_PASS


def locate(model, pixels, keypoint, choose=None, before=()):
    """A keypoint's place behind the conversation `before`: (x, y) and its probability."""
    ids = [*before, *data.write_question(model.tokenizer, keypoint)]
    if choose is None:
        return model.locate_slowly(pixels, ids)
    return model.locate_slowly(pixels, ids, choose)


def test_the_worked_example():
    """The mask and the positions in the file's docstring are what grow_tree gives."""
    drawn = re.findall(r"([abcd])   ([1.] [1.] [1.] [1.])   (\d)$", decode.__doc__, re.MULTILINE)
    chain, depth = grow_tree(torch.zeros(1, 0, dtype=torch.bool), torch.tensor([0, 0]))
    trunk = chain[-1:]
    branches, more = grow_tree(trunk.repeat(2, 1), torch.tensor([0, 1]))
    mask = torch.cat([F.pad(chain, (0, 2)), branches])
    for row, position, (_, sees, at) in zip(mask, [*depth, *more], drawn, strict=True):
        assert [int(seen) for seen in row] == [int(sign == "1") for sign in sees.split()]
        assert position == int(at)


@torch.inference_mode()
@pytest.mark.parametrize("n", [1, 5, 17, 40])
def test_answers_equal_the_naive_decoder(model, n):
    assert n <= QUESTIONS_IN_PASS or n % QUESTIONS_IN_PASS  # a last pass that is not full
    asked, pixels = keypoints(n, seed=n), photos(1, seed=n)[0]
    points, probabilities, _ = model.answer(pixels, asked)
    expected = [locate(model, pixels, k) for k in asked]
    assert points == [point for point, _ in expected]
    np.testing.assert_allclose(probabilities, [p for _, p in expected], rtol=1e-3)
    assert (
        n < 17 or len({tuple(point) for point in points}) > n / 4
    )  # the answers differ, so a mix-up would show


@torch.inference_mode()
@pytest.mark.parametrize("n", [3, 18])
def test_one_token_a_coordinate_equals_the_naive_decoder(model3, n):
    asked, pixels = keypoints(n, seed=n), photos(1)[0]
    points, probabilities, _ = model3.answer(pixels, asked)
    expected = [locate(model3, pixels, k) for k in asked]
    assert points == [point for point, _ in expected]
    np.testing.assert_allclose(probabilities, [p for _, p in expected], rtol=1e-3)


@torch.inference_mode()
def test_answers_do_not_depend_on_their_neighbours(model):
    asked, pixels = keypoints(QUESTIONS_IN_PASS + 3), photos(1)[0]
    points, probabilities, _ = model.answer(pixels, asked)
    backwards, p, _ = model.answer(pixels, asked[::-1])
    assert backwards[::-1] == points
    np.testing.assert_allclose(p[::-1], probabilities, rtol=1e-3)
    other, _, _ = model.answer(photos(1, seed=9)[0], asked)
    assert other != points  # it looks at the image


def kept(decoding, p):
    """The weights that a row of Table 9 gives the digits, by its definition."""
    order, weights = sorted(range(len(p)), key=lambda i: -p[i]), [0.0] * len(p)
    if decoding == "nucleus":
        n = next(n for n in range(1, len(p) + 1) if sum(p[i] for i in order[:n]) >= 0.92)
    else:
        n = {"greedy": 1, "top-3": 3, "top-5": 5}.get(decoding, len(p))
    for i in order[:n]:
        weights[i] = p[i] ** (1 / 0.6) if decoding == "temperature" else p[i]
    return weights


def naive_choice(model, pixels, decoding, draws):
    """The `choose` of naive_answer; draws: an iterator of numbers in [0, 1)."""

    def draw(ids, p):
        weights = kept(decoding, p.double().tolist())
        left = next(draws) * sum(weights)
        for i, w in enumerate(weights):
            left -= w
            if left < 0:
                return i

    def contrastive(ids, p):  # Su et al. 2022, Equation 5, candidate by candidate
        digits, scores = model.codec.ids, {}
        for v in p.topk(5).indices.tolist():
            *context, h = model.llm(embed_sequence(model, pixels, [*ids, digits[v]]))[0]
            scores[v] = 0.4 * float(p[v]) - 0.6 * max(
                float(F.cosine_similarity(h, c, dim=0)) for c in context
            )
        return max(scores, key=scores.get)

    return contrastive if decoding == "contrastive" else draw


def uniform(seed, keypoint):
    """The numbers that a keypoint's digits are drawn with."""
    rng = random.Random(f"{seed} {keypoint.name}: {keypoint.description}")
    return iter(rng.random, None)


@torch.inference_mode()
@pytest.mark.parametrize("decoding", DECODING)
def test_every_decoding_equals_a_plain_loop(model, model3, decoding):
    many = 4 if decoding == "contrastive" else QUESTIONS_IN_PASS + 2
    for each, n in ((model, many), (model3, 3)):
        asked, pixels = keypoints(n, seed=4), photos(1, seed=4)[0]
        points, probabilities, _ = each.answer(pixels, asked, decoding, seed=7)
        expected = [
            locate(each, pixels, k, naive_choice(each, pixels, decoding, uniform(7, k)))
            for k in asked
        ]
        assert points == [point for point, _ in expected]
        np.testing.assert_allclose(probabilities, [p for _, p in expected], rtol=1e-3)
        assert (points == each.answer(pixels, asked)[0]) == (decoding == "greedy")


@torch.inference_mode()
def test_draws_depend_on_the_seed_and_the_words_not_on_the_neighbours(model):
    asked, pixels = keypoints(QUESTIONS_IN_PASS + 5), photos(1)[0]
    points, _, _ = model.answer(pixels, asked, "sampling", seed=3)
    assert (
        model.answer(pixels, asked, "sampling", seed=3)[0]
        == points
        != model.answer(pixels, asked, "sampling", seed=4)[0]
    )
    assert model.answer(pixels, asked[::-2], "sampling", seed=3)[0] == points[::-2]
    many, _, _ = model.answer(pixels, [asked[0]] * 40, "sampling", seed=3)
    assert (
        many[0] == points[0] and len(set(map(tuple, many))) > 20
    )  # a keypoint asked again is drawn again


@torch.inference_mode()
@pytest.mark.parametrize(
    "decoding, at_once", [("sampling", 128), ("top-3", 7), ("greedy", 7), ("contrastive", 128)]
)
def test_repeated_keypoints_equal_a_plain_loop(model, model3, monkeypatch, decoding, at_once):
    """In any order; a keypoint's random numbers go on from one of its answers to the next."""
    monkeypatch.setattr(passes, "ANSWERS_IN_PASS", at_once)
    many = 2 if decoding == "contrastive" else QUESTIONS_IN_PASS + 2
    for each, n in ((model, many), (model3, 3)):
        several, pixels = keypoints(n, seed=4), photos(1, seed=4)[0]
        asked = several + random.Random(0).choices(several[:3], k=min(2 * n, 12))
        random.Random(1).shuffle(asked)
        draws = {k: uniform(7, k) for k in asked}
        points, probabilities, _ = each.answer(pixels, asked, decoding, seed=7)
        expected = [
            locate(each, pixels, k, naive_choice(each, pixels, decoding, draws[k])) for k in asked
        ]
        assert points == [point for point, _ in expected]
        np.testing.assert_allclose(probabilities, [p for _, p in expected], rtol=1e-3)
        assert (len(set(map(tuple, points))) > n) == (decoding in ("sampling", "top-3"))


@torch.inference_mode()
@pytest.mark.parametrize("decoding", ["greedy", "sampling"])
def test_repeated_keypoints_read_every_prefix_once(model, decoding):
    several, pixels, fed = keypoints(3), photos(1)[0], []
    asked = several[:2] * 30 + several
    hook = model.llm.register_forward_pre_hook(
        lambda module, inputs: fed.append(inputs[0].shape[1])
    )
    points, _, _ = model.answer(pixels, asked, decoding)
    hook.remove()
    codes = [f"{1000 * x:03.0f}{1000 * y:03.0f}" for x, y in points]
    prefixes = []
    for n in range(1, 6):
        prefixes.append(len({(k, code[:n]) for k, code in zip(asked, codes, strict=True)}))
    questions = [data.write_question(model.tokenizer, k) + model.codec.open for k in several]
    beginnings = 2 * len(os.path.commonprefix(questions))  # of three questions, read once
    assert (
        sum(fed)
        == 1
        + 4
        + sum(map(len, questions))
        - beginnings
        + sum(prefixes)
        + len(model.codec.comma) * prefixes[2]
    )
    assert (prefixes == [3] * 5) == (decoding == "greedy")


@pytest.mark.parametrize("decoding", DECODING)
def test_nothing_is_read_back_before_the_last_digit(model, decoding):
    """A GPU would have to be waited for; the meta device fails when it is read."""
    meta, passes = copy.deepcopy(model).to("meta"), []
    meta.llm.register_forward_pre_hook(lambda module, inputs: passes.append(inputs))
    with pytest.raises(NotImplementedError, match="meta tensor; no data"):
        meta.answer(photos(1)[0].to("meta"), keypoints(5), decoding)
    assert len(passes) == 1 + 6 * (2 if decoding == "contrastive" else 1)


def test_questions_that_are_too_long_are_refused(model):
    """By name, before the language model reads them."""
    long, passes = data.Keypoint("nose", "very " * 3000 + "long"), []
    hook = model.llm.register_forward_pre_hook(lambda *inputs: passes.append(inputs))
    for ask in (
        lambda: model.answer(photos(1)[0], [*keypoints(2), long]),
        lambda: density.compute_density(model, photos(1)[0], long),
    ):
        with pytest.raises(
            ValueError, match="'nose': the image and its question take .* tokens, more than 2048"
        ):
            ask()
    hook.remove()
    assert passes == []


def naive_chain(model, pixels, asked, order, decoding, limit):
    """Each round behind a whole conversation of the earlier ones, written anew.

    A new conversation begins where it would be too long.
    """
    rounds, found = [], {}
    trunk = 1 + len(model.vision(pixels[None])[0])

    def write(rounds):
        return data.write_conversation(model.tokenizer, model.codec, rounds).ids

    for i in order:
        if trunk + len(write([*rounds, (asked[i], (0, 0))])) > limit:
            rounds = []
        choose = naive_choice(model, pixels, decoding, uniform(0, asked[i]))
        found[i] = locate(model, pixels, asked[i], choose, write(rounds))
        rounds.append((asked[i], found[i][0]))
    return [found[i] for i in range(len(asked))], len(rounds) < len(asked)


@torch.inference_mode()
@pytest.mark.parametrize(
    "decoding, cumulative, limit",
    [
        ("greedy", True, 2048),
        ("greedy", "confidence", 2048),
        ("nucleus", "confidence", 2048),
        ("contrastive", True, 300),
        ("greedy", True, 300),
        ("top-3", True, 170),
    ],
)
def test_cumulative_equals_whole_conversations(model, monkeypatch, decoding, cumulative, limit):
    asked, pixels = keypoints(5, seed=2), photos(1, seed=2)[0]
    monkeypatch.setattr(data, "MAX_TOKENS", limit)
    single, confidence, _ = model.answer(pixels, asked, decoding)
    order = (
        np.argsort(confidence, kind="stable")[::-1].tolist()
        if cumulative == "confidence"
        else range(5)
    )
    assert cumulative is True or order != list(range(5))
    expected, cut = naive_chain(model, pixels, asked, order, decoding, limit)
    points, probabilities, _ = model.answer(pixels, asked, decoding, cumulative)
    assert points == [point for point, _ in expected] and cut == (limit < 2048)
    np.testing.assert_allclose(probabilities, [p for _, p in expected], rtol=1e-3)
    assert (points == single) == (limit == 170)  # no room for a second round: single-round answers


@torch.inference_mode()
def test_a_chain_reads_every_token_once(model):
    asked, pixels, fed = keypoints(6), photos(1)[0], []
    hook = model.llm.register_forward_pre_hook(
        lambda module, inputs: fed.append(inputs[0].shape[1])
    )
    points, _, _ = model.answer(pixels, asked, cumulative=True)
    hook.remove()
    rounds = list(zip(asked, points, strict=True))
    ids, *_ = data.write_conversation(model.tokenizer, model.codec, rounds)
    # Nothing follows the last digit: no bracket, no end of text.
    end = 1 + len(model.codec.close) + 1
    assert sum(fed) == 1 + 4 + len(ids) - end


def test_unknown_ways_to_answer_are_refused(model):
    with pytest.raises(
        ValueError, match="decoding 'beam' is not known: choose one of greedy, sampling,"
    ):
        model.answer(photos(1)[0], keypoints(1), "beam")
    with pytest.raises(
        ValueError, match="cumulative is 'surest', expected False, True or 'confidence'"
    ):
        model.answer(photos(1)[0], keypoints(1), cumulative="surest")


@torch.inference_mode()
@pytest.mark.parametrize("side", [14, 42, 84])
def test_images_of_another_size_than_trained_with(model, side, monkeypatch):
    image, asked = photo(), keypoints(5)
    monkeypatch.setattr(model.config, "image_size", side)
    affine = data.make_affine((0, 0, 90, 70), side)
    pixels = data.cut_crop(image, affine, side)
    points, probabilities, _ = model.answer(pixels, asked)
    expected = [locate(model, pixels, k) for k in asked]
    assert points == [point for point, _ in expected]
    np.testing.assert_allclose(probabilities, [p for _, p in expected], rtol=1e-3)
    found = [p[:2] for p in model.locate(image, asked)]
    np.testing.assert_allclose(found, data.map_to_image(points, affine, side), atol=1e-4)


def test_image_sizes_that_the_patch_does_not_divide(model):
    with pytest.raises(ValueError, match="30"):
        model.answer(torch.zeros(3, 30, 30), keypoints(1))


@torch.inference_mode()
def test_the_density_holds_the_answers_probability(model):
    """Greedy answers and 160 drawn ones fall where it says, in the box that `locate` looks at."""
    image, box, (keypoint,) = photo(), (10, 20, 40, 31), keypoints(1)
    found, pixels = model.density(image, keypoint, box), model.look(image, box)[0]
    ((x, y),), (probability,), _ = model.answer(pixels, [keypoint])
    assert float(found.p[round(1000 * x), round(1000 * y)]) == pytest.approx(probability, rel=1e-3)
    drawn = (
        (1000 * torch.tensor(model.answer(pixels, [keypoint] * 160, "sampling")[0])).round().long()
    )
    for q in (0.3, 0.7):
        inside = density.find_region(found.p, q)
        mass = float(found.p[inside].sum())
        assert (
            abs(float(inside[drawn[:, 0], drawn[:, 1]].double().mean()) - mass)
            < 4 * (mass * (1 - mass) / 160) ** 0.5 + found.spread
        )


@torch.inference_mode()
def test_the_thousand_codes_share_one_probability(model):
    """All codes of x, then all of y behind the x answered, by plain sequences: each sums to 1."""
    pixels, (keypoint,) = photos(1)[0], keypoints(1)
    ((x, y),), (probability,), _ = model.answer(pixels, [keypoint])
    codes = torch.tensor([[n // 100, n // 10 % 10, n % 10] for n in range(1000)])
    digits = torch.tensor(model.tokenizer.digit_ids)
    ids, shares = (
        data.write_question(model.tokenizer, keypoint) + model.tokenizer.encode_continuation("[0."),
        [],
    )
    for answered in (x, y):
        start = embed_sequence(model, pixels, ids).expand(1000, -1, -1)
        Z = model.llm(torch.cat([start, model.llm.embed(digits[codes[:, :2]])], 1))[:, -3:]
        log_p = model.llm.logits(Z)[..., digits].log_softmax(-1).gather(2, codes[..., None])[..., 0]
        p = log_p.sum(1).exp()
        assert float(p.sum()) == pytest.approx(1, abs=1e-4)
        shares.append(float(p[round(answered * 1000)]))
        ids = ids + [model.tokenizer.digit_ids[int(d)] for d in f"{round(answered * 1000):03}"]
        ids = ids + model.tokenizer.encode_continuation(",0.")
    assert probability == pytest.approx(shares[0] * shares[1], rel=1e-3)
