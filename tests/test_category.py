"""study/category.py: what the model says the object is, against a search without a cache."""

import pytest
import torch

import data
from helpers import photos
from study.category import MAX_TOKENS, name_category

KEYPOINTS = [data.Keypoint("nose", "The tip."), data.Keypoint("tail", "")]
QUESTION = "USER: What do you think is the central object in this image? ASSISTANT:"
KNOWN = "The object that this image is trying to express seems to be a"


@pytest.fixture
def steps(model):
    model.config.instruction = "steps"
    yield model
    model.config.instruction = "base"


def write_slowly(model, V, ids, end):
    """Token after token, each with a whole pass; `end` stops it."""
    found = []
    while len(found) < MAX_TOKENS:
        x = model.sequence(V, torch.tensor([ids + found]))
        token = int(model(x)[0, -1].argmax())
        if token == end:
            break
        found.append(token)
    return found


@torch.inference_mode()
def test_the_name_is_greedy_text_up_to_its_end(steps, monkeypatch):
    tokenizer = steps.tokenizer
    ids = tokenizer.encode(QUESTION) + tokenizer.encode_continuation(" " + KNOWN)
    seen = set()
    for seed in range(12):
        V = steps.image_tokens(photos(1, seed=seed))
        free = write_slowly(steps, V, ids, end=None)
        assert len(free) == MAX_TOKENS
        # Let the third token be the end: random weights hardly ever write it.
        for end in (free[2], tokenizer.eos_id):
            monkeypatch.setattr(tokenizer, "eos_id", end)
            monkeypatch.setattr(steps.codec, "eos_id", end)
            expected = tokenizer.decode(write_slowly(steps, V, ids, end)).strip().rstrip(".")
            assert name_category(steps, V, KEYPOINTS) == (expected or "object")
            monkeypatch.undo()
        seen.add(tuple(free))
    # It looks at the image.
    assert len(seen) > 1


@torch.inference_mode()
def test_the_answer_stands_in_the_opening(steps):
    """Questions follow the opening with the model's own name, or with the one that is given."""
    (image,) = photos(1)
    V = steps.image_tokens(image[None])
    own = name_category(steps, V, KEYPOINTS)
    for given, category in ((None, own), ("red panda", "red panda")):
        trunk, _ = steps.prepare_questions(V[0], KEYPOINTS, given)
        text = f" {KNOWN} {category.replace('_', ' ')}."
        opening = steps.tokenizer.encode(QUESTION) + steps.tokenizer.encode_continuation(text)
        ids = torch.tensor([opening + [steps.tokenizer.eos_id]])
        torch.testing.assert_close(trunk, steps.sequence(V, ids)[0])


def test_other_instructions_name_nothing(model):
    V = model.image_tokens(photos(1))
    assert name_category(model, V, KEYPOINTS) == "object"
    model.config.instruction = "outline"
    assert name_category(model, V, KEYPOINTS) == "object"
    model.config.instruction = "base"
