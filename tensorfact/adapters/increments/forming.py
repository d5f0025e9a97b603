"""What is formed of the factors in a pass: for all parameters of a tensor together, or for one that is called alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ...plan.indexing import take
from ...plan.slices import taken
from .cache import Formed
from .halves import Piece
from .passes import Passes
from .planned import Kind


class Forming:
    """The contractions of all kinds of a tensor, which share what they gather from the cores.

    It is a plan without numbers, and shared by copies of a model.

    Args:
        kinds: The kinds of the tensor.
        pieces: For each kind, the contractions whose results its parameters use.
    """

    def __init__(self, kinds: Sequence[Kind], pieces: Sequence[Sequence[Piece]]) -> None:
        self.kinds, self.pieces = tuple(kinds), tuple(map(tuple, pieces))
        self._positions: dict[tuple[int, int, torch.device], tuple[Tensor, tuple[int, ...]]] = {}

    def __deepcopy__(self, memo: object) -> Forming:
        return self

    def formed(self, passes: Passes) -> Formed:
        """Return what holds the results in the passes through a model."""
        stacked = [[piece.stacked for piece in own] for own in self.pieces]
        return Formed(passes, self.together, self.alone, stacked)

    def together(self, cores: Sequence[Tensor], scale: float = 1.0) -> list[Tensor]:
        """Form the pieces of all kinds, for all their parameters at once; the last piece of each times a scale."""
        scaled, rest = self._scaled(_wide(cores), scale)
        gathered = zip(*(self._gathered(at, core) for at, core in enumerate(scaled)), strict=True)
        results = []
        for kind, own, slices in zip(self.kinds, self.pieces, gathered, strict=True):
            parts = _scaled(slices, own[-1:], rest, kind.shapes)
            for piece in own:
                stack = (len(kind.views),) if piece.stacked else ()
                result = piece.together([parts[at] for at in piece.members])
                results.append(result.reshape(*stack, *piece.shape).contiguous())
        return apart(results, cores)

    def alone(self, which: int, at: int, cores: Sequence[Tensor], scale: float = 1.0) -> list[Tensor]:
        """Form the pieces of one parameter of a kind, the last one times a scale."""
        own, kind = self.pieces[which], self.kinds[which]
        scaled, rest = self._scaled(_wide(cores), scale)
        parts = _scaled(kind.own(at, scaled), own[-1:], rest, kind.shapes)
        results = [p.alone([parts[k] for k in p.members]).reshape(p.shape).contiguous() for p in own]
        return apart(results, cores)

    def _scaled(self, cores: Sequence[Tensor], scale: float) -> tuple[Sequence[Tensor], float]:
        """Multiply a core by a scale, if the last piece of every kind has it; else return the scale for each kind."""
        last = [own[-1] for own in self.pieces if own]
        if set.intersection(*(set(piece.members) for piece in last)) if last else ():
            return _scaled(cores, last, scale, [core.shape for core in cores]), 1.0
        return cores, scale

    def _gathered(self, at: int, core: Tensor) -> list[Tensor]:
        """Return for each kind all its parameters' slices of a core (parameters, *legs), or the core if not sliced."""
        found: dict[int, Tensor] = {}
        along: dict[int, list[int]] = {}
        for which, kind in enumerate(self.kinds):
            picks = [own[at] for own in kind.picks]
            if not picks[0]:
                found[which] = core.reshape(kind.shapes[at])
            elif len(picks[0]) > 1:
                found[which] = torch.stack([taken(core, own).reshape(kind.shapes[at]) for own in picks])
            else:
                along.setdefault(picks[0][0][0], []).append(which)
        for dim, those in along.items():
            found |= self._selected(at, core, dim, those)
        return [found[which] for which in range(len(self.kinds))]

    def _selected(self, at: int, core: Tensor, dim: int, those: Sequence[int]) -> dict[int, Tensor]:
        """Return the slices of some kinds that lie along one dimension of a core, read once for all of them."""
        key = at, dim, core.device
        if key not in self._positions:
            each = torch.arange(core.shape[dim], device="cpu")
            picks = [[own[at] for own in self.kinds[which].picks] for which in those]
            positions = [torch.cat([take(each, 0, index) for ((_, index),) in own]) for own in picks]
            self._positions[key] = torch.cat(positions).to(core.device), tuple(map(len, positions))
        every, counts = self._positions[key]
        chosen = core.movedim(dim, 0).index_select(0, every)
        found = {}
        for which, part in zip(those, torch.split(chosen, list(counts)), strict=True):
            kind = self.kinds[which]
            split = part.reshape(len(kind.views), -1, *part.shape[1:])
            found[which] = split.movedim(1, 1 + dim).reshape(len(kind.views), *kind.shapes[at])
        return found


def formed_parts(kind: Kind, passes: Passes) -> Formed:
    """Return what forms the parts of the cores of every parameter of a kind.

    Args:
        kind: The kind.
        passes: Forward passes of the model.
    """
    alone = [kind.network.part((core,), core.legs) for core in kind.network.cores]
    return Forming([kind], [[kind.piece(one, one.shape(one.output)) for one in alone]]).formed(passes)


def formed_matrices(kinds: Sequence[Kind], passes: Passes) -> Formed:
    """Return what forms the two matrices of every parameter that has them.

    Args:
        kinds: The kinds of a tensor.
        passes: Forward passes of the model.
    """
    return Forming(kinds, [kind.halves.pieces if kind.halves else () for kind in kinds]).formed(passes)


def _wide(cores: Sequence[Tensor]) -> list[Tensor]:
    """Return cores in at least fp32."""
    return [core.to(torch.promote_types(core.dtype, torch.float32)) for core in cores]


def _scaled(
    cores: Sequence[Tensor], pieces: Sequence[Piece], scale: float, shapes: Sequence[Sequence[int]]
) -> list[Tensor]:
    """Multiply the core of the smallest shape that some pieces have in common by a scale, which multiplies each."""
    if scale == 1 or not pieces:
        return list(cores)
    common = set.intersection(*(set(piece.members) for piece in pieces))
    least = min(sorted(common), key=lambda at: math.prod(shapes[at]))
    return [core * scale if at == least else core for at, core in enumerate(cores)]


def apart(results: Sequence[Tensor], cores: Sequence[Tensor]) -> list[Tensor]:
    """Return results in memory of their own: a core that is taken whole would be returned itself.

    Args:
        results: What was formed from the cores.
        cores: The cores.
    """
    return [r.clone() if any(r.data_ptr() == core.data_ptr() for core in cores) else r for r in results]
