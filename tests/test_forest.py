"""Images that are answered together get the answers of images alone, whatever else is asked."""

import random

import numpy as np
import pytest

import data
from capellm import CapeLLM
from helpers import keypoints, photos, randomise
from study.digits import DECODING
from support import passes
from support.passes import Asked


@pytest.fixture(scope="module")
def wide_model(model_folder):
    """In float64: in fp32 a tie between digits may fall either way, as other sums are rounded."""
    return randomise(CapeLLM.from_pretrained(model_folder)).double().eval()


def draw_images(rng, most=9):
    """Images with questions of their own: some again, some of other images, some categories."""
    images = []
    several = keypoints(4, seed=rng.randrange(99))
    for pixels in photos(rng.randint(2, 6), seed=rng.randrange(99)).double():
        asked = keypoints(rng.randint(1, most), seed=rng.randrange(99)) + rng.sample(several, 2)
        asked += rng.choices(asked, k=rng.choice([0, 0, 3]))
        rng.shuffle(asked)
        category = rng.choice([None, "cat", "a very long name of an animal"])
        images.append(Asked(pixels, asked, rng.randrange(9), category, rng.choice([None, several])))
    return images


def compare(model, images, decoding, cumulative):
    """Answers together and alone are the same, to rounding in their probabilities."""
    together = model.answer_together(images, decoding, cumulative)
    for image, found in zip(images, together, strict=True):
        pixels, asked, seed, category, listed = image
        alone = model.answer(pixels, asked, decoding, cumulative, seed, category, listed)
        assert found.coordinates == alone.coordinates
        np.testing.assert_allclose(found.probabilities, alone.probabilities, rtol=1e-5)


@pytest.mark.parametrize("cumulative", [False, True, "confidence"])
@pytest.mark.parametrize("decoding", DECODING)
def test_together_as_alone(wide_model, monkeypatch, decoding, cumulative):
    """With trunks of other lengths, and chains that begin anew, each at a place of its own."""
    rng = random.Random(f"{decoding} {cumulative}")
    for instruction, limit in (("base", 2048), ("base", 400), ("list", 700)):
        monkeypatch.setattr(wide_model.config, "instruction", instruction)
        monkeypatch.setattr(data, "MAX_TOKENS", limit)
        images = draw_images(rng, most=9 if decoding != "contrastive" else 4)
        compare(wide_model, images, decoding, cumulative)


@pytest.mark.parametrize("cumulative", [False, True])
def test_together_as_alone_where_the_model_names_the_object(wide_model, monkeypatch, cumulative):
    monkeypatch.setattr(wide_model.config, "instruction", "steps")
    compare(wide_model, draw_images(random.Random(3)), "greedy", cumulative)


@pytest.mark.parametrize("cumulative", [False, True, "confidence"])
def test_together_as_alone_in_several_passes(wide_model, monkeypatch, cumulative):
    """More questions, or more answers, than a pass decides on; of each image another number."""
    monkeypatch.setattr(passes, "QUESTIONS_IN_PASS", 3)
    monkeypatch.setattr(passes, "ANSWERS_IN_PASS", 5)
    compare(wide_model, draw_images(random.Random(5)), "sampling", cumulative)


@pytest.mark.parametrize("cumulative", [False, True])
def test_one_token_a_coordinate_together(model3, cumulative):
    images = [Asked(p, keypoints(n, seed=n)) for n, p in zip((3, 1, 4), photos(3), strict=True)]
    compare(model3, images, "top-3", cumulative)


def count_passes(model, ask):
    counted = []
    hook = model.llm.register_forward_pre_hook(lambda *inputs: counted.append(inputs))
    ask()
    hook.remove()
    return len(counted)


@pytest.mark.parametrize("cumulative", [False, True])
def test_a_pass_serves_all_images(wide_model, cumulative):
    """Together they take the passes of the one with the most questions."""
    images = draw_images(random.Random(7))
    together = count_passes(
        wide_model, lambda: wide_model.answer_together(images, cumulative=cumulative)
    )
    alone = []
    for i in images:
        alone.append(count_passes(
            wide_model, lambda i=i: wide_model.answer(*i[:2], cumulative=cumulative)
        ))
    assert together == max(alone)


@pytest.mark.parametrize("cumulative", [False, True])
def test_an_image_without_questions_among_others(wide_model, cumulative):
    images = draw_images(random.Random(1))
    images[1] = images[1]._replace(keypoints=[], listed=None)
    compare(wide_model, images, "greedy", cumulative)
