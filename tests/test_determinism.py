"""support/determinism.py: what --deterministic switches on, and puts back."""

import os

import pytest
import torch

from support import determinism


@pytest.fixture(autouse=True)
def restore_algorithms():
    yield
    torch.use_deterministic_algorithms(False)


def list_switches():
    cuda = torch.backends.cuda
    return {
        "on": torch.are_deterministic_algorithms_enabled(),
        "warns": torch.is_deterministic_algorithms_warn_only_enabled(),
        "flash": cuda.flash_sdp_enabled(),
        "efficient": cuda.mem_efficient_sdp_enabled(),
        "math": cuda.math_sdp_enabled(),
        "cudnn": cuda.cudnn_sdp_enabled(),
    }


@pytest.mark.parametrize("before", ["off", "on", "warns"])
def test_it_is_on_inside_and_put_back(before):
    torch.use_deterministic_algorithms(before != "off", warn_only=before == "warns")
    outside = list_switches()
    # Flash attention keeps no order where PyTorch only warns.
    inside = {"on": True, "warns": False, "flash": True, "efficient": True, "math": True}
    with determinism.compute_in_order(True):
        assert list_switches() == inside | {"cudnn": False}
    assert list_switches() == outside
    with pytest.raises(ZeroDivisionError), determinism.compute_in_order(True):
        raise ZeroDivisionError
    assert list_switches() == outside
    with determinism.compute_in_order(False):
        assert list_switches() == outside


def test_the_variable_of_cublas(monkeypatch):
    """A value that the user has chosen stays."""
    monkeypatch.delenv(determinism.VARIABLE, raising=False)
    determinism.prepare(False)
    assert determinism.VARIABLE not in os.environ
    for chosen, expected in ((None, ":4096:8"), (":16:8", ":16:8")):
        if chosen:
            monkeypatch.setenv(determinism.VARIABLE, chosen)
        determinism.prepare(True)
        assert os.environ[determinism.VARIABLE] == expected
        assert determinism.describe().endswith(f"is {expected}")
        monkeypatch.delenv(determinism.VARIABLE)
