"""capellm.py against the same model run naively: one plain causal sequence a question, computed again for every token."""
import copy
import json
import os
import random
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file

import capellm
import data
from study import density
from support import checkpoints
from capellm import BRANCHES, DECODING, CapeLLM
from dino import DINOv2, DINOv2Config
from llama import Config, Llama
from support.tokenizer import Tokenizer

LLAMA3 = Path(find_spec("llama_models").origin).parent / "llama3/tokenizer.model"
WORDS = "left right upper lower front rear inner outer tip base eye ear knee wheel corner of the near above middle".split()


def randomise(model, seed=0):
    """Weights large enough that the logits, and so greedy choices, differ clearly; no adapter is zero."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 2:
                p.normal_(std=p.shape[1] ** -0.5 * (1.5 if "lora_" not in name else 0.7))
        model.llm.model.embed_tokens.weight.normal_()
    return model


@pytest.fixture(scope="module")
def model(model_folder):
    model = randomise(CapeLLM.from_pretrained(model_folder, merge=False))
    for name in model.adapter():
        model.get_parameter(name).requires_grad_(True)
    return model


@pytest.fixture(scope="module")
def model3():
    """A tiny model on the published Llama 3 vocabulary, which has a token for every three digits: K = 1."""
    vision = DINOv2(DINOv2Config(16, 1, 2, image_size=28))
    llm = Llama(Config(vocab_size=128256, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2))
    return randomise(CapeLLM(vision, llm, Tokenizer(LLAMA3), image_size=28, K=1)).eval()


def keypoints(n, seed=0):
    rng = np.random.default_rng(seed)
    return [data.Keypoint(f"{' '.join(rng.choice(WORDS, 3))} {i}", " ".join(rng.choice(WORDS, rng.integers(0, 12)))) for i in range(n)]


def photos(n, seed=0):
    return torch.randn(n, 3, 28, 28, generator=torch.Generator().manual_seed(seed))


def conversations(model, sizes, seed=0):
    """A (ids, labels) of each size in rounds."""
    rng, names = np.random.default_rng(seed), iter(keypoints(sum(sizes), seed))
    return [data.write_conversation(model.tokenizer, model.codec, [(next(names), rng.uniform(0, 0.999, 2)) for _ in range(n)]) for n in sizes]


def sequence(model, pixels, ids):
    """[BOS; V; T] of one image, embedded (1, 1 + N + T, D): Equations 1 to 3 by hand."""
    F_v = model.vision(pixels[None])[0]                                                             # Eq. 1
    V = F_v @ model.projection.weight.T                                                             # Eq. 2
    E = model.llm.model.embed_tokens.weight
    return torch.cat([E[[model.tokenizer.bos_id]], V, E[ids]])[None]


def cross_entropy(model, pixels, conversation):
    """Sum of the answer tokens' cross-entropies and their number, from the full (T, vocab) logits."""
    ids, labels = conversation
    Y = model.llm.logits(model.llm(sequence(model, pixels, ids)))[0]
    trunk = len(Y) - len(ids)
    targets = [(trunk + i - 1, t) for i, t in enumerate(labels) if t != data.IGNORE]
    return sum(-Y[i].log_softmax(-1)[t] for i, t in targets), len(targets)


# Equations 1 to 5

@torch.inference_mode()
def test_hidden_is_the_plain_chain(model):
    (ids, _), = conversations(model, [3])
    Z, (image, position) = model.hidden(photos(1), [[ids]])
    expected = model.llm(sequence(model, photos(1)[0], ids))
    torch.testing.assert_close(Z, expected, atol=1e-5, rtol=0)
    assert image.tolist() == [0] * len(ids) and position.tolist() == list(range(expected.shape[1] - len(ids), expected.shape[1]))


