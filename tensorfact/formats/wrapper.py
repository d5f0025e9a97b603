"""Formats made of another format: they share its rank, and what becomes of the network is theirs."""

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
    """A format that changes another's network. Its rank is the other's.

    Args:
        format: The other.
    """

    format: Format

    def __post_init__(self) -> None:
        if not isinstance(self.format, Format):
            raise FormatError(
                f"{type(self).__name__}: format", expected="a Format", got=repr(self.format), fix="TensorTrain(rank=4)"
            )

    def given(self, modes: Sequence[Mode]) -> Mapping[str, Tensor]:
        """Return the cores that are part of the other format."""
        return self.format.given(self.inner(modes))

    def explicit(self, modes: Sequence[Mode]) -> Self:
        """Return this with the other format's rank spelled out, on the modes that it gets."""
        return dataclasses.replace(self, format=self.format.explicit(self.inner(modes)))

    def inner(self, modes: Sequence[Mode]) -> tuple[Mode, ...]:
        """Return the modes that the other format gets; all by default.

        Args:
            modes: The tensor's modes.
        """
        return tuple(modes)

    @property
    def own_rank(self) -> Rank | None:
        """The other format's rank; None if it has none."""
        return self.format.own_rank

    def with_rank(self, rank: Rank) -> Self:
        """Return this with the other format at another rank."""
        return dataclasses.replace(self, format=self.format.with_rank(rank))
