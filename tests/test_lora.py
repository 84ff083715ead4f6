"""lora.py against peft."""

import copy

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

import lora
from dino import DINOv2, DINOv2Config
from llama import Config, Llama
from lora import LoRALinear, add_lora, merge_lora

VISION = ("query", "value")


def vision(dtype=torch.float32):
    torch.manual_seed(0)
    return DINOv2(DINOv2Config(32, 2, 2, image_size=56)).requires_grad_(False).to(dtype)


def adapters_of(module):
    return {n: t for n, t in module.state_dict().items() if n.endswith((".lora_A", ".lora_B"))}


def randomise(model):
    """Random adapters: a B of zeros would hide everything."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name:
                p.normal_(std=0.1)
    return model


def find_adapter(theirs, name):
    """peft's weight of an adapter of ours."""
    layer, _, side = name.rpartition(".")
    return theirs.get_submodule(f"base_model.model.{layer}.{side}.default").weight


def copy_adapters(ours, theirs):
    for name, tensor in adapters_of(ours).items():
        find_adapter(theirs, name).data.copy_(tensor)


def pair(dtype=torch.float32, rank=4, alpha=12, dropout=0.0):
    """The same model with the same adapters, ours and peft's."""
    ours, theirs = vision(dtype), vision(dtype)
    add_lora(ours, VISION, rank, alpha, dropout)
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(VISION))
    theirs = get_peft_model(theirs, config)
    randomise(ours)
    copy_adapters(ours, theirs)
    return ours, theirs


PIXELS = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(2))


def test_outputs_and_gradients_equal_peft():
    ours, theirs = pair()
    features = ours(PIXELS)
    expected = theirs(PIXELS)
    # The adapters do something.
    assert (expected - vision()(PIXELS)).abs().max() > 0.05
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)
    weights = torch.randn_like(features)
    (features * weights).sum().backward()
    (expected * weights).sum().backward()
    for name in adapters_of(ours):
        grad = find_adapter(theirs, name).grad
        assert grad.abs().max() > 0
        torch.testing.assert_close(ours.get_parameter(name).grad, grad, rtol=1e-4, atol=1e-5)


def test_dropout_falls_where_peft_lets_it_fall(monkeypatch):
    def draw_as_theirs(x, p):
        return F.dropout(torch.ones_like(x), p) == 0

    monkeypatch.setattr(lora, "draw_dropout", draw_as_theirs)
    ours, theirs = pair(dropout=0.5)
    results = []
    for model in (ours.train(), theirs.train()):
        torch.manual_seed(3)
        results.append(model(PIXELS))
    torch.testing.assert_close(*results, rtol=0, atol=1e-5)
    assert (ours(PIXELS) - ours.eval()(PIXELS)).abs().max() > 1e-2
    assert torch.equal(ours(PIXELS), ours(PIXELS))


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9])
def test_dropout_drops_each_with_its_probability(p):
    """Rate, neighbours (cut from one draw), rows and draws are independent.

    All lie within five standard deviations.
    """
    torch.manual_seed(0)
    a, b = (lora.draw_dropout(torch.empty(501, 399), p) for _ in range(2))
    pairs = {
        "rate": a,
        "next": a[:, 1:] & a[:, :-1],
        "third": a[:, 3:] & a[:, :-3],
        "row": a[1:] & a[:-1],
        "draw": a & b,
    }
    for name, both in pairs.items():
        expected = p if name == "rate" else p * p
        deviation = (expected * (1 - expected) / both.numel()) ** 0.5
        assert abs(both.double().mean() - expected) < 5 * deviation, name
    assert a.shape == (501, 399) and a.any(0).all() and a.any(1).all()


def test_dropout_keeps_the_mean():
    """Over many draws the update is what it is without dropout."""
    torch.manual_seed(0)
    layer = LoRALinear(torch.nn.Linear(64, 8), 4, 8, 0.3)
    torch.nn.init.normal_(layer.lora_B)
    x = torch.randn(64)
    draws = layer.train()(x.expand(20000, 64))
    assert ((draws.mean(0) - layer.eval()(x)).abs() < 5 * draws.std(0) / 20000**0.5).all()
    assert draws.std(0).min() > 0


def test_merged_weights_equal_peft_and_keep_the_outputs():
    ours, theirs = pair()
    names = list(vision().state_dict())
    before = ours(PIXELS)
    merge_lora(ours)
    expected = theirs.merge_and_unload().state_dict()
    assert list(ours.state_dict()) == names
    assert not any(isinstance(module, LoRALinear) for module in ours.modules())
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6)
    torch.testing.assert_close(ours(PIXELS), before, rtol=0, atol=1e-5)


