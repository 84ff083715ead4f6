"""Digits in bf16, as on a GPU: hidden states are rounded, what decides between digits is not."""

import pytest
import torch

import data
import decode
from capellm import CapeLLM
from drawings.scene import draw_category
from llama import Config, Llama
from support.descriptions import DESCRIPTIONS
from support.files import ROOT


def make_llama(tied=False):
    torch.manual_seed(0)
    return Llama(Config(50, 16, 24, 1, 2, 1, tie_word_embeddings=tied))


@pytest.mark.parametrize("tied", [False, True])
def test_a_few_rows_of_the_head_are_multiplied_in_fp32(tied):
    """Also where autocast would round."""
    model = make_llama(tied).to(torch.bfloat16)
    head = model.model.embed_tokens.weight if tied else model.lm_head.weight
    hidden, ids = torch.randn(3, 16, dtype=torch.bfloat16), torch.tensor([4, 1, 7])
    exact = hidden.double() @ head[ids].double().T
    with torch.autocast("cpu", torch.bfloat16):
        found = model.logits(hidden, ids)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=1e-6)


def test_in_fp32_a_few_rows_give_what_the_whole_head_gives():
    model, hidden, ids = make_llama(), torch.randn(3, 16), torch.tensor([4, 1, 7])
    torch.testing.assert_close(model.logits(hidden, ids), model.logits(hidden)[:, ids])


class Counter:
    """Counts the digits that are chosen, and those of them that tie with another."""

    def __init__(self):
        self.digits, self.ties = 0, 0
        self.draw_digits = decode.draw_digits

    def __call__(self, log_p, decoding, u):
        first, second = log_p.topk(2).values.T
        self.digits += len(log_p)
        self.ties += int((first == second).sum())
        return self.draw_digits(log_p, decoding, u)


def answer_drawings(dtype):
    """nano's answers about five drawings, 8 keypoints of each."""
    model, found = CapeLLM.from_pretrained(ROOT / "nano", dtype), []
    for category in data.read_mp100()["categories"][:40:8]:
        keypoints = data.read_descriptions(DESCRIPTIONS / f"{category['definition']}.txt")[:8]
        image, _, box = draw_category(category, 1, 0)
        pixels, _ = model.look(image, tuple(box))
        answers = model.answer(pixels, keypoints, category=category["name"])
        found += answers.coordinates
    return found


def test_bf16_decides_on_digits_without_ties(monkeypatch):
    """With logits in bf16 a third of the decisions were ties, and three in four answers changed."""
    counter = Counter()
    monkeypatch.setattr(decode, "draw_digits", counter)
    found, expected = answer_drawings(torch.bfloat16), answer_drawings(torch.float32)
    assert counter.digits >= 2 * 6 * 30
    assert counter.ties == 0
    same = sum(a == b for a, b in zip(found, expected, strict=True))
    assert same >= 0.7 * len(expected)
