"""What several processes share. That they train as one does is in test_train.py."""

from types import SimpleNamespace

import pytest
import torch

from support import parallel


def test_moments_go_where_their_parameter_is():
    parameter = torch.empty(3, device="meta")
    assert parallel.spread_tensor(torch.ones(3), parameter).device == parameter.device
    assert parallel.spread_tensor(torch.tensor(7.0), parameter).device.type == "cpu"
    # A fused optimiser wants the count of steps there, too.
    parameter, count = (SimpleNamespace(device=torch.device("cuda")) for _ in range(2))
    count.dim, count.to = lambda: 0, lambda device: device
    assert parallel.spread_tensor(count, parameter) == parameter.device


def test_the_norm_is_of_all_gradients_there_are():
    parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
    parameters[0].grad = torch.tensor([3.0, 0.0])
    parameters[2].grad = torch.tensor([0.0, 4.0])
    assert parallel.compute_norm(parameters) == 5
    parameters[2].grad[0] = torch.nan
    assert parallel.compute_norm(parameters).isnan()


def test_the_first_process_decides(monkeypatch):
    assert parallel.ask_first(lambda: [3], rank=0, world=1) == [3]
    sent = []
    monkeypatch.setattr(parallel.dist, "broadcast_object_list", sent.append)
    # Another process does not even look.
    assert parallel.ask_first(lambda: 1 / 0, rank=1, world=2) is None
    assert parallel.ask_first(lambda: [3], rank=0, world=2) == [3]
    assert sent == [[None], [[3]]]


def test_machines_with_other_models_are_named(monkeypatch):
    """They would train apart, or wait for each other for ever."""
    settings = {"--k": 4, "the model": "abc"}
    parallel.check_equal(settings, rank=0, world=1)
    monkeypatch.setattr(parallel, "ask_first", lambda *_: settings | {"the model": "xyz"})
    with pytest.raises(ValueError, match="process 3 has another value of the model than the first"):
        parallel.check_equal(settings, rank=3, world=4)


def test_one_process_gathers_its_own():
    assert parallel.gather_lists([1, 2], world=1) == [1, 2]
    assert torch.equal(parallel.gather_tensor(torch.arange(3), rank=0), torch.arange(3))


def test_random_states_come_back():
    cpu = torch.device("cpu")
    model = torch.nn.Linear(2, 2)
    optimiser = torch.optim.AdamW(model.parameters())
    model(torch.ones(2)).sum().backward()
    optimiser.step()
    parameters = dict(model.named_parameters())
    state = parallel.gather_state(optimiser, parameters, cpu, rank=0, world=1)
    drawn = torch.rand(5)
    again = torch.optim.AdamW(model.parameters())
    parallel.restore_state(state, again, parameters, cpu, rank=0)
    assert torch.equal(torch.rand(5), drawn)
    for parameter in parameters.values():
        for name, tensor in optimiser.state[parameter].items():
            assert torch.equal(again.state[parameter][name], tensor)
