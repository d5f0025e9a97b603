"""A model's parameters: their names, the modules that own them, and models that cannot be adapted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from tensorfact import TensorTrain, adapt, doctor, plan_for
from tensorfact.errors import AdaptError, PlanError
from tensorfact.lab import nano
from tensorfact.model.parameters import (
    base_parameters,
    layer_of_peft,
    own_parameters,
    owner_of,
    owners_of,
    refuse_adapted,
)
from tests.helpers import refused


def tied() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    return model


def test_every_name_and_the_first_name_of_a_tied_parameter() -> None:
    model = tied()
    assert list(base_parameters(model)) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert list(own_parameters(model)) == ["0.weight", "0.bias", "1.bias"]


def test_a_tied_parameter_has_two_owners() -> None:
    model = tied()
    assert owners_of(model, ["0.weight"]) == {"0.weight": [(model[0], "weight"), (model[1], "weight")]}
    assert owner_of(model, "1.bias") == (model[1], "bias")


def test_the_parameters_of_an_adapter_are_not_the_model_s() -> None:
    model = nano()
    names = set(base_parameters(model))
    adapt(model, plan_for(model), TensorTrain(rank=2))
    assert set(base_parameters(model)) == names
    with refused(AdaptError, "adapted already", "model.tensorfact.remove()"):
        refuse_adapted(model)


def test_a_layer_of_peft_is_found() -> None:
    model = nano()
    assert layer_of_peft(model) is None
    get_peft_model(model, LoraConfig(target_modules=["fc2"]))
    assert layer_of_peft(model) == "blocks.0.mlp.fc2"


@pytest.mark.parametrize("model", [None, "nano", torch.zeros(3)])
def test_what_is_no_module_is_refused(model: object) -> None:
    with refused(PlanError, "a torch.nn.Module", fix=False):
        base_parameters(model)  # type: ignore[arg-type]
    with refused(AdaptError, "a torch.nn.Module", fix=False):
        refuse_adapted(model)  # type: ignore[arg-type]


@pytest.mark.parametrize("held", [lambda model: [model], lambda model: {"a": model}, nn.Module.state_dict])
def test_what_holds_tensors_is_named_by_its_class(held: Callable[[nn.Module], object]) -> None:
    given: Any = held(nn.Sequential(nn.Linear(20, 20)))
    for call in (adapt, doctor):
        with refused(AdaptError, f"expected a torch.nn.Module, got {type(given).__name__}. "):
            call(given)
    with refused(PlanError, f"got {type(given).__name__}. "):
        base_parameters(given)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_a_model_that_is_scripted_or_compiled_is_refused_before_its_parts_are_looked_at() -> None:
    scripted = torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2))  # type: ignore[no-untyped-call]  # torch's
    for call in (adapt, doctor):
        with refused(AdaptError, "the model is scripted already", "adapt the original model"):
            call(scripted)
    with refused(AdaptError, "the model is compiled already", "adapt the original model"):
        adapt(torch.compile(nano()))  # type: ignore[call-overload]


def test_a_lazy_module_has_no_shapes_yet() -> None:
    with refused(PlanError, "'weight' has no shape yet", "run the model once"):
        base_parameters(nn.LazyLinear(3))


def test_recurrent_modules_and_integers_are_refused() -> None:
    with refused(AdaptError, "'weight_ih_l0'", "GRU", "leave it out of the plan"):
        owners_of(nn.GRU(2, 2), ["weight_ih_l0"])
    model = nn.Linear(2, 2)
    model.weight = nn.Parameter(torch.zeros(2, 2, dtype=torch.int8), requires_grad=False)
    with refused(AdaptError, "torch.int8"):
        owners_of(model, ["weight"])
