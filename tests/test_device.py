"""On a GPU, as far as it can be told without one: nothing waits that need not, and kernels fit.

Everything runs on a simulated device (scripts/simulated_device.py), which refuses what CUDA does.
"""

import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

import train
from helpers import conversations, keypoints, photos
from lora import LoRALinear
from scripts import launches
from scripts.collect import read_results
from scripts.reference import SHAPES
from scripts.simulated_device import (
    DEVICE,
    SimulatedDevice,
    choose_kernel,
    count_numbers,
    move_model,
)
from study import density, keypoint_token
from study.digits import DECODING
from study.hiera import Hiera, HieraConfig
from support.attention import make_additive
from support.batches import Division, Pass
from support.tensors import send


@pytest.fixture
def device():
    with SimulatedDevice() as device:
        yield device


def move(model, device):
    """A copy of the model on the device."""
    moved = move_model(copy.deepcopy(model), device)
    # The frequencies of positions are sent with the first pass.
    moved.llm(torch.zeros(1, 1, moved.llm.config.hidden_size, device=DEVICE))
    device.reset()
    return moved


@pytest.fixture
def there(model, device):
    return move(model, device)


# The simulated device itself.


def test_two_devices_do_not_meet(device):
    here, there = torch.ones(3), torch.ones(3, device=DEVICE)
    for meet in (torch.add, torch.dot, torch.maximum):
        with pytest.raises(RuntimeError, match="expected all tensors to be on the same device"):
            meet(there, here)
    with pytest.raises(RuntimeError, match="expected all tensors to be on the same device"):
        torch.cat([there, here])
    # A single number is sent along with the operation.
    assert (there + torch.tensor(2.0)).tolist() == [3, 3, 3]
    assert there.device == (2 * there).device == DEVICE


def test_numbers_are_those_of_the_cpu(device):
    x, w = torch.randn(5, 4), torch.randn(4, 3, requires_grad=True)
    expected = (x @ w).softmax(1).square().sum()
    there = w.detach().to(DEVICE).requires_grad_()
    found = (x.to(DEVICE) @ there).softmax(1).square().sum()
    assert found.item() == expected.item()
    gradients = torch.autograd.grad(found, there)[0], torch.autograd.grad(expected, w)[0]
    assert torch.equal(gradients[0].cpu(), gradients[1])


WAITS = {
    "item": lambda x: x[0].item(),
    "float": lambda x: float(x[1]),
    "bool": lambda x: bool(x[0] > 0),
    "list": lambda x: x.tolist(),
    "copy": lambda x: x.cpu(),
    "to": lambda x: x.to("cpu"),
    "nonzero": lambda x: x.nonzero(),
    "unique": lambda x: x.unique(),
    "rows": lambda x: x[:, None].unique(dim=0),
    "mask": lambda x: x[x > 1],
    "select": lambda x: x.masked_select(x > 1),
    "counts": lambda x: x.long().bincount(),
}


@pytest.mark.parametrize("way", WAITS)
def test_each_way_to_read_numbers_back_is_seen(device, way):
    x = torch.arange(4.0, device=DEVICE)
    device.reset()
    WAITS[way](x)
    assert device.read_backs == 1


def test_copies_that_wait_are_seen(device):
    x = torch.zeros(3, device=DEVICE)
    torch.ones(3).to(DEVICE, non_blocking=True)
    send([1, 2], DEVICE)
    assert device.copies == 2 and device.blocking_copies == []
    torch.ones(3).to(DEVICE)
    torch.tensor([1, 2], device=DEVICE)
    x[torch.tensor([2, 0])]
    x[:] = torch.ones(3)
    assert len(device.blocking_copies) == 4


def test_operations_and_bytes_are_counted(device):
    a, b = torch.ones(2, 3, device=DEVICE), torch.ones(3, 4, device=DEVICE)
    device.reset()
    a @ b.T.T
    assert (device.launches, device.bytes) == (1, 4 * (2 * 3 + 3 * 4 + 2 * 4))
    ids, table = torch.ones(1, dtype=torch.long, device=DEVICE), torch.ones(99, 5, device=DEVICE)
    device.reset()
    # Of the table the rows that are asked for are read.
    F.embedding(ids, table)
    assert device.bytes == 4 * 5 * 2 + 8
    assert count_numbers(torch.ones(7, 1, 2).expand(7, 3, 2)) == 14