@torch.inference_mode()
@pytest.mark.parametrize("rounds", [[[1], [3], [2]], [[1, 2, 3], [1]], [[2, 1], [1, 1, 1, 1], [4]]])
def test_branches_and_batches_equal_each_alone(model, rounds):
    """A branch sees its image and itself; padding and neighbours change nothing. The same with the features given, and with `tap`."""
    pixels = photos(len(rounds))
    branches = [[ids for ids, _ in conversations(model, sizes, seed)] for seed, sizes in enumerate(rounds)]
    (Z, tapped), (image, position) = model.hidden(pixels, branches, tap=0)
    again, _ = model.hidden(None, branches, features=model.vision(pixels))
    found, found_tapped = Z[image, position], tapped[image, position]
    torch.testing.assert_close(again[image, position], found, atol=1e-5, rtol=0)
    expected, expected_tapped = [], []
    for i, branch in enumerate(branches):
        for ids in branch:
            h, t = model.llm(sequence(model, pixels[i], ids), tap=0)
            expected.append(h[0, -len(ids):])
            expected_tapped.append(t[0, -len(ids):])
    torch.testing.assert_close(found, torch.cat(expected), atol=2e-5, rtol=0)
    torch.testing.assert_close(found_tapped, torch.cat(expected_tapped), atol=2e-5, rtol=0)
    assert image.tolist() == [i for i, b in enumerate(branches) for ids in b for _ in ids]


@pytest.mark.parametrize("rounds", [[[1]], [[4], [2]], [[1, 2, 3], [1]]])
def test_loss_and_gradients_equal_the_naive_ones(model, rounds):
    pixels = photos(len(rounds), seed=3)
    branches = [conversations(model, sizes, seed) for seed, sizes in enumerate(rounds)]
    tuned = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert {n.rpartition(".")[2] for n in tuned} == {"lora_A", "lora_B", "weight"} and "projection.weight" in tuned
    loss, digits = model.loss(pixels, branches)
    gradients = torch.autograd.grad(loss, list(tuned.values()))
    sums = [[cross_entropy(model, pixels[i], c) for c in b] for i, b in enumerate(branches)]
    mean = lambda pairs: sum(s / n for s, n in pairs) / len(pairs)       # conversations weigh the same
    expected = mean([s for b in sums for s in b])
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    only = [cross_entropy(model, pixels[i], (ids, [t if t in model.codec.ids else data.IGNORE for t in labels]))
            for i, b in enumerate(branches) for ids, labels in b]
    torch.testing.assert_close(digits, mean(only).detach(), atol=1e-5, rtol=1e-5)
    for name, ours, theirs in zip(tuned, gradients, torch.autograd.grad(expected, list(tuned.values()))):
        assert theirs.abs().max() > 0, name
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-3, msg=name)


