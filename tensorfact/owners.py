"""Who holds a model's parameters: every name, every module, and the head. Nothing here writes to a model."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from .anatomy import ATTRIBUTE, BASELINE, base_parameters, head_prefixes, is_below
from .errors import AdaptError, nearest
from .layers import SLOTS

Owners = dict[str, list[tuple[nn.Module, str]]]


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


def head_buffers(model: nn.Module, head: Iterable[str]) -> dict[str, Tensor]:
    """Return the buffers beside the head's parameters: the running statistics of a normalisation in it."""
    modules = {name.rpartition(".")[0] for name in head}
    return {name: buffer for name, buffer in model.named_buffers() if name.rpartition(".")[0] in modules}


def head_parameters(model: nn.Module, train_head: bool | str) -> tuple[str, ...]:
    """Return the names of the head's parameters."""
    if not isinstance(train_head, (bool, str)):
        raise AdaptError("adapt: train_head", expected="True, False or a module's name", got=repr(train_head))
    if not train_head or not isinstance(model, nn.Module):
        return ()
    prefixes = (train_head,) if isinstance(train_head, str) else head_prefixes(model)
    found = tuple(name for name in base_parameters(model) if is_below(name, prefixes))
    if isinstance(train_head, str) and not found:
        names = [name for name, _ in model.named_modules()]
        raise AdaptError(
            f"adapt: train_head={train_head!r} names no module with parameters",
            got=f"{train_head!r}{nearest(train_head, names)}",
            fix="pass the head's module name, or train_head=False",
        )
    return found
