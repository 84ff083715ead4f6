"""Send numbers to a device, and compute there in more bits than the model has."""

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
