"""Send numbers to a device, and find the device that computes in float64."""

import torch


def send(values, device):
    """Numbers as a tensor on the device."""
    # CUDA copies them at once: the CPU does not wait for the work that is queued there.
    return torch.as_tensor(values).to(device, non_blocking=torch.device(device).type == "cuda")


def find_float64_device(model):
    """The device that decides on digits, in float64: Apple's (MPS) has none."""
    return torch.device("cpu") if model.device.type == "mps" else model.device
