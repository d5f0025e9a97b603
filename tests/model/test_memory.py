"""Parameters that share memory are refused by name; tied ones and those side by side in one buffer are not."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tensorfact import MatrixBatch, TensorTrain, adapt, plan_by_shape
from tensorfact.errors import AdaptError
from tensorfact.model.memory import refuse_shared_memory
from tests.helpers import layers, layers_plan, refused, untouched


def weights(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for name, parameter in model.named_parameters() if name.endswith("weight")]


def tied_through_data(model: nn.Module) -> None:
    first, second = weights(model)
    second.data = first.data


def transposed(model: nn.Module) -> None:
    first, second = weights(model)
    second.data = first.data.t()


def a_part(model: nn.Module) -> None:
    first, second = weights(model)
    whole = torch.randn(7, 6)
    first.data, second.data = whole[:6], whole[1:]


def assigned(model: nn.Module) -> None:
    state = dict(model.state_dict())
    state["1.weight"] = state["0.weight"]
    model.load_state_dict(state, assign=True)


@pytest.mark.parametrize("share", [tied_through_data, transposed, a_part, assigned])
def test_two_parameters_over_one_memory_are_refused(share: Callable[[nn.Module], None]) -> None:
    model = layers(2)
    share(model)
    with untouched(model), refused(AdaptError, "'0.weight'", "'1.weight'", "model[1].weight = model[0].weight"):
        adapt(model, layers_plan(), TensorTrain(2))


def test_an_adapted_parameter_that_shares_memory_with_another_is_refused() -> None:
    model = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    model["b"].weight.data = model["a"].weight.data
    with refused(AdaptError, "'a.weight'", "'b.weight'"):
        refuse_shared_memory(model, ["a.weight"])
    refuse_shared_memory(model, ["a.bias", "b.bias"])


@pytest.mark.parametrize("view", [lambda t: t[:1].expand(6, 6), lambda t: t[:, :1].expand(6, 6)])
def test_an_expanded_view_is_refused(view: Callable[[Tensor], Tensor]) -> None:
    model = layers(2)
    first, _ = weights(model)
    first.data = view(first.data)
    with refused(AdaptError, "'0.weight'", "expand()"):
        adapt(model, layers_plan(), TensorTrain(2))


def test_parameters_side_by_side_in_one_buffer_are_adapted() -> None:
    model = layers(3)
    expected = copy.deepcopy(model)(torch.ones(1, 6))
    parameters = list(model.parameters())
    flat = torch.cat([p.detach().reshape(-1) for p in parameters])
    for parameter, part in zip(parameters, torch.split(flat, [p.numel() for p in parameters]), strict=True):
        parameter.data = part.view(parameter.shape)
    adapter = adapt(model, layers_plan(), TensorTrain(2))
    assert torch.equal(model(torch.ones(1, 6)), expected)
    adapter.remove()


def test_a_tied_parameter_is_adapted_once() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))
    model[1].weight = model[0].weight
    adapter = adapt(model, plan_by_shape(model), MatrixBatch(2), train_head=False)
    assert len(adapter.resolved.parameters) == 2


def test_models_without_memory_are_not_looked_at() -> None:
    with torch.device("meta"):
        model = layers(2)
    refuse_shared_memory(model, ["0.weight", "1.weight"])
