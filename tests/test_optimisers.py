"""support/optimisers.py: Muon's updates, and the two optimisers as one."""

import copy
from types import SimpleNamespace

import pytest
import torch

from support import optimisers, parallel
from support.optimisers import make_optimiser, make_orthogonal


@pytest.mark.parametrize("shape", [(8, 8), (24, 8), (8, 24)])
def test_updates_are_nearly_orthogonal(shape):
    """The singular values come near 1, the singular vectors stay."""
    U, S, V = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    S = torch.linspace(0.2, 1, len(S))
    found = U.T @ make_orthogonal(U * S @ V) @ V.T
    assert ((found.diag() > 0.6) & (found.diag() < 1.3)).all()
    assert (found - found.diag().diag()).abs().max() < 1e-4


def make_parameters():
    torch.manual_seed(0)
    shapes = {"llm.model.layers.0.up": (6, 4), "llm.embed": (6, 4), "vision.layer.1.norm": (4,)}
    return {name: torch.nn.Parameter(torch.randn(shape)) for name, shape in shapes.items()}


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_every_parameter_is_updated_once(kind):
    """What is no matrix of a layer as by PyTorch's AdamW with the paper's decay; a matrix of a
    layer as by PyTorch's own Muon, up to its arithmetic in bfloat16."""
    found, reference = make_parameters(), make_parameters()
    optimiser = make_optimiser(found, 1e-2, kind)
    others = []
    for name, p in reference.items():
        if kind == "muon" and ".layer" in name and p.dim() == 2:
            others.append(torch.optim.Muon(
                [p], 1e-2 * optimisers.FASTER, weight_decay=0.01, momentum=0.95
            ))
        else:
            decay = 0.01 if p.dim() > 1 else 0.0
            betas = (0.9, 0.98 if kind == "muon" else 0.999)
            others.append(torch.optim.AdamW([p], 1e-2, betas, weight_decay=decay))
    for step in range(3):
        torch.manual_seed(step)
        for name, p in found.items():
            p.grad = torch.randn(p.shape)
            reference[name].grad = p.grad.clone()
        optimiser.step()
        for other in others:
            other.step()
        for name, p in found.items():
            is_muon = kind == "muon" and name.startswith("llm.model")
            torch.testing.assert_close(p, reference[name], atol=0.01 if is_muon else 1e-6, rtol=0)
    optimiser.zero_grad()
    assert all(p.grad is None for p in found.values())


def test_muon_s_weights_decay():
    """Where the gradient is none the weight alone changes, by the learning rate and 0.01."""
    parameters = make_parameters()
    optimiser = make_optimiser(parameters, 1e-2, "muon")
    p = parameters["llm.model.layers.0.up"]
    before = p.detach().clone()
    for other in parameters.values():
        other.grad = torch.zeros_like(other)
    optimiser.step()
    lr = 1e-2 * optimisers.FASTER
    torch.testing.assert_close(p.detach(), before * (1 - lr * 0.01))


def test_both_keep_what_resuming_needs():
    parameters = make_parameters()
    optimiser = make_optimiser(parameters, 1e-2, "muon")
    for p in parameters.values():
        p.grad = torch.ones_like(p)
    optimiser.step()
    kept = {name: set(optimiser.state[p]) for name, p in parameters.items()}
    moments = {"step", "exp_avg", "exp_avg_sq"}
    assert kept == dict.fromkeys(parameters, moments) | {"llm.model.layers.0.up": {"momentum"}}
    assert [group["initial_lr"] for group in optimiser.param_groups] == [0.1, 0.01, 0.01]


@pytest.mark.parametrize("device, fused", [("cuda", True), ("cpu", None), ("mps", None)])
def test_on_a_gpu_updates_take_no_memory(device, fused, monkeypatch):
    """PyTorch's default there holds a copy of all weights while it updates them."""
    made = []

    def make(groups, *arguments, **options):
        made.append(options)
        return SimpleNamespace(param_groups=[{"lr": 1.0}])

    monkeypatch.setattr(torch.optim, "AdamW", make)
    weight = SimpleNamespace(device=torch.device(device), dim=lambda: 2)
    make_optimiser({"llm.embed": weight}, 1e-2, "adamw")
    assert made == [{"fused": fused}]


def step(optimiser, parameters, seed):
    torch.manual_seed(seed)
    for p in parameters.values():
        p.grad = torch.randn(p.shape)
    optimiser.step()


def test_a_fused_optimiser_goes_on_from_another_s_state():
    """A checkpoint that was written by one that is not fused, resumed: the third step is equal."""
    parameters, cpu = make_parameters(), torch.device("cpu")
    plain = make_optimiser(parameters, 1e-2, "adamw")
    step(plain, parameters, 1)
    step(plain, parameters, 2)
    # On a CPU these are the optimiser's own tensors, which go on changing.
    state = copy.deepcopy(parallel.gather_state(plain, parameters, cpu, 0, 1))
    resumed = {name: torch.nn.Parameter(p.detach().clone()) for name, p in parameters.items()}
    step(plain, parameters, 3)
    groups = []
    for p in resumed.values():
        groups.append({"params": [p], "weight_decay": 0.01 if p.dim() > 1 else 0.0})
    fused = torch.optim.AdamW(groups, 1e-2, fused=True)
    parallel.restore_state(state, fused, resumed, cpu, 0)
    step(fused, resumed, 3)
    for name, p in parameters.items():
        torch.testing.assert_close(resumed[name], p)