def test_bf16_base_keeps_fp32_adapters():
    ours, theirs = pair(torch.bfloat16)
    for name, p in ours.named_parameters():
        assert p.dtype == (torch.float32 if "lora_" in name else torch.bfloat16), name
    features = ours(PIXELS)
    assert features.dtype == torch.bfloat16
    assert torch.equal(features, theirs(PIXELS))
    features.float().square().mean().backward()
    assert all(ours.get_parameter(name).grad.dtype == torch.float32 for name in adapters_of(ours))
    # bf16 would lose most of a small update: the adapters stay.
    merge_lora(ours)
    assert adapters_of(ours) and torch.equal(ours(PIXELS), features)


def test_starts_as_its_base_and_freezes_only_what_it_wraps():
    model = vision().requires_grad_(True)
    before = model(PIXELS)
    add_lora(model, VISION)
    assert torch.equal(model.eval()(PIXELS), before)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {
        f"encoder.layer.{i}.attention.attention.{part}.base.{p}"
        for i in range(2)
        for part in VISION
        for p in ("weight", "bias")
    }


def test_starts_from_the_distribution_of_peft():
    ours, theirs = vision(), get_peft_model(vision(), LoraConfig(r=8, target_modules=list(VISION)))
    add_lora(ours, VISION)
    A, peft_A = (
        torch.cat([p for name, p in model.named_parameters() if "lora_A" in name])
        for model in (ours, theirs)
    )
    assert A.shape == peft_A.shape and abs(A.std() / peft_A.std() - 1) < 0.1
    # Uniform up to 1 / sqrt(in).
    assert max(A.abs().max(), peft_A.abs().max()) <= 32**-0.5
    assert not any(p.any() for name, p in ours.named_parameters() if "lora_B" in name)


def test_adapters_travel_through_a_file(tmp_path):
    ours, _ = pair()
    adapters = adapters_of(ours)
    assert set(adapters) == {
        f"encoder.layer.{i}.attention.attention.{part}.lora_{side}"
        for i in range(2)
        for part in VISION
        for side in "AB"
    }
    save_file(adapters, tmp_path / "adapter.safetensors")
    again = vision()
    add_lora(again, VISION, rank=4, alpha=12, dropout=0.0)
    report = again.load_state_dict(load_file(tmp_path / "adapter.safetensors"), strict=False)
    assert not report.unexpected_keys and not any("lora_" in key for key in report.missing_keys)
    assert torch.equal(again(PIXELS), ours(PIXELS))


def test_llama_equals_peft():
    torch.manual_seed(0)
    ours = Llama(Config(64, 32, 48, 2, 4, 2)).requires_grad_(False)
    theirs = get_peft_model(
        copy.deepcopy(ours), LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"])
    )
    add_lora(ours, ("q_proj", "v_proj"), dropout=0.0)
    randomise(ours)
    copy_adapters(ours, theirs)
    x = torch.randn(1, 7, 32)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-5)


OFFICIAL_VISION = DINOv2Config(1024, 24, 16)
OFFICIAL_LLM = Config(128256, 4096, 14336, 32, 32, 8)


@pytest.mark.parametrize(
    "kind, config, names, outputs, total",
    [
        (DINOv2, OFFICIAL_VISION, VISION, (1024, 1024), 786_432),
        (Llama, OFFICIAL_LLM, ("q_proj", "v_proj"), (4096, 1024), 3_407_872),
    ],
)
def test_parameter_counts_of_the_paper(kind, config, names, outputs, total):
    """Rank 8 on the query and value projections of both backbones (Section 4.1)."""
    with torch.device("meta"):
        module = kind(config).requires_grad_(False)
    add_lora(module, names)
    count = sum(p.numel() for p in module.parameters() if p.requires_grad)
    each_layer = sum(8 * (config.hidden_size + width) for width in outputs)
    assert count == config.num_hidden_layers * each_layer == total
    assert {tensor.device.type for tensor in adapters_of(module).values()} == {"meta"}


def test_errors_name_the_culprit():
    message = "DINOv2 has no nn.Linear named q_proj to adapt; it has dense, fc1"
    with pytest.raises(ValueError, match=message):
        add_lora(vision(), ("query", "q_proj"))
    # It is there, but is a convolution.
    with pytest.raises(ValueError, match="no nn.Linear named projection"):
        add_lora(vision(), ("projection",))
    with pytest.raises(ValueError, match="LoRA rank is 0"):
        add_lora(vision(), VISION, rank=0)
    model = vision()
    add_lora(model, VISION)
    # Not twice.
    with pytest.raises(ValueError, match="no nn.Linear named query, value"):
        add_lora(model, VISION)
