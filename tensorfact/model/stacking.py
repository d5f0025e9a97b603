"""Which parameters can be stacked by their shape, and why others cannot."""

from __future__ import annotations

import collections
from collections.abc import Mapping

from torch import Tensor, nn

from .head import head_prefixes, is_below
from .parameters import own_parameters, owner_of
from .sides import is_depthwise, is_stack, is_transposed

VECTOR = "a vector"
"""The reason for a bias, a norm's weight, or another parameter with one dimension."""

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


def stackable(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the stack shape of every parameter that can be stacked, by its first name."""
    found = {name: p for name, p in own_parameters(model).items() if not obstacle(model, name, p)}
    return {name: stack_shape(model, name, parameter) for name, parameter in found.items()}


def weights(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the entries of `stackable`, and the shapes of the stacks of matrices, which a plan may hold too."""
    stacks = {n: tuple(p.shape) for n, p in own_parameters(model).items() if obstacle(model, n, p) == STACK}
    return {**stackable(model), **stacks}


def repeated(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return the entries of `stackable` whose shape occurs at least twice."""
    counts = collections.Counter(shapes.values())
    return {name: shape for name, shape in shapes.items() if counts[shape] > 1}


def obstacle(model: nn.Module, name: str, parameter: Tensor) -> str:
    """Return the reason why a parameter cannot be stacked; an empty string if it can.

    Args:
        model: The model.
        name: The parameter's name.
        parameter: The parameter.
    """
    module, attribute = owner_of(model, name)
    if is_below(name, head_prefixes(model)):
        return "the head, trained directly"
    if not parameter.is_floating_point():
        return "not floating point"
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
