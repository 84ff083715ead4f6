"""--deterministic: gradients that are the same, bit by bit, whenever a GPU computes them again.

Some kernels of a GPU add up in whatever order their threads end, attention's backward pass among
them. PyTorch has others that keep an order, and are slower. A CPU's keep one anyway.
"""

import os
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

VARIABLE = "CUBLAS_WORKSPACE_CONFIG"  # cuBLAS reads it when it starts
SETTING = ":4096:8"
# cuDNN's attention has no order; backward, flash and memory-efficient attention keep one if asked.
KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def prepare(is_asked):
    """Set what a GPU's libraries read when they start."""
    if is_asked:
        os.environ.setdefault(VARIABLE, SETTING)


def describe():
    return f"deterministic: {VARIABLE} is {os.environ[VARIABLE]}"


@contextmanager
def compute_in_order(is_asked):
    """If asked, algorithms keep an order within this block; RuntimeError where there is none."""
    if not is_asked:
        yield
        return
    was_on = torch.are_deterministic_algorithms_enabled()
    warned_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        with sdpa_kernel(KERNELS):
            yield
    finally:
        torch.use_deterministic_algorithms(was_on, warn_only=warned_only)
