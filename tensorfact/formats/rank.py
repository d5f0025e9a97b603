"""Ranks: what a user may give, what the modes allow, and the search for one that suits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeGuard

from ..common.checks import whole_number
from ..errors import RankError
from ..network import Mode

Rank = int | float | Literal["full"] | tuple[int, ...]
"""One rank for all bonds or modes, or one each; a fraction of the dense tensor's numbers; or the highest there is."""

Explicit = int | tuple[int, ...]
"""A rank that is spelled out."""

FULL: Literal["full"] = "full"


def checked_rank(rank: object, owner: str, *, several: bool = True) -> Rank:
    """Return a rank that may mean something.

    Args:
        rank: What the user gave.
        owner: The format's name, for messages.
        several: Whether one for each bond or mode may be given.

    Raises:
        RankError: It is neither a positive int, nor a fraction in (0, 1], nor 'full', nor (if allowed) positive ints.

    Examples:
        >>> checked_rank([2, 3], "Tucker"), checked_rank(0.1, "Tucker"), checked_rank("full", "Tucker")
        ((2, 3), 0.1, 'full')
    """
    if rank == FULL and isinstance(rank, str):
        return FULL
    if isinstance(rank, float) and 0 < rank <= 1:
        return float(rank)
    meant = "an int of at least 1, a fraction 0 < rank <= 1 of the dense size, or 'full'"
    if several and isinstance(rank, (tuple, list)) and rank:
        return tuple(check_count(each, f"{owner}: rank", meant) for each in rank)
    return check_count(rank, f"{owner}: rank", meant)


def check_count(count: object, owner: str, meant: str = "an int of at least 1") -> int:
    """Return a number of ranks, terms or the like.

    Args:
        count: What the user gave.
        owner: The option, for messages.
        meant: What it should have been.

    Raises:
        RankError: It is no int of at least 1.
    """
    return whole_number(count, owner, RankError, expected=meant, example=4)


def is_explicit(rank: object) -> TypeGuard[Explicit]:
    """Return whether a rank is spelled out, so that it means the same for all modes."""
    return not isinstance(rank, (str, float))


def spread_rank(rank: Explicit, limits: Mapping[str, int], owner: str) -> tuple[int, ...]:
    """Give every bond or mode its rank and hold it against what the modes allow.

    Args:
        rank: One rank for all, or one each.
        limits: The largest useful rank of each bond or mode, by its name.
        owner: The format, for messages.

    Returns:
        One rank for each of `limits`.

    Raises:
        RankError: Too many or too few ranks, or one above its limit.
    """
    ranks = (rank,) * len(limits) if isinstance(rank, int) else rank
    allowed = tuple(min(r, limit) for r, limit in zip(ranks, limits.values(), strict=False))
    if len(ranks) != len(limits) or allowed != ranks:
        fits = len(ranks) == len(limits)
        bounds = ", ".join(f"{name} <= {limit}" for name, limit in limits.items())
        raise RankError(
            f"{owner}",
            expected=f"{'' if fits else f'{len(limits)} rank(s), '}{bounds or 'no rank'}",
            got=f"rank={rank}",
            cause="" if not fits else "a mode of the tensor is smaller than the rank",
            fix=f"use rank={allowed if fits else tuple(limits.values())} or less",
            allowed=allowed if fits else None,
        )
    return ranks


def matrix_limit(rows: Sequence[Mode], columns: Sequence[Mode]) -> int:
    """Return the largest rank of the matrix between two sets of modes."""
    return min(math.prod(m.size for m in rows), math.prod(m.size for m in columns))


def first_that(holds: Callable[[int], bool], high: int) -> int:
    """Return the smallest number in 1..high for which a monotone condition holds; `high` if it holds for none.

    Small numbers are tried first, since large ones cost more.

    Args:
        holds: The condition; once it holds, it holds for all larger numbers.
        high: The last number.

    Examples:
        >>> first_that(lambda n: n * n > 50, 100)
        8
    """
    below, at = 0, 1
    while at < high and not holds(at):
        below, at = at, min(2 * at, high)
    while at - below > 1:
        middle = (below + at) // 2
        below, at = (below, middle) if holds(middle) else (middle, at)
    return at
