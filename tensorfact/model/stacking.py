"""Which parameters can be stacked by their shape, and why others cannot."""

from __future__ import annotations

import collections
from collections.abc import Mapping

from torch import Tensor, nn

from .head import head_prefixes, is_below
from .parameters import own_parameters, owner_of
from .sides import is_depthwise, is_stack, is_transposed
from .values import is_wide_float

VECTOR = "a vector"
"""The reason for a bias, a norm's weight, or another parameter with one dimension."""

HEAD = "the head, trained directly"
"""The reason for a parameter of the model's head."""

ALONE = "the only one of its shape"
UNNAMED = "no rule names it"
"""The reasons for a parameter that can be stacked but is in no tensor."""

STACK = "a stack of matrices, not a kernel: write a rule"
"""The reason for a parameter of more than two dimensions whose outputs are not known, as a mixture's experts."""


def stack_shape(model: nn.Module, name: str, parameter: Tensor) -> tuple[int, ...]:
    """Return the sizes that parameters of one stack share: outputs, inputs, and a kernel's size unless it is 1.

    Args:
        model: The model.
        name: The parameter's name.
        parameter: A parameter of at least two dimensions.
    """
    first, second, *kernel = parameter.shape
    outputs, inputs = (second, first) if is_transposed(*owner_of(model, name)) else (first, second)
    return (outputs, inputs, *(kernel if set(kernel) - {1} else ()))


def stackable(model: nn.Module, reasons: Mapping[str, str] | None = None) -> dict[str, tuple[int, ...]]:
    """Return the stack shape of every parameter that can be stacked, by its first name.

    Args:
        model: The model.
        reasons: What `obstacles` returned; by default it is called.
    """
    named, found = own_parameters(model), reasons or obstacles(model)
    return {name: stack_shape(model, name, named[name]) for name, reason in found.items() if not reason}


def weights(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the entries of `stackable`, and the shapes of the stacks of matrices, which a plan may hold too."""
    named, found = own_parameters(model), obstacles(model)
    stacks = {name: tuple(named[name].shape) for name, reason in found.items() if reason == STACK}
    return {**stackable(model, found), **stacks}


def repeated(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return the entries of `stackable` whose shape occurs at least twice."""
    counts = collections.Counter(shapes.values())
    return {name: shape for name, shape in shapes.items() if counts[shape] > 1}


def obstacles(model: nn.Module) -> dict[str, str]:
    """Return the reason why each parameter cannot be stacked, by its first name; an empty string if it can."""
    heads = head_prefixes(model)
    named = own_parameters(model).items()
    return {
        name: HEAD if is_below(name, heads) else _obstacle(*owner_of(model, name), parameter)
        for name, parameter in named
    }


def _obstacle(module: nn.Module, attribute: str, parameter: Tensor) -> str:
    if not is_wide_float(parameter):
        return "not floating point, or in 8 bits"
    if isinstance(module, nn.RNNBase):
        return "recurrent: the module uses copies of its weights"
    if sum(size > 1 for size in parameter.shape) < 2:
        return VECTOR
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return "an embedding: looked up, not multiplied"
    if any(word in attribute for word in ("bias", "embed", "pos", "table", "token")):
        return "a table, not a layer's weight"
    if is_stack(module, parameter):
        return STACK
    return "a depthwise kernel" if is_depthwise(module, parameter) else ""