def test_an_image_shared_changes_no_gradient(model):
    """Conversations as branches off one image, or each beside an image of its own: the same loss and gradients."""
    pixels, branches = photos(2, seed=5), [conversations(model, sizes, seed) for seed, sizes in enumerate([[4, 1, 2], [3, 4]])]
    tuned = [p for p in model.parameters() if p.requires_grad]
    alone = pixels[[0, 0, 0, 1, 1]], [[c] for b in branches for c in b]
    (loss, digits), (expected, digits_alone) = model.loss(pixels, branches), model.loss(*alone)
    torch.testing.assert_close(torch.stack([loss, digits]), torch.stack([expected, digits_alone]), atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(*(torch.autograd.grad(value, tuned) for value in (loss, expected))):
        torch.testing.assert_close(ours, theirs, atol=1e-5 * float(theirs.abs().max()), rtol=1e-4)


def test_a_loss_of_answers_only(model):
    """13 tokens a round with K = 3 digits a coordinate: [0. ddd ,0. ddd ] end, however the brackets are cut."""
    (ids, labels), = conversations(model, [2])
    answer = len(model.codec.encode(0, 0))
    assert sum(t != data.IGNORE for t in labels) == 2 * answer
    with torch.no_grad():                                                # the words of the question carry no loss of their own
        full = F.cross_entropy(model.llm.logits(model.llm(sequence(model, photos(1)[0], ids)))[0, -len(ids) - 1:-1], torch.tensor(ids))
        assert abs(full - model.loss(photos(1), [[(ids, labels)]])[0]) > 0.01


# Decoding

def naive_answer(model, pixels, keypoint, choose=lambda ids, p: int(p.argmax()), before=()):
    """Digit by digit behind the conversation `before`, the whole sequence computed again for each: (x, y), probability.
    choose: token ids so far and p of the digits -> one of them; by default greedy."""
    tokenizer, K = model.tokenizer, model.codec.K
    digits = tokenizer.digit3_ids if K == 1 else tokenizer.digit_ids
    ids, probability, values = [*before, *data.write_question(tokenizer, keypoint)], 1.0, []
    for opening in ("[0.", ",0."):
        ids, text = ids + tokenizer.encode_continuation(opening), ""
        for _ in range(K):
            Y = model.llm.logits(model.llm(sequence(model, pixels, ids)))[0, -1]
            p = Y[digits].softmax(0)
            chosen = choose(ids, p)
            probability *= float(p[chosen])
            ids = ids + [digits[chosen]]
            text += f"{chosen:03}" if K == 1 else f"{chosen}"
        values.append(float("0." + text))
    return values, probability


@torch.inference_mode()
@pytest.mark.parametrize("n", [1, 5, 17, 40])
def test_answers_equal_the_naive_decoder(model, n):
    assert n <= BRANCHES or n % BRANCHES                                 # a last pass that is not full
    asked, pixels = keypoints(n, seed=n), photos(1, seed=n)[0]
    points, probabilities = model.answer(pixels, asked)
    expected = [naive_answer(model, pixels, k) for k in asked]
    assert points == [point for point, _ in expected]
    np.testing.assert_allclose(probabilities, [p for _, p in expected], rtol=1e-3)
    assert n < 17 or len({tuple(point) for point in points}) > n / 4     # the answers differ, so a mix-up would show


@torch.inference_mode()
@pytest.mark.parametrize("n", [3, 18])
def test_one_token_a_coordinate_equals_the_naive_decoder(model3, n):
    asked, pixels = keypoints(n, seed=n), photos(1)[0]
    points, probabilities = model3.answer(pixels, asked)
    expected = [naive_answer(model3, pixels, k) for k in asked]
    assert points == [point for point, _ in expected]
    np.testing.assert_allclose(probabilities, [p for _, p in expected], rtol=1e-3)


@torch.inference_mode()
def test_answers_do_not_depend_on_their_neighbours(model):
    asked, pixels = keypoints(BRANCHES + 3), photos(1)[0]
    points, probabilities = model.answer(pixels, asked)
    backwards, p = model.answer(pixels, asked[::-1])
    assert backwards[::-1] == points
    np.testing.assert_allclose(p[::-1], probabilities, rtol=1e-3)
    other, _ = model.answer(photos(1, seed=9)[0], asked)
    assert other != points                                               # it looks at the image


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

    def contrastive(ids, p):                                             # Su et al. 2022, Equation 5, candidate by candidate
        digits, scores = model.codec.ids, {}
        for v in p.topk(5).indices.tolist():
            *context, h = model.llm(sequence(model, pixels, [*ids, digits[v]]))[0]
            scores[v] = 0.4 * float(p[v]) - 0.6 * max(float(F.cosine_similarity(h, c, dim=0)) for c in context)
        return max(scores, key=scores.get)
    return contrastive if decoding == "contrastive" else draw


def uniform(seed, keypoint):
    """The numbers that a keypoint's digits are drawn with."""
    rng = random.Random(f"{seed} {keypoint.name}: {keypoint.description}")
    return iter(rng.random, None)


@torch.inference_mode()
@pytest.mark.parametrize("decoding", DECODING)
def test_every_decoding_equals_a_plain_loop(model, model3, decoding):
    n = 4 if decoding == "contrastive" else BRANCHES + 2
    for each, n in ((model, n), (model3, 3)):
        asked, pixels = keypoints(n, seed=4), photos(1, seed=4)[0]
        points, probabilities = each.answer(pixels, asked, decoding, seed=7)
        expected = [naive_answer(each, pixels, k, naive_choice(each, pixels, decoding, uniform(7, k))) for k in asked]
        assert points == [point for point, _ in expected]
        np.testing.assert_allclose(probabilities, [p for _, p in expected], rtol=1e-3)
        assert (points == each.answer(pixels, asked)[0]) == (decoding == "greedy")


@torch.inference_mode()
def test_draws_depend_on_the_seed_and_the_words_not_on_the_neighbours(model):
    asked, pixels = keypoints(BRANCHES + 5), photos(1)[0]
    points, _ = model.answer(pixels, asked, "sampling", seed=3)
    assert model.answer(pixels, asked, "sampling", seed=3)[0] == points != model.answer(pixels, asked, "sampling", seed=4)[0]
    assert model.answer(pixels, asked[::-2], "sampling", seed=3)[0] == points[::-2]
    many, _ = model.answer(pixels, [asked[0]] * 40, "sampling", seed=3)
    assert many[0] == points[0] and len(set(map(tuple, many))) > 20      # a keypoint asked again is drawn again


@torch.inference_mode()
@pytest.mark.parametrize("decoding, at_once", [("sampling", 128), ("top-3", 7), ("greedy", 7), ("contrastive", 128)])
def test_repeated_keypoints_equal_a_plain_loop(model, model3, monkeypatch, decoding, at_once):
    """In any order; the numbers that a keypoint draws with go on from one of its answers to the next."""
    monkeypatch.setattr(capellm, "ANSWERS", at_once)
    for each, n in ((model, 2 if decoding == "contrastive" else BRANCHES + 2), (model3, 3)):
        several, pixels = keypoints(n, seed=4), photos(1, seed=4)[0]
        asked = several + random.Random(0).choices(several[:3], k=min(2 * n, 12))
        random.Random(1).shuffle(asked)
        draws = {k: uniform(7, k) for k in asked}
        points, probabilities = each.answer(pixels, asked, decoding, seed=7)
        expected = [naive_answer(each, pixels, k, naive_choice(each, pixels, decoding, draws[k])) for k in asked]
        assert points == [point for point, _ in expected]
        np.testing.assert_allclose(probabilities, [p for _, p in expected], rtol=1e-3)
        assert (len(set(map(tuple, points))) > n) == (decoding in ("sampling", "top-3"))


@torch.inference_mode()
@pytest.mark.parametrize("decoding", ["greedy", "sampling"])
def test_repeated_keypoints_read_every_prefix_once(model, decoding):
    several, pixels, fed = keypoints(3), photos(1)[0], []
    asked = several[:2] * 30 + several
    hook = model.llm.register_forward_pre_hook(lambda module, inputs: fed.append(inputs[0].shape[1]))
    points, _ = model.answer(pixels, asked, decoding)
    hook.remove()
    codes = [f"{1000 * x:03.0f}{1000 * y:03.0f}" for x, y in points]
    prefixes = [len({(k, code[:n]) for k, code in zip(asked, codes)}) for n in range(1, 6)]
    questions = [data.write_question(model.tokenizer, k) + model.codec.open for k in several]
    beginnings = 2 * len(os.path.commonprefix(questions))                # of three questions, read once
    assert sum(fed) == 1 + 4 + sum(map(len, questions)) - beginnings + sum(prefixes) + len(model.codec.comma) * prefixes[2]
    assert (prefixes == [3] * 5) == (decoding == "greedy")


@pytest.mark.parametrize("decoding", DECODING)
def test_nothing_is_read_back_before_the_last_digit(model, decoding):
    """A GPU would have to be waited for. The meta device has no numbers to read: all passes come before it says so."""
    meta, passes = copy.deepcopy(model).to("meta"), []
    meta.llm.register_forward_pre_hook(lambda module, inputs: passes.append(inputs))
    with pytest.raises(NotImplementedError, match="meta tensor; no data"):
        meta.answer(photos(1)[0].to("meta"), keypoints(5), decoding)
    assert len(passes) == 1 + 6 * (2 if decoding == "contrastive" else 1)


def test_questions_that_are_too_long_are_refused(model):
    """By name, before the language model reads them."""
    long, passes = data.Keypoint("nose", "very " * 3000 + "long"), []
    hook = model.llm.register_forward_pre_hook(lambda *inputs: passes.append(inputs))
    for ask in (lambda: model.answer(photos(1)[0], [*keypoints(2), long]), lambda: density.compute_density(model, photos(1)[0], long)):
        with pytest.raises(ValueError, match="'nose': the image and its question take .* tokens, more than 2048"):
            ask()
    hook.remove()
    assert passes == []


# Cumulative reasoning (Section 4.3)

def naive_chain(model, pixels, asked, order, decoding, limit):
    """Each round behind a whole conversation of the earlier ones, written anew; a new conversation where it would be too long."""
    rounds, found = [], {}
    for i in order:
        write = lambda rounds: data.write_conversation(model.tokenizer, model.codec, rounds)[0]
        if 1 + len(model.vision(pixels[None])[0]) + len(write([*rounds, (asked[i], (0, 0))])) > limit:
            rounds = []
        choose = naive_choice(model, pixels, decoding, uniform(0, asked[i]))
        found[i] = naive_answer(model, pixels, asked[i], choose, write(rounds))
        rounds.append((asked[i], found[i][0]))
    return [found[i] for i in range(len(asked))], len(rounds) < len(asked)


@torch.inference_mode()
@pytest.mark.parametrize("decoding, cumulative, limit", [
    ("greedy", True, 2048), ("greedy", "confidence", 2048), ("nucleus", "confidence", 2048), ("contrastive", True, 300), ("greedy", True, 300),
    ("top-3", True, 170)])
def test_cumulative_equals_whole_conversations(model, monkeypatch, decoding, cumulative, limit):
    asked, pixels = keypoints(5, seed=2), photos(1, seed=2)[0]
    monkeypatch.setattr(data, "MAX_TOKENS", limit)
    single, confidence = model.answer(pixels, asked, decoding)
    order = np.argsort(confidence, kind="stable")[::-1].tolist() if cumulative == "confidence" else range(5)
    assert cumulative is True or order != list(range(5))
    expected, cut = naive_chain(model, pixels, asked, order, decoding, limit)
    points, probabilities = model.answer(pixels, asked, decoding, cumulative)
    assert points == [point for point, _ in expected] and cut == (limit < 2048)
    np.testing.assert_allclose(probabilities, [p for _, p in expected], rtol=1e-3)
    assert (points == single) == (limit == 170)                          # no room for a second round: single-round answers


@torch.inference_mode()
def test_a_chain_reads_every_token_once(model):
    asked, pixels, fed = keypoints(6), photos(1)[0], []
    hook = model.llm.register_forward_pre_hook(lambda module, inputs: fed.append(inputs[0].shape[1]))
    points, _ = model.answer(pixels, asked, cumulative=True)
    hook.remove()
    ids, _ = data.write_conversation(model.tokenizer, model.codec, list(zip(asked, points)))
    end = 1 + len(model.codec.close) + 1                                 # nothing follows the last digit, bracket and end of text
    assert sum(fed) == 1 + 4 + len(ids) - end


def test_unknown_ways_to_answer_are_refused(model):
    with pytest.raises(ValueError, match="decoding 'beam' is not known: choose one of greedy, sampling,"):
        model.answer(photos(1)[0], keypoints(1), "beam")
    with pytest.raises(ValueError, match="cumulative is 'surest', expected False, True or 'confidence'"):
        model.answer(photos(1)[0], keypoints(1), cumulative="surest")


# Image sizes (Table 8)

@torch.inference_mode()
@pytest.mark.parametrize("side", [14, 42, 84])
def test_images_of_another_size_than_trained_with(model, side, monkeypatch):
    image, asked = photo(), keypoints(5)
    monkeypatch.setattr(model, "image_size", side)
    affine = data.crop_affine((0, 0, 90, 70), side)
    pixels = data.crop(image, affine, side)
    points, probabilities = model.answer(pixels, asked)
    expected = [naive_answer(model, pixels, k) for k in asked]
    assert points == [point for point, _ in expected]
    np.testing.assert_allclose(probabilities, [p for _, p in expected], rtol=1e-3)
    np.testing.assert_allclose([p[:2] for p in model.locate(image, asked)], data.to_image(points, affine, side), atol=1e-4)


def test_image_sizes_that_the_patch_does_not_divide(model):
    with pytest.raises(ValueError, match="30"):
        model.answer(torch.zeros(3, 30, 30), keypoints(1))


# Density

@torch.inference_mode()
def test_the_density_holds_the_answers_probability(model):
    """Of the box that `locate` looks at; greedy answers and 160 drawn ones fall where it says. See test_density.py."""
    image, box, (keypoint,) = photo(), (10, 20, 40, 31), keypoints(1)
    found, pixels = model.density(image, keypoint, box), model.look(image, box)[0]
    ((x, y),), (probability,) = model.answer(pixels, [keypoint])
    assert float(found.p[round(1000 * x), round(1000 * y)]) == pytest.approx(probability, rel=1e-3)
    drawn = (1000 * torch.tensor(model.answer(pixels, [keypoint] * 160, "sampling")[0])).round().long()
    for q in (0.3, 0.7):
        inside = density.region(found.p, q)
        mass = float(found.p[inside].sum())
        assert abs(float(inside[drawn[:, 0], drawn[:, 1]].double().mean()) - mass) < 4 * (mass * (1 - mass) / 160) ** 0.5 + found.spread


@torch.inference_mode()
def test_the_thousand_codes_share_one_probability(model):
    """All codes of x, then all of y behind the x answered, by plain sequences: each sums to 1 and holds the answer's probability."""
    pixels, (keypoint,) = photos(1)[0], keypoints(1)
    ((x, y),), (probability,) = model.answer(pixels, [keypoint])
    codes = torch.tensor([[n // 100, n // 10 % 10, n % 10] for n in range(1000)])
    digits = torch.tensor(model.tokenizer.digit_ids)
    ids, shares = data.write_question(model.tokenizer, keypoint) + model.tokenizer.encode_continuation("[0."), []
    for answered in (x, y):
        start = sequence(model, pixels, ids).expand(1000, -1, -1)
        Z = model.llm(torch.cat([start, model.llm.embed(digits[codes[:, :2]])], 1))[:, -3:]
        log_p = model.llm.logits(Z)[..., digits].log_softmax(-1).gather(2, codes[..., None])[..., 0]
        p = log_p.sum(1).exp()
        assert float(p.sum()) == pytest.approx(1, abs=1e-4)
        shares.append(float(p[round(answered * 1000)]))
        ids = ids + [model.tokenizer.digit_ids[int(d)] for d in f"{round(answered * 1000):03}"]
        ids = ids + model.tokenizer.encode_continuation(",0.")
    assert probability == pytest.approx(shares[0] * shares[1], rel=1e-3)


# Points in the photo

def photo(width=90, height=70, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize("box", [None, (10, 20, 28, 28), (3.5, 8.25, 60, 21), (-10, -5, 40, 90)])
def test_points_lie_in_the_square_around_the_box(model, box):
    image, asked = photo(), keypoints(6)
    points = model.locate(image, asked, box)
    x, y, w, h = box or (0, 0, 90, 70)
    side = max(w, h)
    affine = data.crop_affine((x, y, w, h), 28)
    answered, probabilities = model.answer(data.crop(image, affine, 28), asked)
    for point, (u, v), p in zip(points, answered, probabilities):
        assert point.x == pytest.approx(x + w / 2 + (u - 0.5) * side) and point.y == pytest.approx(y + h / 2 + (v - 0.5) * side)
        assert 0 <= u < 1 and 0 <= v < 1 and 0 < point.probability <= 1 and point.probability == pytest.approx(p, rel=1e-5)


@pytest.mark.parametrize("dx, dy", [(5, 0), (13, 31)])
def test_points_move_with_the_box(model, dx, dy):
    image, asked, box = photo(), keypoints(6), (12, 9, 40, 32)
    wider = Image.new("RGB", (150, 140), "red")
    wider.paste(image, (dx, dy))
    points, moved = model.locate(image, asked, box), model.locate(wider, asked, (box[0] + dx, box[1] + dy, *box[2:]))
    np.testing.assert_allclose(np.array(moved), np.array(points) + [dx, dy, 0], atol=1e-3)


@pytest.mark.parametrize("n", [2, 3])
def test_points_grow_with_the_image(model, n):
    image, asked, box = photo(), keypoints(6), (12, 9, 28, 28)
    large = image.resize((90 * n, 70 * n), Image.Resampling.NEAREST)
    points, grown = model.locate(image, asked, box), model.locate(large, asked, tuple(n * b for b in box))
    np.testing.assert_allclose(np.array(grown), np.array(points) * [n, n, 1], atol=1e-3)


def test_any_mode_of_image(model):
    image, asked = photo().convert("L"), keypoints(2)
    assert model.locate(image, asked) == model.locate(image.convert("RGB"), asked)


# Folders

@pytest.fixture
def folder(model, model_folder, tmp_path):
    """Random adapters as a training run writes them, of the size that suits fresh backbones; these are elsewhere."""
    saved = CapeLLM.from_pretrained(model_folder, merge=False)
    saved.load_state_dict({n: 0.3 * t for n, t in model.state_dict().items() if n in saved.adapter()}, strict=False)
    checkpoints.write(tmp_path / "run", saved.config, saved.adapter(), {"optimiser": {}, "random": torch.zeros(1)})
    return tmp_path / "run"


def test_written_and_read_again_bit_by_bit(folder, model, model_folder, tmp_path):
    again = CapeLLM.from_pretrained(folder, merge=False)
    tuned = {n: 0.3 * t for n, t in model.adapter().items()}
    assert again.adapter().keys() == tuned.keys() and all(torch.equal(t, tuned[n]) for n, t in again.adapter().items())
    plain = CapeLLM.from_pretrained(model_folder, merge=False).state_dict()
    frozen = {n: t for n, t in again.state_dict().items() if n not in tuned}
    assert frozen and all(torch.equal(t, plain[n]) for n, t in frozen.items())
    backbones = {b: str(model_folder / b) for b in ("vision", "llm")}    # a checkpoint finds them wherever it lies
    assert again.config == json.loads((model_folder / "config.json").read_text()) | backbones and not again.training
    checkpoints.write(tmp_path / "again", again.config, again.adapter(), {"optimiser": {}, "random": torch.zeros(1)})
    assert (tmp_path / "again" / "adapter.safetensors").read_bytes() == (folder / "adapter.safetensors").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "run"]          # nothing half-written is left
    (tmp_path / "plain").touch()
    assert {p.stat().st_mode for p in folder.iterdir()} == {(tmp_path / "plain").stat().st_mode}    # colleagues may read it, too


@torch.inference_mode()
def test_merged_equals_unmerged(folder):
    merged, unmerged = CapeLLM.from_pretrained(folder), CapeLLM.from_pretrained(folder, merge=False)
    assert not any("lora_" in n for n, _ in merged.named_parameters())
    lora, weights = unmerged.config["lora"], dict(merged.named_parameters())
    layers = [n.removesuffix(".lora_A") for n in unmerged.adapter() if n.endswith(".lora_A")]
    assert len(layers) == 2 * (2 + 2)                                    # query and value of two layers each
    for layer in layers:
        adapted = unmerged.get_submodule(layer)
        expected = adapted.base.weight.double() + lora["alpha"] / lora["rank"] * adapted.lora_B.double() @ adapted.lora_A.double()
        torch.testing.assert_close(weights[f"{layer}.weight"].double(), expected, atol=1e-5, rtol=0)
    (ids, _), = conversations(merged, [2])
    Z, expected = merged.hidden(photos(1), [[ids]])[0], unmerged.hidden(photos(1), [[ids]])[0]
    torch.testing.assert_close(Z, expected, atol=1e-3, rtol=0)           # its large random weights amplify the last bits
    for name, p in unmerged.named_parameters():
        p.mul_("lora_" not in name)
    assert (unmerged.hidden(photos(1), [[ids]])[0] - expected).abs().max() > 0.1     # without the adapters it is another model


def test_backbones_beside_the_config(folder, model_folder, tmp_path):
    pixels, asked = photos(1)[0], keypoints(2)
    expected = CapeLLM.from_pretrained(folder).answer(pixels, asked)
    for backbone in ("vision", "llm"):
        shutil.copytree(model_folder / backbone, folder / "inside" / backbone)
    configure(folder, vision="inside/vision", llm="inside/llm")
    moved = folder.rename(tmp_path / "moved")
    assert CapeLLM.from_pretrained(moved).answer(pixels, asked) == expected


def edit(folder, change):
    tensors = load_file(folder / "adapter.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter.safetensors")


def configure(folder, **changes):
    (folder / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | changes))


LORA = "llm.model.layers.1.self_attn.v_proj.lora_B"


@pytest.mark.parametrize("damage, kind, message", [
    (lambda f: edit(f, lambda t: t.pop(LORA)), ValueError, f"{LORA} is missing"),
    (lambda f: edit(f, lambda t: t.update(extra=torch.ones(1))), ValueError, "extra is not expected"),
    (lambda f: edit(f, lambda t: t.update({"projection.weight": torch.ones(3, 4)})), ValueError, r"shape of projection.weight is \(3, 4\)"),
    (lambda f: (f / "adapter.safetensors").write_bytes((f / "adapter.safetensors").read_bytes()[:-10]), ValueError, "damaged or cut short"),
    (lambda f: (f / "adapter.safetensors").write_bytes(b""), ValueError, "damaged or cut short"),
    (lambda f: (f / "adapter.safetensors").unlink(), FileNotFoundError, "adapter.safetensors is missing"),
    (lambda f: (f / "config.json").unlink(), FileNotFoundError, "config.json is missing"),
    (lambda f: (f / "config.json").write_text("{"), ValueError, "config.json cannot be read"),
    (lambda f: (f / "config.json").write_text("[]"), ValueError, "config.json cannot be read"),
    (lambda f: (f / "config.json").write_text("{}"), ValueError, "config.json cannot be read"),
    (lambda f: configure(f, llm="nowhere/llm"), FileNotFoundError, "nowhere/llm/config.json not found"),
])
def test_folders_that_are_refused(folder, damage, kind, message):
    damage(folder)
    with pytest.raises(kind, match=message) as error:
        CapeLLM.from_pretrained(folder)
    assert "\n" not in str(error.value)


def test_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in ("nowhere", "file"):
        with pytest.raises(FileNotFoundError, match=f"{folder} is no model folder"):
            CapeLLM.from_pretrained(tmp_path / folder)


def test_three_digit_tokens_need_such_a_vocabulary(folder):
    configure(folder, K=1)
    with pytest.raises(ValueError, match="K = 1 tokens with this tokenizer; use K = 3"):
        CapeLLM.from_pretrained(folder)


def test_a_new_projection_keeps_the_features_size(model_folder):
    """Assembled from backbones, W_proj is random: variance-preserving, so that V is neither nothing nor everything."""
    torch.manual_seed(0)
    new = CapeLLM.assemble(model_folder / "vision", model_folder / "llm", 28, lora={"rank": 4, "alpha": 8, "dropout": 0.0, "parts": ["vision", "llm"]})
    features = torch.randn(1000, new.projection.in_features)
    assert float(new.projection(features).detach().std()) == pytest.approx(1, rel=0.1)
    assert all(bool((t == 0).all()) == n.endswith("lora_B") for n, t in new.adapter().items())


@pytest.mark.parametrize("instruction", ["list", "steps", "names", "replaced", "diverse"])
def test_answers_follow_the_models_instruction(model_folder, instruction):
    """Greedy digits behind the conversation that training would show, one full pass a digit; all keypoints share the opening."""
    model = CapeLLM.from_pretrained(model_folder)
    model.instruction = instruction
    pixels = torch.randn(3, 28, 28)
    listed = [data.Keypoint("nose", "The tip."), data.Keypoint("tail", "The end."), data.Keypoint("ear", "")]
    asked = [listed[2], listed[0]]
    coordinates, probability = model.answer(pixels, asked, category="grey_cat", listed=listed)
    for keypoint, found, p in zip(asked, coordinates, probability):
        ids, _ = data.write_conversation(model.tokenizer, model.codec, [(keypoint, found)], instruction, "grey_cat", listed)
        with torch.no_grad():
            Z, _ = model.hidden(pixels[None], [[ids]])
            log_p = model.llm.logits(Z[0], torch.tensor(model.codec.ids)).log_softmax(-1)
        x = len(ids) - len(model.codec.encode(0, 0)) + len(model.codec.open)
        places = [i + n for i in (x, x + 3 + len(model.codec.comma)) for n in range(3)]
        best = log_p[[5 + i - 1 for i in places]].max(-1)           # behind a trunk of 1 + 4 tokens
        assert [model.codec.ids[d] for d in best.indices] == [ids[i] for i in places]
        assert best.values.sum().exp().item() == pytest.approx(p, rel=1e-4)
