"""The interfaces of a comparison: `Method` prepares a model for training, `Trained` is what it attached."""

from __future__ import annotations

from typing import Protocol

from torch import nn

from ...common.checks import AnyPath, whole_number
from ...errors import AdaptError


def require_size(what: str, value: object) -> None:
    """Raise unless a size is an int of at least 1.

    Args:
        what: Name of the argument, for the message.
        value: Value of the argument.

    Raises:
        AdaptError: The value has another type or is below 1.
    """
    whole_number(value, what, AdaptError, example=8)


def required_sizes(what: str, given: object, each: str) -> tuple[int, ...]:
    """Return sizes as a tuple; a list, as read from JSON, is accepted.

    Args:
        what: Name of the argument, for the message.
        given: Value of the argument.
        each: Purpose of the sizes, for the message.

    Raises:
        AdaptError: The value is not a tuple or list of ints of at least 0.
    """
    if not isinstance(given, (tuple, list)) or any(type(size) is not int or size < 0 for size in given):
        raise AdaptError(what, expected=f"a tuple of ints of at least 0, {each}", got=repr(given))
    return tuple(given)


class Trained(Protocol):
    """Something trainable attached to a model: an `Adapter`, or the modules of a baseline."""

    @property
    def num_parameters(self) -> int:
        """Number of trained parameters, without the head."""

    def merge(self) -> None:
        """Merge what was trained into the model's weights, where that is possible."""

    def save(self, path: AnyPath) -> None:
        """Write the trained parameters to one file."""

    def remove(self) -> None:
        """Remove it from the model, and restore `requires_grad` of every parameter."""


class Method(Protocol):
    """A method of a comparison: how a model is prepared for training."""

    @property
    def label(self) -> str:
        """Name of the method in tables."""

    def attach(self, model: nn.Module, seed: int) -> Trained:
        """Prepare a model for training with this method, in place."""
