"""Choose the ranks of all tensors within a parameter budget: one for all bonds, or by the error of truncation."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal

from ..errors import FormatError, RankError
from ..formats import Format
from ..formats.rank import first_that
from ..formats.search import capped, highest_rank, spelled_rank
from ..formats.wrapper import Wrapper
from ..network import Mode
from ..storage import AdapterState
from .recompression import squared_errors
from .term import Term, terms_of

Spread = Literal["even", "energy"]
"""How a budget is spread: one rank for all bonds, or the ranks at which the truncated increments change least."""

Modes = Mapping[str, Sequence[Mode]]
Formats = dict[str, Format]


def size_at(formats: Mapping[str, Format], modes: Modes, rank: int) -> int:
    """Return the number of parameters of all tensors with their ranks capped at a maximum.

    Args:
        formats: Formats by tensor name.
        modes: The modes of every tensor.
        rank: The maximum for every bond.
    """
    return sum(capped(format, rank, modes[name]).num_parameters(modes[name]) for name, format in formats.items())


def even_split(formats: Mapping[str, Format], modes: Modes, budget: int) -> Formats:
    """Return the formats at the highest rank, one for all bonds of all tensors, within a parameter budget.

    Args:
        formats: Formats by tensor name; their own ranks are upper bounds.
        modes: The modes of every tensor.
        budget: The largest number of parameters of all tensors together.

    Raises:
        RankError: Rank 1 exceeds the budget.
    """
    least = size_at(formats, modes, 1)
    if least > budget:
        raise RankError(
            f"round_ranks: budget of {budget:,} parameters",
            expected=f"at least {least:,}, the size at rank 1",
            fix=f"use budget={least}, or convert to a smaller format",
        )
    if sum(format.num_parameters(modes[name]) for name, format in formats.items()) <= budget:
        return dict(formats)
    high = max(highest_rank(format.explicit(modes[name])) for name, format in formats.items())
    rank = first_that(lambda rank: size_at(formats, modes, rank) > budget, high) - 1
    return {name: capped(format, rank, modes[name]) for name, format in formats.items()}


def by_energy(state: AdapterState, budget: int) -> Formats:
    """Return the ranks within a parameter budget at which truncation changes the increments least; a greedy search.

    The error is the squared Frobenius norm of the change of all increments, scales included. From the present ranks,
    the rank that adds the least error per parameter saved is lowered by one until the budget is met. Then the rank that
    removes the most error per parameter is raised by one while the budget allows it. The even split is returned where
    it is no worse. All ranks of a tensor move together in formats whose decomposition is an alternating least squares.

    Args:
        state: The adapter.
        budget: The largest number of parameters of all tensors together.

    Raises:
        RankError: Rank 1 exceeds the budget.

    Source: the greedy rule of G. Ceruti, J. Kusch and C. Lubich, BIT 2022, and of AdaLoRA (Q. Zhang et al., ICLR 2023),
        with exact errors in the place of importance scores.
    """
    formats, modes = state.description.formats, state.description.modes
    even = even_split(formats, modes, budget)
    if state.num_parameters <= budget:
        return even
    parts = {name: _Part(state, name) for name in state.names}
    own = {name: part.format for name, part in parts.items()}
    chosen = _raised(parts, _lowered(parts, own, budget), budget)
    return even if chosen is None or _error(parts, even) <= _error(parts, chosen) else chosen


class _Part:
    """One tensor: the sizes and squared errors of its increment at lower ranks.

    Args:
        state: The adapter.
        name: The tensor's name.
    """

    def __init__(self, state: AdapterState, name: str) -> None:
        self.modes, self.name = state.description.modes[name], name
        self.format = _apart(state.description.formats[name], self.modes)
        self._terms: list[Term] = terms_of(state, name, state.description.scales[name])
        self.error: Callable[[Format], float] = functools.cache(self._measured)
        self.size: Callable[[Format], int] = functools.cache(self._counted)

    @functools.cached_property
    def _errors(self) -> Callable[[Format], float]:
        return squared_errors(self._terms, self.modes, self.format)

    def _measured(self, format: Format) -> float:
        if format == self.format and len(self._terms) == 1:
            return 0.0
        return self._errors(format)

    def _counted(self, format: Format) -> int:
        return format.num_parameters(self.modes)

    def neighbours(self, format: Format, step: int) -> Iterator[Format]:
        """Yield the formats with one rank lowered or raised by one, none above the present rank.

        Where each trial is an alternating least squares, all ranks are changed together, which needs few trials.
        """
        if format.own_rank is None:
            return
        ranks, most = _ranks(format), _ranks(self.format)
        bonds = [range(len(ranks))] if by_least_squares(format) else [range(at, at + 1) for at in range(len(ranks))]
        for chosen in bonds:
            changed = (rank + step if at in chosen else rank for at, rank in enumerate(ranks))
            bounded = tuple(min(max(rank, 1), high) for rank, high in zip(changed, most, strict=True))
            found = _with_ranks(format, bounded).fitted(self.modes)
            if (self.size(found) - self.size(format)) * step > 0:
                yield found


def by_least_squares(format: Format) -> bool:
    """Return whether a format has no better decomposition than the least squares of the base class.

    Args:
        format: The format.
    """
    if type(format).factorize is Format.factorize:
        return True
    return isinstance(format, Wrapper) and by_least_squares(format.format)


def _ranks(format: Format) -> tuple[int, ...]:
    rank = spelled_rank(format)
    return rank if isinstance(rank, tuple) else (rank,)


def _with_ranks(format: Format, ranks: tuple[int, ...]) -> Format:
    return format.with_rank(ranks if len(ranks) > 1 else ranks[0])


def _total(parts: Mapping[str, _Part], formats: Mapping[str, Format]) -> int:
    return sum(part.size(formats[name]) for name, part in parts.items())


def _error(parts: Mapping[str, _Part], formats: Mapping[str, Format]) -> float:
    return sum(part.error(_apart(formats[name], part.modes)) for name, part in parts.items())


def _moves(parts: Mapping[str, _Part], formats: Formats, step: int) -> Iterator[tuple[float, int, str, Format]]:
    """Yield the changes of one rank by one: error per parameter, change of the size, tensor and its new format."""
    for name, part in parts.items():
        now = formats[name]
        for found in part.neighbours(now, step):
            size = part.size(found) - part.size(now)
            try:
                error = part.error(found) - part.error(now)
            except FormatError:  # without a decomposition the ranks stay
                break
            yield error / abs(size), size, name, found


def _lowered(parts: Mapping[str, _Part], formats: Formats, budget: int) -> Formats | None:
    """Lower ranks until the budget is met; None if it is not met at the lowest ranks that can be reached."""
    formats = dict(formats)
    while _total(parts, formats) > budget:
        found = _least(_moves(parts, formats, -1))
        if found is None:
            return None
        formats[found[0]] = found[1]
    return formats


def _raised(parts: Mapping[str, _Part], formats: Formats | None, budget: int) -> Formats | None:
    """Raise ranks that lower the error while the budget allows it."""
    if formats is None:
        return None
    while True:
        room = budget - _total(parts, formats)
        found = _least(move for move in _moves(parts, formats, 1) if move[1] <= room and move[0] < 0)
        if found is None:
            return formats
        formats[found[0]] = found[1]


def _least(moves: Iterable[tuple[float, int, str, Format]]) -> tuple[str, Format] | None:
    """Return the change with the least error per parameter, the first of equal ones."""
    best = min(moves, key=lambda move: move[0], default=None)
    return None if best is None else best[2:]


def _apart(format: Format, modes: Sequence[Mode]) -> Format:
    """Return a format with one rank for each bond in the place of one for all."""
    format = format.explicit(modes)
    if format.own_rank is None:
        return format
    count, ranks = len(_ranks(format.with_rank("full").explicit(modes))), _ranks(format)
    return format if count == len(ranks) else _with_ranks(format, ranks * count)
