"""Ranks: validation, the limits that the modes set, and the search for a suitable rank."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeGuard

import numpy

from ..common.checks import whole_number
from ..errors import RankError
from ..network import Mode

Rank = int | float | Literal["full"] | tuple[int, ...]
"""One rank for all bonds or modes; one per bond or mode; a fraction of the dense size; or the highest rank."""

Explicit = int | tuple[int, ...]
"""A rank given as one or several ints, not as a fraction or 'full'."""

FULL: Literal["full"] = "full"


def checked_rank(rank: object, owner: str, *, several: bool = True) -> Rank:
    """Validate a rank and return it in its canonical form.

    Args:
        rank: The rank given by the user.
        owner: The format's name, for messages.
        several: Whether one rank per bond or mode is allowed.

    Raises:
        RankError: The rank is not a positive int, a fraction in (0, 1], 'full' or (if allowed) positive ints.

    Examples:
        >>> checked_rank([2, 3], "Tucker"), checked_rank(0.1, "Tucker"), checked_rank("full", "Tucker")
        ((2, 3), 0.1, 'full')
    """
    if isinstance(rank, str) and rank == FULL:
        return FULL
    if isinstance(rank, (float, numpy.floating)) and 0 < rank <= 1:
        return float(rank)
    meant = "an int of at least 1, a fraction 0 < rank <= 1 of the dense size, or 'full'"
    if several and isinstance(rank, (tuple, list)) and rank:
        return tuple(check_count(each, f"{owner}: rank", meant) for each in rank)
    return check_count(rank, f"{owner}: rank", meant)


def check_count(count: object, owner: str, meant: str = "an int of at least 1") -> int:
    """Validate a positive count, such as a rank or a number of terms.

    Args:
        count: The value given by the user.
        owner: The format and the option, for messages.
        meant: The expected value, for messages.

    Raises:
        RankError: The count is not an int of at least 1.
    """
    return whole_number(count, owner, RankError, expected=meant, example=4)


def is_explicit(rank: object) -> TypeGuard[Explicit]:
    """Return whether a rank is given as ints, which do not depend on the modes."""
    return not isinstance(rank, (str, float))


def spread_rank(rank: Explicit, limits: Mapping[str, int], owner: str) -> tuple[int, ...]:
    """Return the rank of every bond or mode, checked against its limit.

    Args:
        rank: One rank for all bonds or modes, or one per bond or mode.
        limits: The largest useful rank of each bond or mode, by its name.
        owner: The format, for messages.

    Returns:
        One rank for each of `limits`.

    Raises:
        RankError: Too many or too few ranks, or one above its limit.
    """
    ranks = (rank,) * len(limits) if isinstance(rank, int) else rank
    bounds = ", ".join(f"{name} <= {limit}" for name, limit in limits.items())
    if len(ranks) != len(limits):
        raise RankError(
            owner,
            expected=f"{len(limits)} rank(s), {bounds}" if limits else "a single rank",
            got=f"rank={rank}",
            fix=f"use rank={tuple(limits.values())} or less" if limits else "use rank=1",
        )
    allowed = tuple(min(r, limit) for r, limit in zip(ranks, limits.values(), strict=True))
    if allowed != ranks:
        raise RankError(
            owner,
            expected=bounds,
            got=f"rank={rank}",
            cause="a mode of the tensor is smaller than the rank",
            fix=f"use rank={allowed if len(allowed) > 1 else allowed[0]} or less",
            allowed=allowed,
        )
    return ranks


def matrix_limit(rows: Sequence[Mode], columns: Sequence[Mode]) -> int:
    """Return the largest rank of the matrix between two sets of modes."""
    return min(math.prod(m.size for m in rows), math.prod(m.size for m in columns))


def first_that(holds: Callable[[int], bool], high: int) -> int:
    """Return the smallest number in 1..high for which a monotone condition holds, or `high` if there is none.

    Small numbers are tried first because large ranks are more expensive to try.

    Args:
        holds: The condition; if it holds for a number, it holds for all larger numbers.
        high: The largest number.

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
