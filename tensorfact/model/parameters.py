"""A model's parameters: their names, and the modules that own them. Nothing here writes to a model."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from ..errors import AdaptError, PlanError

ATTRIBUTE = "tensorfact"
"""The name under which an adapter is registered on a model's root."""

BASELINE = "baseline"
"""The same for what a baseline adds to a model."""

SLOTS = "_tensorfact"
"""The attribute in which an adapted module keeps its slots."""

Owners = dict[str, list[tuple[nn.Module, str]]]
"""The modules that hold each parameter, with its name in them."""


def base_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return all parameters but an adapter's, by every name they have.

    Raises:
        PlanError: This is no module, or its shapes are not known yet.
    """
    if not isinstance(model, nn.Module):
        raise PlanError("model", expected="a torch.nn.Module", got=repr(model)[:80])
    if lazy := [n for n, p in model.named_parameters() if isinstance(p, nn.parameter.UninitializedParameter)]:
        raise PlanError(
            f"parameter {lazy[0]!r} has no shape yet", fix="run the model once, which sizes its lazy modules"
        )
    named = model.named_parameters(remove_duplicate=False)
    return {name: parameter for name, parameter in named if not name.startswith(f"{ATTRIBUTE}.")}


def own_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return all parameters but an adapter's, each once, by the first name it has."""
    named = base_parameters(model)
    first = {id(parameter): name for name, parameter in reversed(named.items())}
    return {name: parameter for name, parameter in named.items() if first[id(parameter)] == name}


def owner_of(model: nn.Module, parameter: str) -> tuple[nn.Module, str]:
    """Return the module that holds a parameter, and the parameter's name in it."""
    path, _, attribute = parameter.rpartition(".")
    return model.get_submodule(path), attribute


def refuse_adapted(model: nn.Module) -> None:
    """Raise unless this is a module that holds neither an adapter nor what a baseline added."""
    if not isinstance(model, nn.Module):
        raise AdaptError("adapt: model", expected="a torch.nn.Module", got=type(model).__name__)
    if hasattr(model, "_orig_mod"):
        raise AdaptError("adapt: the model is compiled already", fix="adapt the model itself, then torch.compile it")
    adapted = [name or "the model" for name, module in model.named_modules() if SLOTS in module.__dict__]
    if adapted or hasattr(model, ATTRIBUTE):
        raise AdaptError(
            f"the model is adapted already ({(adapted or [ATTRIBUTE])[0]})",
            fix="call model.tensorfact.remove() first; merge() before that keeps what it learned",
        )
    for name, module in model.named_modules():
        found = dict(module.named_children()).get(BASELINE)
        if hasattr(found, "remove"):  # a model may have a module of this name of its own, without that
            path = ".".join(filter(None, ("model", name, BASELINE)))
            raise AdaptError("the model has a baseline on it already", fix=f"call {path}.remove() first")


def owners_of(model: nn.Module, names: Iterable[str]) -> Owners:
    """Find every module that holds one of the parameters, tied ones included, and refuse what cannot be adapted."""
    parameters = base_parameters(model)
    by_id = {id(parameters[name]): name for name in names}
    owners: Owners = {name: [] for name in names}
    for module in model.modules():
        for attribute, parameter in module._parameters.items():
            if parameter is None or id(parameter) not in by_id:
                continue
            name = by_id[id(parameter)]
            owners[name].append((module, attribute))
            if parameter.is_inference():
                raise AdaptError(
                    f"{name!r} was made in torch.inference_mode() and cannot be changed",
                    fix="make or load the model outside of it",
                )
            if isinstance(module, (nn.RNNBase, torch.jit.ScriptModule)) or not parameter.is_floating_point():
                raise AdaptError(
                    f"{name!r} ({parameter.dtype}) of {type(module).__name__} cannot be adapted",
                    cause="recurrent and scripted modules keep copies of their weights; integers have no increment",
                    fix="leave it out of the plan",
                )
    return owners