def call(dtype=torch.bfloat16, heads=8, groups=2, width=64, mask=None, T=5, S=16, **named):
    q = torch.zeros(1, heads, T, width, dtype=dtype)
    k, v = torch.zeros(2, 1, groups, S, width, dtype=dtype)
    return choose_kernel(q, k, v, attn_mask=mask, **named)


def test_the_kernel_of_each_call_is_that_of_the_rules():
    mask = torch.ones(5, 16, dtype=torch.bool)
    added = make_additive(mask, torch.bfloat16)
    assert call(enable_gqa=True) == "flash"
    assert call(groups=8) == "flash"
    assert call(T=16, is_causal=True, groups=8) == "flash"
    # What this project did before: groups under a mask keep all scores.
    assert call(mask=added, enable_gqa=True) == "math"
    assert call(mask=added, groups=8) == "efficient"
    assert call(mask=added, groups=8, width=36) == "math"
    assert call(mask=mask, groups=8) == "efficient, mask copied"
    odd = make_additive(torch.ones(5, 13, dtype=torch.bool), torch.bfloat16)
    assert call(mask=odd, groups=8, S=13) == "efficient"
    assert call(mask=odd.contiguous(), groups=8, S=13) == "efficient, mask copied"
    assert call(torch.float32, groups=8) == "efficient"
    assert call(torch.float32, enable_gqa=True) == "math"
    assert call(torch.float64, groups=8) == "math"


# Answers.


def assert_same(found, expected):
    """Digits are equal: one of them is at least 0.001 of a crop."""
    coordinates = [torch.tensor(answers.coordinates) for answers in (found, expected)]
    torch.testing.assert_close(*coordinates, rtol=0, atol=1e-5)
    assert found.probabilities == pytest.approx(expected.probabilities, rel=1e-3)


def ask(model, device, asked, *way):
    """The answers on the device, which are those of the CPU; the count is that of the answers."""
    pixels = photos(1)[0]
    there = move(model, device)
    sent = send(pixels, DEVICE)
    device.reset()
    assert_same(there.answer(sent, asked, *way), model.answer(pixels, asked, *way))
    assert device.blocking_copies == []


@pytest.mark.parametrize("decoding", DECODING)
def test_an_answer_is_read_back_once(model, device, decoding):
    """All questions of a pass together, whatever the decoding."""
    ask(model, device, keypoints(3), decoding)
    assert device.read_backs == 1


@pytest.mark.parametrize("cumulative, read_backs", [(True, 3), ("confidence", 1 + 3)])
def test_each_round_of_a_chain_is_read_back_once(model, device, cumulative, read_backs):
    """Its answer is in the text that follows; the order of confidence is read before."""
    ask(model, device, keypoints(3), "greedy", cumulative)
    assert device.read_backs == read_backs


def test_samples_are_counted_before_each_digit_but_the_first(model, device):
    """Of 100 answers those that agree go on as one branch: how many there are is read back."""
    ask(model, device, keypoints(1) * 100, "sampling")
    assert device.read_backs == 1 + 5


def test_a_density_is_read_back_once_a_pass(model, there, device, monkeypatch):
    extend, passes = density.extend_branches, []

    def watched(*arguments):
        passes.append(1)
        return extend(*arguments)

    monkeypatch.setattr(density, "extend_branches", watched)
    pixels, (asked,) = photos(1)[0], keypoints(1)
    found = density.compute_density(there, send(pixels, DEVICE), asked, cut=0.01)
    assert device.read_backs == len(passes) > 2
    assert device.blocking_copies == []
    expected = density.compute_density(model, pixels, asked, cut=0.01)
    assert found.prefixes == expected.prefixes
    torch.testing.assert_close(found.p, expected.p, rtol=1e-3, atol=1e-9)


