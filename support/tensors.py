"""Send numbers to a device, and find the device that computes in float64."""

import torch


def send(values, device):
    """Numbers as a tensor on the device."""
    # CUDA takes a copy of them at once: nobody waits for the work that it has queued.
    return torch.as_tensor(values).to(device, non_blocking=torch.device(device).type == "cuda")


def find_float64_device(model):
    """The device that decides on digits, in float64: Apple's (MPS) has none."""
    return torch.device("cpu") if model.device.type == "mps" else model.device
