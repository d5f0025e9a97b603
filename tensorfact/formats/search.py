"""Search for the rank of a format: one rank for all bonds, the lowest that suits, the highest within a budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, Self, TypeVar

from ..errors import RankError
from ..network import Mode
from .rank import FULL, Explicit, Rank, first_that, is_explicit


class Ranked(Protocol):
    """What the search asks of a format."""

    @property
    def own_rank(self) -> Rank | None:
        """The rank as it was given; None for a format that has none."""

    def with_rank(self, rank: Rank) -> Self:
        """Return this format at another rank."""

    def explicit(self, modes: Sequence[Mode]) -> Self:
        """Return this format with its rank spelled out."""

    def fitted(self, modes: Sequence[Mode]) -> Self:
        """Return this format with its rank lowered to what the modes allow."""

    def num_parameters(self, modes: Sequence[Mode]) -> int:
        """Return how many numbers the trained factors hold."""


F = TypeVar("F", bound=Ranked)


def spelled_rank(format: Ranked) -> Explicit:
    """Return the rank of a format in which it is explicit; 1 for a format that has none.

    Args:
        format: The format, as its `explicit` returns it.
    """
    rank = format.own_rank
    assert is_explicit(rank) or rank is None
    return 1 if rank is None else rank


def highest_rank(format: Ranked) -> int:
    """Return the highest of the ranks of a format in which they are explicit.

    Args:
        format: The format, as its `explicit` returns it.
    """
    rank = spelled_rank(format)
    return max(rank) if isinstance(rank, tuple) else rank


def capped(format: F, rank: int, modes: Sequence[Mode]) -> F:
    """Return a format with no rank above one: that rank for all bonds, or the format's own where that is lower.

    Args:
        format: The format.
        rank: The highest rank.
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
    """Return a format at the smallest rank, one for all bonds, that suits; at its own if none does.

    Args:
        format: The format.
        modes: The tensor's modes.
        suits: Whether a format suits; if it does, so do all with higher ranks.
    """
    high = highest_rank(format.explicit(modes))
    return capped(format, first_that(lambda rank: suits(capped(format, rank, modes)), high), modes)


def largest(format: F, modes: Sequence[Mode], budget: int) -> F:
    """Return a format at the largest rank, one for all bonds, whose factors hold no more numbers than a budget.

    Args:
        format: The format; a rank that is a fraction sets no bound.
        modes: The tensor's modes.
        budget: How many numbers.

    Raises:
        RankError: Rank 1 takes more.
    """
    bounded = format.own_rank is None or is_explicit(format.own_rank)
    top = format if bounded else format.with_rank(FULL).explicit(modes)
    if top.num_parameters(modes) <= budget:
        return top
    rank = first_that(lambda rank: capped(top, rank, modes).num_parameters(modes) > budget, highest_rank(top)) - 1
    if rank < 1:
        least = capped(top, 1, modes).num_parameters(modes)
        raise RankError(
            f"{format}: a budget of {budget:,} numbers",
            expected=f"at least {least:,}, which rank 1 takes",
            got=f"{budget:,}",
            fix=f"budget={least}",
        )
    return capped(top, rank, modes)