def test_a_name_is_read_back_token_by_token(model, device):
    """The instruction "steps" has the model name the category, up to 16 tokens."""
    named = copy.deepcopy(model)
    named.config.instruction = "steps"
    ask(named, device, keypoints(2))
    assert 1 < device.read_backs <= 1 + 16


def test_the_keypoint_token_is_read_back_with_its_probability(model, device):
    """The second copy has nothing to wait for."""
    token = copy.deepcopy(model)
    keypoint_token.add_token(token)
    ask(token, device, keypoints(3))
    assert device.read_backs == 2


# Training.

TREES = {"alone": [[2]], "padded": [[1], [2]], "shared": [[2, 1], [1, 1, 2]], "chains": [[2], [1]]}


def compute_loss(model, kind, pixels):
    """The loss of branches if images are shared, else of one conversation an image."""
    trees = [conversations(model, rounds, seed) for seed, rounds in enumerate(TREES[kind])]
    if kind in ("alone", "padded"):
        return model.loss(pixels, [tree[0] for tree in trees])
    return model.loss_of_branches(pixels, trees)


@pytest.mark.parametrize("kind", TREES)
def test_a_loss_is_not_waited_for(model, there, device, kind):
    pixels = photos(len(TREES[kind]))
    sent = send(pixels, DEVICE)
    device.reset()
    found = compute_loss(there, kind, sent)
    trained = [p for p in there.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(found.total, trained)
    assert device.read_backs == 0 and device.blocking_copies == []
    expected = compute_loss(model, kind, pixels)
    torch.testing.assert_close(torch.stack(found).cpu(), torch.stack(expected))
    trained = [p for p in model.parameters() if p.requires_grad]
    for ours, theirs in zip(gradients, torch.autograd.grad(expected.total, trained), strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-3, atol=1e-5)


def test_a_loss_of_keypoint_tokens_is_not_waited_for(model, device):
    token = copy.deepcopy(model)
    keypoint_token.add_token(token)
    there = move(token, device)
    compute_loss(there, "padded", send(photos(2), DEVICE)).total.backward()
    assert device.read_backs == 0 and device.blocking_copies == []


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_a_step_of_training_is_read_back_once(model, there, device, optimiser):
    """Sums of all passes, the gradient's norm among them."""
    options = SimpleNamespace(lr=1e-3, share_image=False, fsdp=False, deterministic=False)
    options.optimiser = optimiser
    learner = train.make_learner(there.train(), options, DEVICE, 1)
    passes = []
    for seed in range(3):
        (conversation,) = conversations(model, [2], seed)
        pixels = photos(1)
        passes.append(Pass(pixels, [conversation], len(conversation.ids)))
    division = Division(batch=3, micro_batch=1, rank=0, world=1)
    measured = train.accumulate_gradients(learner, iter(passes), division, [])
    assert device.read_backs == 1 and device.blocking_copies == []
    assert measured.gradient > 0 and measured.loss > 0
    train.parallel.clip_gradients(learner.parameters.values(), measured.gradient, 1e-3)
    learner.optimiser.step()
    assert device.read_backs == 1 and device.blocking_copies == []


def test_dropout_is_pytorch_s_own(device):
    """Off the CPU, where one kernel draws and drops; the scale is the same."""
    layer = LoRALinear(torch.nn.Linear(6, 5), 2, 4, 0.5)
    torch.nn.init.normal_(layer.lora_B)
    x = torch.randn(3, 6)
    torch.manual_seed(0)
    dropped = F.dropout(x, 0.5)
    expected = layer.base(x) + 4 / 2 * dropped @ layer.lora_A.T @ layer.lora_B.T
    there = move_model(copy.deepcopy(layer), device)
    torch.manual_seed(0)
    found = there.train()(send(x, DEVICE)).cpu()
    torch.testing.assert_close(found, expected)


# Kernels, in bf16 as on a GPU.


@pytest.fixture
def rounded(model, device):
    """The model on the device, its backbones in bf16. Query heads share a key head."""
    rounded = copy.deepcopy(model)
    for backbone in (rounded.vision, rounded.llm):
        for module in backbone.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if "lora_" not in name:
                    parameter.data = parameter.data.bfloat16()
    config = rounded.llm.config
    assert config.num_key_value_heads < config.num_attention_heads
    return move(rounded, device)


WAYS_TO_ASK = [("greedy", False), ("contrastive", False), ("greedy", True), ("top-3", "confidence")]


@pytest.mark.parametrize("decoding, cumulative", WAYS_TO_ASK)
def test_fused_kernels_compute_answers(rounded, device, decoding, cumulative):
    """None keeps the scores, and no mask is copied."""
    rounded.answer(send(photos(1)[0], DEVICE), keypoints(3), decoding, cumulative)
    assert set(device.kernels) == {"flash", "efficient"}


@pytest.mark.parametrize("kind", TREES)
def test_fused_kernels_compute_losses(rounded, device, kind):
    """Only trees need a mask, and the kernel that takes one."""
    compute_loss(rounded, kind, send(photos(len(TREES[kind])), DEVICE)).total.backward()
    layers = {"flash": 2 + 2}
    if kind == "shared":
        layers = {"flash": 2, "efficient": 2}
    assert device.kernels == layers


def test_fused_kernels_compute_a_density(rounded, device):
    density.compute_density(rounded, send(photos(1)[0], DEVICE), keypoints(1)[0], cut=0.02)
    assert set(device.kernels) == {"flash", "efficient"}


def test_fused_kernels_compute_hiera(device):
    """Within windows, too."""
    config = HieraConfig(16, [1, 1], [1, 2], [True, False], 1, [32, 32])
    vision = move_model(Hiera(config).bfloat16(), device)
    vision(send(torch.zeros(1, 3, 32, 32), DEVICE))
    assert device.kernels == {"flash": 2}


# How much is asked of the device.


def count_operations(llm_layers, vision_layers):
    """{work: operations} of the tiny shape with so many layers. Widths do not matter."""
    shape = copy.deepcopy(SHAPES["tiny"])
    shape["dtype"] = torch.bfloat16
    shape["llm"] |= {"num_hidden_layers": llm_layers, "num_attention_heads": 4}
    shape["llm"]["num_key_value_heads"] = 2
    shape["vision"]["num_hidden_layers"] = vision_layers
    rows = launches.measure(shape, single=launches.SINGLE, cumulative=1)
    return {row["work"]: row["operations"] for row in rows}


@pytest.fixture(scope="module")
def operations():
    """With two layers in each model, then with three in the language model, then in the eyes."""
    return count_operations(2, 2), count_operations(3, 2), count_operations(2, 3)


# Of a layer of the language model: in all seven passes, or forward and backward.
LIMITS = {
    "17 keypoints, single": 7 * 37,
    "training, a pair of 4 rounds": 95,
    "training, an image's 4 pairs of 4 rounds": 101,
}


@pytest.mark.parametrize("name, most", LIMITS.items())
def test_a_layer_takes_few_operations(operations, name, most):
    """A GPU that is done with one waits for the CPU to launch the next: docs/cost.md.

    What is written down follows from it.
    """
    base, llm, vision = (counted[name] for counted in operations)
    assert llm - base <= most
    layers = SHAPES["llama8b"]["llm"]["num_hidden_layers"]
    eyes = SHAPES["llama8b"]["vision"]["num_hidden_layers"]
    expected = base + (layers - 2) * (llm - base) + (eyes - 2) * (vision - base)
    written = {row["work"]: row["operations"] for row in read_results("launches")["rows"]}
    assert written[name] == expected, "python -m scripts.launches counts again"


def test_what_is_written_down_waits_nowhere():
    for row in read_results("launches")["rows"]:
        assert row["sent while waiting"] == 0
        assert set(row["attention"]) <= {"flash", "efficient"}
        is_training = row["work"].startswith("training")
        rounds = row["work"].split()[0] if "cumulative" in row["work"] else 1
        assert row["read back"] == (0 if is_training else int(rounds))
