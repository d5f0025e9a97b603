"""`Family`: the parameter names of a model family, the axes of their dimensions, and how they fold, as data."""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal

from ...common.aliases import Options
from ..notation import parse_axes

Block = Literal["attention", "mlp", "conv", "depthwise", "experts"]


@dataclasses.dataclass(frozen=True)
class Heads:
    """Where a model states the numbers that divide a fused q, k and v by heads.

    Each is the name of an attribute of a module around the weight, or of such a module's configuration.

    Args:
        queries: The number of query heads.
        size: The number of rows of one head.
        keys: The number of key heads, each of which serves equally many query heads; None if all heads have their own.
    """

    queries: str
    size: str
    keys: str | None = None


@dataclasses.dataclass(frozen=True)
class Part:
    """One kind of parameter in a family.

    Args:
        block: The kind of layer. `depthwise` kernels, and the `experts` of a mixture, are folded only on request.
        param: The template of its name, without the prefix that a model may have before all names of the family.
        pattern: The axes of its dimensions. Trailing dimensions of size one need no mention, so one part serves linear
            layers and 1 x 1 convolutions; a pattern with kernel dimensions matches only larger kernels.
        role: Its label, or the labels along its `role` axis; None in a group without roles. A label ending in `*` is
            for a matrix wider than the model: it becomes one numbered label for each square chunk.
        optional: Whether a model of the family may be without it.
        heads: For a fused q, k and v whose sizes the shape does not tell, because several query heads share a key, or
            because the heads alternate: the axis `head` of the pattern has one coordinate for each key head. If a key
            serves several queries, the first label becomes one numbered label for each of them.
        dead: The layers in which the weight has no effect on the output; it is left out there.
    """

    block: Block
    param: str
    pattern: str
    role: str | tuple[str, ...] | None
    optional: bool = False
    heads: Heads | None = None
    dead: tuple[int, ...] = ()

    @property
    def roles(self) -> tuple[str, ...]:
        """The labels, without the stars."""
        return tuple(label.removesuffix("*") for label in self.role) if isinstance(self.role, tuple) else ()

    @functools.cached_property
    def divided(self) -> int:
        """The dimension that the labels divide."""
        return next(at for at, dim in enumerate(parse_axes(self.pattern, self.param)) if "role" in dim)

    @property
    def is_wide(self) -> bool:
        """Whether its labels end in `*`: it is cut into square chunks if its shape allows."""
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
        small: Options that make it small enough for a test.
    """

    model: str
    small: Options = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Family:
    """Models that have the same parameter names.

    Args:
        name: Its usual name, such as `vit`.
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
