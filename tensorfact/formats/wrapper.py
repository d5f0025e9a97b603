"""The base class of formats that wrap another format and change its network."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Self

from torch import Tensor

from ..errors import FormatError
from ..network import Mode
from .base import Format
from .rank import Rank


@dataclasses.dataclass(frozen=True)
class Wrapper(Format, abc.ABC):
    """A format that changes the network of an inner format and shares its rank.

    Args:
        format: The inner format.
    """

    format: Format

    def __post_init__(self) -> None:
        if not isinstance(self.format, Format):
            raise FormatError(
                f"{type(self).__name__}: format", expected="a Format", got=repr(self.format), fix="TensorTrain(rank=4)"
            )

    def given(self, modes: Sequence[Mode]) -> Mapping[str, Tensor]:
        """Return the fixed cores of the inner format."""
        return self.format.given(self.inner(modes))

    def explicit(self, modes: Sequence[Mode]) -> Self:
        """Return this format with the rank of the inner format made explicit for its modes."""
        return dataclasses.replace(self, format=self.format.explicit(self.inner(modes)))

    def inner(self, modes: Sequence[Mode]) -> tuple[Mode, ...]:
        """Return the modes of the inner format; by default all modes.

        Args:
            modes: The tensor's modes.
        """
        return tuple(modes)

    @property
    def own_rank(self) -> Rank | None:
        """The rank of the inner format; None if it has none."""
        return self.format.own_rank

    def with_rank(self, rank: Rank) -> Self:
        """Return this format with another rank of the inner format."""
        return dataclasses.replace(self, format=self.format.with_rank(rank))
