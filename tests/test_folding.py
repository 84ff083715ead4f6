"""scripts/folding.py: what bf16 takes of an update, where it is known."""

import pytest
import torch

from lora import add_lora
from scripts.folding import compare, measure_loss


@pytest.mark.parametrize(
    "update, lost",
    [
        # bf16 has 8 bits: next to 1 the steps are 1/128 up and half of that is the last to vanish.
        (1 / 128, 0.0),
        (1 / 512, 1.0),
        # 1.25 steps become one: a fifth is lost.
        (1.25 / 128, 0.2),
    ],
)
def test_what_rounding_takes(update, lost):
    model = torch.nn.ModuleDict({"query": torch.nn.Linear(4, 4, dtype=torch.bfloat16)})
    torch.nn.init.ones_(model["query"].weight.data)
    add_lora(model, ["query"], rank=1, alpha=1)
    torch.nn.init.ones_(model["query"].lora_A.data)
    torch.nn.init.constant_(model["query"].lora_B.data, update)
    assert measure_loss(model) == pytest.approx(lost, abs=1e-6)


def test_answers_are_compared_with_those_in_fp32():
    exact = [[0.1, 0.2], [0.5, 0.5]], [1.0, 0.5]
    other = [[0.1, 0.2], [0.53, 0.54]], [1.0, 0.0]
    same, changed = compare({"fp32": exact, "bf16, folded": other})
    assert same == {"weights": "fp32", "equal": 100.0, "distance": 0.0, "PCK@0.20": 75.0}
    assert changed == {
        "weights": "bf16, folded", "equal": 50.0, "distance": 2.5, "PCK@0.20": 50.0
    }
