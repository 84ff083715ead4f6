"""What updates the weights: AdamW (Section 4.1), and Muon (`train.py --optimiser muon`).

Muon is for backbones that are trained in whole: nano's pre-training, and few photographs.
"""

import torch
import torch.distributed as dist

# Its learning rate, in those of AdamW: an update has no small entries.
FASTER = 10


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal (Jordan et al., 2024), for matrices inside layers.

    torch.optim.Muon computes it in bfloat16, which a CPU without such units does a hundred times
    slower than fp32. The processes share the work: each makes every world-th update.
    """

    def __init__(self, matrices, lr=0.02, momentum=0.95, weight_decay=0.01):
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        group, = self.param_groups
        rank, world = 0, 1
        if dist.is_initialized():
            rank, world = dist.get_rank(), dist.get_world_size()
        changed, updates = [], []
        for n, p in enumerate(group["params"]):
            if p.grad is None:
                continue
            m = self.state[p].setdefault("momentum", torch.zeros_like(p))
            m.lerp_(p.grad, 1 - group["momentum"])
            changed.append(p)
            if n % world == rank:
                updates.append(make_orthogonal(p.grad.lerp(m, group["momentum"])))
            else:
                updates.append(torch.zeros_like(p))
        if world > 1 and updates:
            updates = sum_over_processes(updates)
        for p, update in zip(changed, updates, strict=True):
            p.mul_(1 - group["lr"] * group["weight_decay"])
            p.add_(update, alpha=-group["lr"] * max(1, p.shape[0] / p.shape[1]) ** 0.5)


def make_orthogonal(g, steps=5):
    """The nearest (semi-)orthogonal matrix, roughly.

    A quintic Newton-Schulz iteration on the singular values.
    """
    x = g.T if g.shape[0] > g.shape[1] else g
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.T if g.shape[0] > g.shape[1] else x


def sum_over_processes(tensors):
    """The sums over processes of some tensors, sent in one message."""
    flat = torch.cat([t.view(-1) for t in tensors])
    dist.all_reduce(flat)
    parts = flat.split([t.numel() for t in tensors])
    return [part.view_as(t) for part, t in zip(parts, tensors, strict=True)]


class Joined:
    """Optimisers of different parameters as one: their groups, and what they keep of each."""

    def __init__(self, *optimisers):
        self.optimisers, self.param_groups = optimisers, []
        self.state = optimisers[0].state
        for optimiser in optimisers:
            self.param_groups += optimiser.param_groups
            optimiser.state = self.state

    def step(self):
        for optimiser in self.optimisers:
            optimiser.step()

    def zero_grad(self):
        for optimiser in self.optimisers:
            optimiser.zero_grad()


def make_optimiser(parameters, lr, kind):
    """AdamW for parameters {name: parameter}, or with kind "muon" what Muon leaves to it.

    Biases and norms, of full training alone, do not decay. The loop changes each group's "lr",
    which starts as its highest, "initial_lr".
    """
    by_muon = choose_matrices(parameters) if kind == "muon" else {}
    by_adamw = [p for name, p in parameters.items() if name not in by_muon]
    matrices = [p for p in by_adamw if p.dim() > 1]
    others = [p for p in by_adamw if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    # Beside Muon there are few steps: the mean of squares must keep up with them.
    betas = (0.9, 0.98) if by_muon else (0.9, 0.999)
    # Fused, it needs no memory beside. PyTorch's default on a GPU takes as much as all weights.
    is_on_gpu = any(p.device.type == "cuda" for p in by_adamw)
    optimiser = torch.optim.AdamW(groups, lr, betas, fused=True if is_on_gpu else None)
    if by_muon:
        optimiser = Joined(Muon(by_muon.values(), FASTER * lr), optimiser)
    for group in optimiser.param_groups:
        group["initial_lr"] = group["lr"]
    return optimiser


def choose_matrices(parameters):
    """Of {name: parameter} the matrices inside layers of the backbones, which Muon is for."""
    return {name: p for name, p in parameters.items() if p.dim() == 2 and ".layer" in name}
