"""Numbers on their device: the values as they are, and where float64 is computed."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from support.tensors import find_float64_device, send


@pytest.mark.parametrize("values", [[3, 1, 2], (3, 1, 2), torch.tensor([3, 1, 2])])
def test_numbers_arrive_as_they_are(values):
    sent = send(values, "cpu")
    assert sent.tolist() == [3, 1, 2]
    assert sent.dtype == torch.int64 and sent.device.type == "cpu"


def test_the_type_of_an_array_is_kept():
    assert send(np.array([0.1, 0.2]), "cpu").dtype == torch.float64


def test_a_tensor_that_is_there_is_not_copied():
    values = torch.arange(3)
    assert send(values, torch.device("cpu")).data_ptr() == values.data_ptr()


@pytest.mark.parametrize("own, expected", [("cpu", "cpu"), ("cuda:1", "cuda:1"), ("mps", "cpu")])
def test_float64_is_computed_on_the_model_s_device_if_it_can(own, expected):
    model = SimpleNamespace(device=torch.device(own))
    assert find_float64_device(model) == torch.device(expected)
