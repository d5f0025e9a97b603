"""What a model family is: parameter-name templates, the axes of their dimensions, and how they fold. Data only."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

Block = Literal["attention", "mlp", "conv", "depthwise"]


@dataclasses.dataclass(frozen=True)
class Part:
    """One kind of parameter in a family.

    Args:
        block: What it belongs to. `depthwise` kernels are folded on request alone.
        param: The template of its name, below what the family's names begin with in a model.
        pattern: The axes of its dimensions. Trailing dimensions of size one need no mention, so one part serves linear
            layers and 1 x 1 convolutions; a pattern with kernel dimensions takes larger kernels alone.
        role: Its label, or the labels along its `role` axis; None in a group without roles. A label ending in `*` is a
            width beside the model's own: it stands for as many numbered labels as the parameter has square chunks.
        optional: Whether a model of the family may lack it.
    """

    block: Block
    param: str
    pattern: str
    role: str | tuple[str, ...] | None
    optional: bool = False

    @property
    def roles(self) -> tuple[str, ...]:
        """The labels, without the stars."""
        return tuple(label.removesuffix("*") for label in self.role) if isinstance(self.role, tuple) else ()

    @property
    def is_wide(self) -> bool:
        """Whether it can be cut into square chunks."""
        return isinstance(self.role, tuple) and self.role[0].endswith("*")


@dataclasses.dataclass(frozen=True)
class Fold:
    """A group of a family: its name, modes, parts and partition."""

    name: str
    modes: str
    parts: tuple[Part, ...]
    partition: str | None = None


@dataclasses.dataclass(frozen=True)
class Example:
    """A published member of a family.

    Args:
        model: Its name on the command line.
        small: Options that make it small enough to be run in a test.
    """

    model: str
    small: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Family:
    """Models whose parameters have the same names.

    Args:
        name: What the field calls it.
        folds: Its groups.
        examples: Published members.
    """

    name: str
    folds: tuple[Fold, ...]
    examples: tuple[Example, ...]

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts of all groups."""
        return tuple(part for fold in self.folds for part in fold.parts)
