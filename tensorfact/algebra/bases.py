"""Compress factored tensors to a small dense core in orthonormal bases of their modes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .term import Term, gram

ROOM = 1 << 21
"""A dense core of up to this many elements (16 MiB) is never truncated."""


@dataclasses.dataclass(frozen=True, eq=False)
class Compressed:
    """A tensor as a small core with orthonormal bases for some modes: core x_m bases[m].

    Args:
        core: The core, one dimension per mode, in fp64.
        bases: A basis (size, kept) with orthonormal columns for every mode that was compressed.
        dropped: The squared Frobenius norm of the truncated part, which is orthogonal to the kept part.
    """

    core: Tensor
    bases: Mapping[str, Tensor]
    dropped: float

    @property
    def energy(self) -> float:
        """The squared Frobenius norm of the whole tensor."""
        return float(self.core.square().sum()) + self.dropped


def compress(terms: Sequence[Term], reach: Mapping[str, int], tolerance: float = 0.0) -> Compressed:
    """Compress a sum of factored tensors to a core in orthonormal bases of its modes.

    A mode longer than the bonds of its core is reduced to their size by a QR decomposition, without loss. If the core
    is still large compared to the factors, as with one matrix per slice, the modes are truncated one after the other to
    what the target format can represent, by eigenvectors of the Gram matrix of the unfolding (Vannieuwenhoven et al.
    2012).

    Args:
        terms: The summands, on the same modes.
        reach: The modes to compress, each with the largest rank of its unfolding in the target format.
        tolerance: The relative error that truncation may cause.

    Returns:
        The core, the bases and the truncated energy.
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
    """Return the largest core size that is small compared to the factors."""
    return max(ROOM, 2 * sum(term.stored for term in parts))


def _leading(gram: Tensor, most: int, tolerance: float) -> tuple[Tensor, float]:
    """Return the leading eigenvectors (size, kept), and the energy of the dropped ones."""
    values, vectors = torch.linalg.eigh(gram)
    energies = values.clamp(min=0).flip(0)
    tails = energies.flip(0).cumsum(0).flip(0)  # tails[k] is the energy without the first k
    kept = min(max(int((tails > tolerance**2 * tails[0]).sum()), 1), most)
    return vectors.flip(1)[:, :kept], float(energies[kept:].sum())
