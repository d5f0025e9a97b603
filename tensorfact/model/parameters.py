"""A model's parameters: their names, and the modules that own them. The model is only read."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor, nn

from ..common.checks import quoted
from ..errors import AdaptError, PlanError
from .values import is_offloaded, is_wide_float

ATTRIBUTE = "tensorfact"
"""The name under which an adapter is registered on a model's root."""

BASELINE = "baseline"
"""The name under which a baseline registers what it adds to a module."""

SLOTS = "_tensorfact"
"""The attribute in which an adapted module keeps its slots."""

Owners = dict[str, list[tuple[nn.Module, str]]]
"""The modules that hold each parameter, with its name in them."""


def base_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return all parameters but an adapter's; a tied parameter has several names.

    Raises:
        PlanError: `model` is not a module, or has lazy parameters without a shape.
    """
    if not isinstance(model, nn.Module):
        raise PlanError(
            "model",
            expected="a torch.nn.Module",
            got=quoted(model),
            fix="pass the model itself, as in plan_for(model)",
        )
    named = dict(model.named_parameters(remove_duplicate=False))
    if lazy := [n for n, p in named.items() if isinstance(p, nn.parameter.UninitializedParameter)]:
        raise PlanError(
            f"parameter {lazy[0]!r} has no shape yet", fix="run the model once to initialize its lazy modules"
        )
    return {name: parameter for name, parameter in named.items() if not name.startswith(f"{ATTRIBUTE}.")}


def own_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return all parameters but an adapter's, each once, by its first name."""
    named = base_parameters(model)
    first = {id(parameter): name for name, parameter in reversed(named.items())}
    return {name: parameter for name, parameter in named.items() if first[id(parameter)] == name}


def base_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and persistent buffers but an adapter's; a tied one has several names.

    Raises:
        PlanError: As `base_parameters`.
    """
    found: dict[str, Tensor] = dict(base_parameters(model))
    for path, module in model.named_modules(remove_duplicate=False):
        if path.partition(".")[0] == ATTRIBUTE:
            continue
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                found[f"{path}.{name}" if path else name] = buffer
    return found


def each_once(tensors: Mapping[str, Tensor], apart: Collection[str] = ()) -> dict[str, Tensor]:
    """Return each tensor once, by its first name, without some of them.

    Args:
        tensors: Tensors by name; a tied one has several names.
        apart: Names of those to leave out, by any of their names.
    """
    seen = {id(tensors[name]) for name in apart if name in tensors}
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            found[name] = tensor
    return found


def owner_of(model: nn.Module, parameter: str) -> tuple[nn.Module, str]:
    """Return the module that holds a parameter, and the parameter's name in it."""
    path, _, attribute = parameter.rpartition(".")
    return model.get_submodule(path), attribute


def layer_of_peft(model: nn.Module) -> str | None:
    """Return the name of a layer that peft has put around one of the model; None if there is none.

    peft need not be installed: its layers hold the original one as `base_layer`, and their classes name their parts.
    """
    named = model.named_modules()
    return next((n for n, m in named if "base_layer" in m._modules and hasattr(type(m), "adapter_layer_names")), None)


def refuse_compiled(model: nn.Module, function: str) -> None:
    """Raise if a model is no module, compiled or scripted, so that its layers cannot be changed.

    Args:
        model: The model.
        function: What the caller called, for messages.
    """
    if not isinstance(model, nn.Module):
        raise AdaptError(
            f"{function}: model",
            expected="a torch.nn.Module",
            got=type(model).__name__,
            fix=f"pass the model itself, as in {function}(model)",
        )
    if hasattr(model, "_orig_mod"):
        raise AdaptError(
            f"{function}: the model is compiled already",
            fix="adapt the original model, then call torch.compile",
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise AdaptError(
            f"{function}: the model is scripted already, and its layers cannot be changed",
            cause="torch.jit.trace, torch.jit.script or torch.jit.load",
            fix="adapt the original model, then call torch.jit.trace",
        )


def refuse_adapted(model: nn.Module, function: str = "adapt") -> None:
    """Raise if a model cannot take an adapter: it is compiled or scripted, or already has an adapter or a baseline."""
    refuse_compiled(model, function)
    adapted = [name or "the model" for name, module in model.named_modules() if SLOTS in module.__dict__]
    if adapted or hasattr(model, ATTRIBUTE):
        raise AdaptError(
            f"the model is adapted already ({(adapted or [ATTRIBUTE])[0]})",
            fix="call model.tensorfact.remove() first, and merge() before that to keep the trained change",
        )
    for name, module in model.named_modules():
        found = dict(module.named_children()).get(BASELINE)
        if hasattr(found, "remove"):  # a model may have a module of this name itself, without `remove`
            path = ".".join(filter(None, ("model", name, BASELINE)))
            raise AdaptError("the model already has a baseline", fix=f"call {path}.remove() first")


def owners_of(model: nn.Module, names: Iterable[str]) -> Owners:
    """Return the modules that hold each of the parameters; a tied parameter has several.

    Raises:
        AdaptError: A parameter or its module cannot be adapted.
    """
    parameters = base_parameters(model)
    by_id = {id(parameters[name]): name for name in names}
    owners: Owners = {name: [] for name in names}
    for module in model.modules():
        for attribute, parameter in module._parameters.items():
            if parameter is None or id(parameter) not in by_id:
                continue
            name = by_id[id(parameter)]
            owners[name].append((module, attribute))
            if is_offloaded(module, parameter):
                raise AdaptError(
                    f"{name!r} is offloaded by accelerate",
                    cause="cpu_offload, disk_offload, or a device_map that does not hold the whole model",
                    fix="accelerate.hooks.remove_hook_from_module(model, recurse=True), then adapt the model",
                )
            if parameter.is_inference():
                raise AdaptError(
                    f"{name!r} was created in torch.inference_mode() and cannot be changed",
                    fix="create or load the model outside inference_mode",
                )
            if isinstance(module, (nn.RNNBase, torch.jit.ScriptModule)) or not is_wide_float(parameter):
                raise AdaptError(
                    f"{name!r} ({parameter.dtype}) of {type(module).__name__} cannot be adapted",
                    cause="a recurrent or scripted module copies its weights; torch does not train integers or 8 bits",
                    fix="leave it out of the plan",
                )
    return owners
