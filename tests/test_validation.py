"""study/validation.py: a model in training answers, to the digit, as eval.py's would."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import data
from capellm import CapeLLM
from helpers import keypoints, photos
from lora import LoRALinear
from study.validation import (
    VALIDATION,
    compute_as_evaluated,
    measure_error,
    share_instances,
)
from support.files import ROOT

FP32, BF16 = torch.float32, torch.bfloat16


def write_whole(folder, target):
    """A model folder whose own weights were trained, in whole."""
    shutil.copytree(folder, target)
    model = CapeLLM.from_pretrained(folder)
    config = json.loads((target / "config.json").read_text())
    config["lora"]["parts"], config["whole"] = [], ["vision", "llm"]
    (target / "config.json").write_text(json.dumps(config))
    # Numbers that bf16 does not have.
    torch.manual_seed(3)
    tensors = {n: p.detach() + 0.01 * torch.randn_like(p) for n, p in model.named_parameters()}
    save_file(tensors, target / "adapter.safetensors")
    return target


@pytest.mark.parametrize("part", ["adapters", "whole"])
@pytest.mark.parametrize("trained_in, dtype", [(FP32, FP32), (BF16, BF16), (FP32, BF16)])
def test_a_model_in_training_answers_as_the_one_that_eval_py_reads(
    model_folder, tmp_path, part, trained_in, dtype
):
    """trained_in: the backbones' dtype in training; dtype: eval.py's."""
    folder = model_folder
    if part == "whole":
        folder = write_whole(model_folder, tmp_path / "whole")
    model = CapeLLM.from_pretrained(folder, trained_in, merge=False).train()
    pixels, asked = photos(1)[0], keypoints(6)
    with torch.no_grad():
        before = {name: (p, p.data, p.clone()) for name, p in model.named_parameters()}
    if part == "whole" and trained_in != dtype:
        # Otherwise this test would show nothing.
        model.eval()
        expected = CapeLLM.from_pretrained(folder, dtype).answer(pixels, asked)
        assert model.answer(pixels, asked) != expected
        model.train()
    with compute_as_evaluated(model, dtype):
        assert not model.training
        found = model.answer(pixels, asked)
        merged = not any(isinstance(m, LoRALinear) for m in model.modules())
        assert merged == (part == "whole" or dtype == FP32)
    assert found == CapeLLM.from_pretrained(folder, dtype).answer(pixels, asked)
    # Put back: the same parameters, with the same memory.
    after = dict(model.named_parameters())
    assert after.keys() == before.keys() and all(m.training for m in model.modules())
    for name, (parameter, memory, value) in before.items():
        assert after[name] is parameter and after[name].data_ptr() == memory.data_ptr()
        assert after[name].dtype == value.dtype and torch.equal(after[name], value)


def test_what_fails_inside_puts_the_model_back(model_folder):
    model = CapeLLM.from_pretrained(model_folder, merge=False).train()
    names = [name for name, _ in model.named_parameters()]
    with pytest.raises(ZeroDivisionError), compute_as_evaluated(model, BF16):
        raise ZeroDivisionError
    assert [name for name, _ in model.named_parameters()] == names
    assert {p.dtype for p in model.parameters()} == {FP32} and model.training


@pytest.mark.parametrize("count", [1, 2, 3, 7, 200, 999])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_images_are_shared_out(count, world):
    shares = [share_instances(list(range(count)), {}, rank, world) for rank in range(world)]
    counted = [i for share in shares for i in share.instances[:share.counted]]
    # Each once, and spread over all.
    assert len(counted) == len(set(counted)) == min(count, VALIDATION)
    assert max(counted) >= count * (1 - 1 / VALIDATION) - 1
    # Where the model is sharded all answer together.
    assert len({len(share.instances) for share in shares}) == 1


@pytest.mark.parametrize("dtype", [FP32, BF16])
def test_nano_in_training_answers_as_evaluated(dtype):
    """The whole way from a photo, to the last bit of a probability."""
    photo = Image.open(ROOT / "examples" / "astronaut.jpg").convert("RGB")
    asked = data.read_descriptions(ROOT / "descriptions" / "human_face_19.txt")[:12]
    expected = CapeLLM.from_pretrained(ROOT / "nano", dtype).locate(photo, asked)
    model = CapeLLM.from_pretrained(ROOT / "nano", dtype, merge=False).train()
    with compute_as_evaluated(model, dtype):
        assert model.locate(photo, asked) == expected


def test_the_standard_error_of_a_mean():
    """Of two scores half of their distance; of many draws what their means really spread."""
    assert measure_error([0.25, 0.75]) == 0.25
    assert measure_error([0.5]) == 1.0 and measure_error([0.5] * 3) == 0.0
    rng = np.random.default_rng(0)
    draws = rng.random((2000, 50))
    assert np.mean([measure_error(scores) for scores in draws]) == pytest.approx(
        draws.mean(1).std(), rel=0.05
    )
