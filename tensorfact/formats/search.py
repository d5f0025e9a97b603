"""Search for the rank of a format: the lowest that meets a condition, or the highest within a parameter budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, Self, TypeVar

from ..errors import RankError
from ..network import Mode
from .rank import FULL, Explicit, Rank, first_that, is_explicit


class Ranked(Protocol):
    """The methods of a format that the search uses."""

    @property
    def own_rank(self) -> Rank | None:
        """The rank as given by the user; None for a format without a rank."""

    def with_rank(self, rank: Rank) -> Self:
        """Return this format with another rank."""

    def explicit(self, modes: Sequence[Mode]) -> Self:
        """Return this format with an explicit rank."""

    def fitted(self, modes: Sequence[Mode]) -> Self:
        """Return this format with its rank lowered to the highest that the modes admit."""

    def num_parameters(self, modes: Sequence[Mode]) -> int:
        """Return the number of trainable parameters."""


F = TypeVar("F", bound=Ranked)


def spelled_rank(format: Ranked) -> Explicit:
    """Return the explicit rank of a format, or 1 for a format without a rank.

    Args:
        format: A format returned by `explicit`.
    """
    rank = format.own_rank
    assert is_explicit(rank) or rank is None
    return 1 if rank is None else rank


def highest_rank(format: Ranked) -> int:
    """Return the highest of the explicit ranks of a format.

    Args:
        format: A format returned by `explicit`.
    """
    rank = spelled_rank(format)
    return max(rank) if isinstance(rank, tuple) else rank


def capped(format: F, rank: int, modes: Sequence[Mode]) -> F:
    """Return a format with all ranks capped at a maximum and at what the modes admit.

    Args:
        format: The format.
        rank: The maximum for every bond or mode.
        modes: The tensor's modes.

    Examples:
        >>> from tensorfact import TensorTrain
        >>> from tensorfact.network import Mode
        >>> modes = (Mode("layer", 12, "stack"), Mode("in", 64, "in"), Mode("out", 64, "out"))
        >>> capped(TensorTrain((2, 8)), 4, modes)
        TensorTrain(rank=(2, 4), order=None)
    """
    own = spelled_rank(format.explicit(modes))
    if format.own_rank is None:
        return format
    lower = tuple(min(rank, each) for each in own) if isinstance(own, tuple) else min(rank, own)
    return format.with_rank(lower).fitted(modes)


def smallest(format: F, modes: Sequence[Mode], suits: Callable[[F], bool]) -> F:
    """Return a format at the smallest rank, one for all bonds, that meets a condition, or else at its own rank.

    Args:
        format: The format.
        modes: The tensor's modes.
        suits: The condition; if it holds at a rank, it holds at all higher ranks.
    """
    high = highest_rank(format.explicit(modes))
    return capped(format, first_that(lambda rank: suits(capped(format, rank, modes)), high), modes)


def largest(format: F, modes: Sequence[Mode], budget: int) -> F:
    """Return a format at the largest rank, one for all bonds, whose parameter count stays within a budget.

    Args:
        format: The format; its own rank is an upper bound unless it is a fraction or 'full'.
        modes: The tensor's modes.
        budget: The largest number of parameters.

    Raises:
        RankError: Rank 1 exceeds the budget.
    """
    bounded = format.own_rank is None or is_explicit(format.own_rank)
    top = format if bounded else format.with_rank(FULL).explicit(modes)
    if top.num_parameters(modes) <= budget:
        return top
    rank = first_that(lambda rank: capped(top, rank, modes).num_parameters(modes) > budget, highest_rank(top)) - 1
    if rank < 1:
        least = capped(top, 1, modes).num_parameters(modes)
        raise RankError(
            f"{format}: budget of {budget:,} parameters",
            expected=f"at least {least:,}, the size at rank 1",
            fix=f"use budget={least}, or a larger fraction as the rank",
        )
    return capped(top, rank, modes)
