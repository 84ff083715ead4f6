"""Low-rank adapters: inject them, merge them.

CapeLLM trains its frozen backbones through LoRA (Section 4.1: rank 8 on the query and value
projections of both): y = W x + (alpha / rank) B A dropout(x), with W frozen (Hu et al., 2021).

    model.requires_grad_(False)  # the rest of the backbone is the caller's choice
    add_lora(model, ["q_proj", "v_proj"])
    merge_lora(model)  # plain nn.Linear again, where W is fp32
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from support.tensors import draw_dropout


class LoRALinear(nn.Module):
    """A frozen `base` (nn.Linear, any dtype) and its fp32 adapter A (rank, in), B (out, rank)."""

    def __init__(self, base, rank, alpha, dropout):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.scale = alpha / rank
        self.dropout = dropout
        fp32 = dict(dtype=torch.float32, device=base.weight.device)
        self.lora_A = nn.Parameter(torch.empty(rank, base.in_features, **fp32))
        # B is zero: the model starts as its base.
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank, **fp32))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def forward(self, x):  # (..., in) -> (..., out)
        # As rows (n, in): y is then no view, whose gradient a sum in place would copy.
        shape, x = x.shape[:-1], x.reshape(-1, x.shape[-1])
        y = self.base(x)
        x, scale = x.float(), self.scale
        # On a CPU random numbers are most of the cost: see support.tensors.
        if self.training and self.dropout and x.device.type == "cpu":
            x = x.masked_fill(draw_dropout(x, self.dropout), 0)
            scale = self.scale / (1 - self.dropout)
        elif self.training:
            x = F.dropout(x, self.dropout)
        update = F.linear(F.linear(x, self.lora_A) * scale, self.lora_B)
        # In place the sum is computed in fp32, and rounded once to what y is.
        return y.add_(update).view(*shape, -1)


def add_lora(module: nn.Module, names, rank=8, alpha=16, dropout=0.05):
    """Wrap and freeze every nn.Linear whose last name part is in `names`, as `<its name>.base`.

    ValueError if one of `names` matches no nn.Linear, or the rank is not positive.
    """
    if rank < 1:
        raise ValueError(f"LoRA rank is {rank}: expected at least 1")
    layers = {path: m for path, m in module.named_modules() if isinstance(m, nn.Linear)}
    known = {path.rpartition(".")[2] for path in layers}
    missing = set(names) - known
    if missing:
        raise ValueError(
            f"{type(module).__name__} has no nn.Linear named {', '.join(sorted(missing))} to "
            f"adapt; it has {', '.join(sorted(known)) or 'none'}"
        )
    for path, layer in layers.items():
        if path.rpartition(".")[2] in names:
            module.set_submodule(path, LoRALinear(layer, rank, alpha, dropout))


@torch.no_grad()
def merge_lora(module: nn.Module):
    """Fold adapters into W where it is fp32: W + (alpha / rank) B A. In bf16 it would lose bits."""
    for name, child in list(module.named_modules()):
        if isinstance(child, LoRALinear) and child.base.weight.dtype == torch.float32:
            weight = child.base.weight
            weight.copy_(weight + child.scale * child.lora_B @ child.lora_A)
            module.set_submodule(name, child.base)
