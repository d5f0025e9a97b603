"""What a module is for its parameters: where the outputs lie, which is the head, what cannot be stacked."""

from __future__ import annotations

import collections
from collections.abc import Mapping

from torch import Tensor, nn

from .errors import PlanError

ATTRIBUTE = "tensorfact"
"""The name under which an adapter is registered on a model's root."""

BASELINE = "baseline"
"""The same for what a baseline adds to a model."""

VECTOR = "a vector"
"""The reason not to stack a bias, a norm's weight, or another parameter along one dimension."""

ALONE = "the only one of its shape"
UNNAMED = "no rule names it"
"""Why a parameter that could be stacked is not."""


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


def is_conv1d(module: nn.Module) -> bool:
    """Return whether this is transformers' `Conv1D`, a linear layer that stores its weight as (in, out)."""
    classes = [(cls.__module__, cls.__name__) for cls in type(module).__mro__]
    return ("transformers.pytorch_utils", "Conv1D") in classes


def is_transposed(module: nn.Module, attribute: str) -> bool:
    """Return whether a parameter's outputs are its second dimension.

    So it is in transposed convolutions, embeddings, and transformers' `Conv1D`.
    """
    kinds = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Embedding, nn.EmbeddingBag)
    return attribute == "weight" and (isinstance(module, kinds) or is_conv1d(module))


def is_depthwise(module: nn.Module, parameter: Tensor) -> bool:
    """Return whether a parameter is the kernel of a convolution that keeps its channels apart."""
    return getattr(module, "groups", 1) > 1 and parameter.dim() > 2 and parameter.shape[1] == 1


def head_prefixes(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the modules that timm says are the classifier: `pretrained_cfg["classifier"]`."""
    config = getattr(model, "pretrained_cfg", None)
    named = config.get("classifier") if isinstance(config, Mapping) else None
    names = named if isinstance(named, (tuple, list)) else (named,)
    return tuple(name for name in names if isinstance(name, str) and name)


def is_below(name: str, prefixes: tuple[str, ...]) -> bool:
    """Return whether a parameter is one of these, or inside a module of these names."""
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def stack_shape(model: nn.Module, name: str, parameter: Tensor) -> tuple[int, ...]:
    """Return the sizes that parameters of one stack share: outputs, inputs, a kernel's positions if there are several.

    Args:
        model: The model.
        name: The parameter's name.
        parameter: The parameter, of at least two dimensions.
    """
    first, second, *kernel = parameter.shape
    outputs, inputs = (second, first) if is_transposed(*owner_of(model, name)) else (first, second)
    return (outputs, inputs, *(kernel if set(kernel) - {1} else ()))


def stackable(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the stack shapes of all parameters that nothing keeps from being stacked, by their first name."""
    found = {name: p for name, p in own_parameters(model).items() if not obstacle(model, name, p)}
    return {name: stack_shape(model, name, parameter) for name, parameter in found.items()}


def repeated(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return those of what `stackable` found that share their shape with another."""
    counts = collections.Counter(shapes.values())
    return {name: shape for name, shape in shapes.items() if counts[shape] > 1}


def obstacle(model: nn.Module, name: str, parameter: Tensor) -> str:
    """Return why a parameter is not one to stack, or nothing.

    Args:
        model: The model.
        name: The parameter's name.
        parameter: The parameter.
    """
    module, attribute = owner_of(model, name)
    if is_below(name, head_prefixes(model)):
        return "the head, which trains by itself"
    if not parameter.is_floating_point():
        return "no floating-point numbers"
    if isinstance(module, nn.RNNBase):
        return "recurrent: the module reads copies of its weights"
    if sum(size > 1 for size in parameter.shape) < 2:
        return VECTOR
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return "an embedding: looked up, not multiplied"
    if any(word in attribute for word in ("bias", "embed", "pos", "table", "token")):
        return "a table, not a layer's weight"
    return "a depthwise kernel" if is_depthwise(module, parameter) else ""
