"""Low-rank adapters: inject them, collect them, merge them.

CapeLLM trains its frozen backbones through LoRA (Sec. 4.1: rank 8 on the query and value projections of both):
y = W x + (alpha / rank) B A dropout(x), with W frozen. Hu et al., "LoRA" (2021), Sec. 4.

    model.requires_grad_(False)                        # the rest of the backbone is the caller's choice
    add_lora(model, ["q_proj", "v_proj"])
    ... train ...
    save_file(lora_state_dict(model), "adapter.safetensors")
    model.load_state_dict(load_file("adapter.safetensors"), strict=False)
    merge_lora(model)                                  # plain nn.Linear again
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F


class LoRALinear(nn.Module):
    """A frozen `base` (nn.Linear, any dtype) and its fp32 adapter: lora_A (rank, in) and lora_B (out, rank)."""

    def __init__(self, base, rank, alpha, dropout):
        super().__init__()
        self.base, self.scale, self.p = base.requires_grad_(False), alpha / rank, dropout
        device = base.weight.device
        self.lora_A = nn.Parameter(torch.empty(rank, base.in_features, dtype=torch.float32, device=device))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank, dtype=torch.float32, device=device))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))  # B is zero: the model starts as its base

    def forward(self, x):  # (..., in) -> (..., out)
        y = self.base(x)
        x, p = x.float(), self.p if self.training else 0.0
        if p:
            x = x.masked_fill(dropped(x, p), 0)
        update = F.linear(F.linear(x, self.lora_A) * (self.scale / (1 - p)), self.lora_B)
        return (y + update).to(y.dtype)


def dropped(x, p):
    """What dropout drops of x: bool in its shape, each True with probability p, to 16 bits.

    A draw of 64 bits decides on four. A CPU draws one after the other: one for each took a twentieth of a training step.
    """
    bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device).random_(-2**63, None)
    return bits.view(torch.int16)[:x.numel()].view(x.shape) < round(p * 2**16) - 2**15


def add_lora(module, names, rank=8, alpha=16, dropout=0.05):
    """Wrap every nn.Linear of `module` whose last name part is in `names`; the layer itself moves to `<its name>.base`.

    Freezes exactly the layers it wraps; to train the adapters alone, call `module.requires_grad_(False)` before.
    ValueError if one of `names` matches no nn.Linear, or the rank is not positive.
    """
    if rank < 1:
        raise ValueError(f"LoRA rank is {rank}: expected at least 1")
    layers = {path: child for path, child in module.named_modules() if isinstance(child, nn.Linear)}
    last = {path: path.rpartition(".")[2] for path in layers}
    missing = set(names) - set(last.values())
    if missing:
        raise ValueError(f"{type(module).__name__} has no nn.Linear named {', '.join(sorted(missing))} to adapt; "
                         f"it has {', '.join(sorted(set(last.values()))) or 'none'}")
    for path, layer in layers.items():
        if last[path] in names:
            module.set_submodule(path, LoRALinear(layer, rank, alpha, dropout))


@torch.no_grad()
def merge_lora(module):
    """Fold every adapter into its base, W + (alpha / rank) B A in the base's dtype; the nn.Linear is back, frozen."""
    for name, child in list(module.named_modules()):
        if isinstance(child, LoRALinear):
            weight = child.base.weight
            weight.copy_(weight.float() + child.scale * child.lora_B @ child.lora_A)
            module.set_submodule(name, child.base)


def lora_state_dict(module):
    """{name: tensor} of the adapters alone: `layers.0.self_attn.q_proj.lora_A` and `.lora_B`."""
    return {name: tensor for name, tensor in module.state_dict().items() if name.endswith((".lora_A", ".lora_B"))}
