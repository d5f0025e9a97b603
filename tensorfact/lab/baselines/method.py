"""What a row of a comparison is: a method that makes a model train, and what it attached."""

from __future__ import annotations

from typing import Protocol

from torch import nn

from ...common.checks import AnyPath, whole_number
from ...errors import AdaptError


def require_size(what: str, value: object) -> None:
    """Refuse a size that is no int from 1 up.

    Args:
        what: The argument.
        value: What arrived.

    Raises:
        AdaptError: It is refused.
    """
    whole_number(value, what, AdaptError, example=8)


def required_sizes(what: str, given: object, each: str) -> tuple[int, ...]:
    """Return sizes as a tuple, also where they are a list, as JSON has them.

    Args:
        what: The argument.
        given: What arrived.
        each: What there is a size for.

    Raises:
        AdaptError: These are no ints from 0 up.
    """
    if not isinstance(given, (tuple, list)) or any(type(size) is not int or size < 0 for size in given):
        raise AdaptError(what, expected=f"ints from 0 up, {each}", got=repr(given))
    return tuple(given)


class Trained(Protocol):
    """Something attached to a model that trains: an `Adapter`, or what a baseline attached."""

    @property
    def num_parameters(self) -> int:
        """How many numbers train, the head apart."""

    def merge(self) -> None:
        """Write what was trained into the model's weights, where that is possible."""

    def save(self, path: AnyPath) -> None:
        """Write what was trained to one file."""

    def remove(self) -> None:
        """Take it off the model; every parameter requires gradients as it did before."""


class Method(Protocol):
    """A row of a comparison: how a model is made to train."""

    @property
    def label(self) -> str:
        """The row's name."""

    def attach(self, model: nn.Module, seed: int) -> Trained:
        """Make a model train in this method's way, in place."""
