"""Send numbers to a device, compute in more bits than the model has, and draw dropout."""

import math

import torch
import torch.nn.functional as F


def send(values, device):
    """Numbers as a tensor on the device."""
    # CUDA copies them at once: the CPU does not wait for the work that is queued there.
    return torch.as_tensor(values).to(device, non_blocking=torch.device(device).type == "cuda")


def find_float64_device(model):
    """The device that decides on digits, in float64: Apple's (MPS) has none."""
    return torch.device("cpu") if model.device.type == "mps" else model.device


def multiply_in_fp32(x, weight):
    """x weight^T in fp32, where autocast would multiply in bf16."""
    x, weight, device = x.float(), weight.float(), x.device.type
    # The meta device has no autocast to switch off.
    if not torch.amp.is_autocast_available(device):
        return F.linear(x, weight)
    with torch.autocast(device, enabled=False):
        return F.linear(x, weight)


def draw_dropout(x: torch.Tensor, p: float) -> torch.Tensor:
    """A mask of x's shape: True, with probability p to 1 / 65536, where dropout sets 0."""
    # An int64 gives four int16: a draw for each number, as F.dropout has it, took 5% of a training
    # step on a CPU.
    draws = math.ceil(x.numel() / 4)
    int64 = torch.empty(draws, dtype=torch.int64, device=x.device).random_(-2**63, None)
    int16 = int64.view(torch.int16)[:x.numel()].view(x.shape)
    # An int16 is even in [-2^15, 2^15): it lies below p 2^16 - 2^15 with probability p.
    return int16 < round(p * 2**16) - 2**15
