"""Factored tensors in orthonormal bases of their modes: a small dense core that holds all that matters."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .term import Term, gram

ROOM = 1 << 21
"""Numbers that a dense core may always hold: 16 MiB."""


@dataclasses.dataclass(frozen=True, eq=False)
class Compressed:
    """A tensor as a small core and, for some modes, an orthonormal basis: core x_m bases[m].

    Args:
        core: The core, one dimension a mode, in fp64.
        bases: For the modes that became smaller, a basis (size, kept) with orthonormal columns.
        dropped: The squared Frobenius norm of what the bases leave out; orthogonal to what they keep.
    """

    core: Tensor
    bases: Mapping[str, Tensor]
    dropped: float

    @property
    def energy(self) -> float:
        """The squared Frobenius norm of the whole tensor."""
        return float(self.core.square().sum()) + self.dropped


def compress(terms: Sequence[Term], reach: Mapping[str, int], tolerance: float = 0.0) -> Compressed:
    """Bring a sum of factored tensors into orthonormal bases of its modes.

    A mode longer than the bonds that end in it is brought to their size by a QR decomposition, which loses nothing. If
    the core would still be large beside the factors, as it is for one matrix a slice, modes are cut to what the target
    can hold by the eigenvectors of the unfolding's Gram matrix, one after the other (Vannieuwenhoven et al. 2012).

    Args:
        terms: The summands, on the same modes.
        reach: The modes that may become smaller, and the largest rank of their unfoldings in the target.
        tolerance: The relative error that may be spent where modes are cut.

    Returns:
        The core and the bases.
    """
    parts = [term.wide() for term in terms]
    bases: dict[str, Tensor] = {}
    able = [mode for mode in reach if all(term.holder(mode) for term in parts)]
    for mode in able:
        stacked = torch.cat([term.unfolded(mode) for term in parts], 1)
        if stacked.shape[1] < stacked.shape[0]:
            basis, rest = torch.linalg.qr(stacked)
            split = rest.split([term.unfolded(mode).shape[1] for term in parts], 1)
            parts = [term.folded(mode, part) for term, part in zip(parts, split, strict=True)]
            bases[mode] = basis
    room = _room(parts)
    dropped = 0.0
    for mode in sorted(able, key=lambda mode: -parts[0].network.sizes[mode]):
        if math.prod(parts[0].network.shape(parts[0].network.output)) <= room:
            break
        vectors, lost = _leading(gram(parts, mode), reach[mode], tolerance / math.sqrt(2 * len(able)))
        parts = [term.folded(mode, vectors.t() @ term.unfolded(mode)) for term in parts]
        bases[mode] = bases[mode] @ vectors if mode in bases else vectors
        dropped += lost
    return Compressed(sum((term.dense() for term in parts[1:]), parts[0].dense()), bases, dropped)


def _room(parts: Sequence[Term]) -> int:
    """Return how many numbers the core may hold: as many as it takes to be small beside the factors."""
    return max(ROOM, 2 * sum(term.stored for term in parts))


def _leading(gram: Tensor, most: int, tolerance: float) -> tuple[Tensor, float]:
    """Return the leading eigenvectors (size, kept), and the energy of the others."""
    values, vectors = torch.linalg.eigh(gram)
    energies = values.clamp(min=0).flip(0)
    tails = energies.flip(0).cumsum(0).flip(0)  # tails[k] is what the first k leave
    kept = min(max(int((tails > tolerance**2 * tails[0]).sum()), 1), most)
    return vectors.flip(1)[:, :kept], float(energies[kept:].sum())
