"""The tensor-ring format."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import tensorly.decomposition
import torch
from torch import Tensor

from ..network import Core, Mode, Network, dense_of
from .base import Format
from .common import arranged, grown, mode_sizes, tensorly_on_torch
from .rank import Rank, checked_rank, matrix_limit


@dataclasses.dataclass(frozen=True)
class TensorRing(Format):
    """A tensor-train whose ends are joined by a closing bond. The last core starts at zero.

    Args:
        rank: One rank for all bonds, or one per bond: along the ring of inputs, stacks, outputs, the closing bond last;
            a fraction of the dense size; or 'full'.

    Raises:
        RankError: A rank below 1, or (once the modes are known) above the smaller side of its bond.

    Source: Q. Zhao et al., Tensor Ring Decomposition, arXiv:1606.05535, 2016.

    Examples:
        >>> from tensorfact.network import Mode
        >>> from tensorfact.formats import TensorRing
        >>> modes = (Mode("layer", 12, "stack"), Mode("in", 64, "in"), Mode("out", 64, "out"))
        >>> print(TensorRing(rank=4).network(modes))
        R1[_3 in _1] R2[_1 layer _2] R3[_2 out _3] -> layer in out
    """

    rank: Rank

    def __post_init__(self) -> None:
        object.__setattr__(self, "rank", checked_rank(self.rank, "TensorRing"))

    def network(self, modes: Sequence[Mode]) -> Network:
        """Return the ring of cores."""
        ring, count = arranged(modes), len(modes)
        limits = {f"bond {k}": matrix_limit(ring[:k], ring[k:]) for k in range(1, count)}
        if count > 1:
            limits["closing bond"] = matrix_limit(ring[:1], ring[1:])
        bonds = [f"_{k}" for k in range(1, len(limits) + 1)]
        ranks = dict(zip(bonds, self.ranks(limits, modes) if limits else (), strict=True))
        cores = []
        for k, mode in enumerate(ring):
            legs = (bonds[k - 1], mode.name, bonds[k]) if bonds else (mode.name,)
            cores.append(Core(f"R{k + 1}", legs, "zero" if k == count - 1 else "normal"))
        return Network(tuple(cores), tuple(mode.name for mode in modes), {**mode_sizes(modes), **ranks})

    def factorize(self, tensor: Tensor, modes: Sequence[Mode]) -> dict[str, Tensor]:
        """Decompose by a sequence of SVDs (Zhao et al. 2016), the better of an open and a closed ring.

        The rank of the first SVD is split between two bonds; with a closing bond of rank 1 this is TT-SVD.
        """
        network, names = self.network(modes), [mode.name for mode in modes]
        if len(modes) == 1:
            return {network.cores[0].name: tensor}
        dense = tensor.permute([names.index(mode.name) for mode in arranged(modes)])
        ranks = [network.sizes[f"_{k}"] for k in range(1, len(modes) + 1)]
        found = [self._grown(network, cores) for cores in _rings(dense, ranks)]
        return min(found, key=lambda cores: float(torch.linalg.vector_norm(dense_of(network, cores) - tensor)))

    @staticmethod
    def _grown(network: Network, cores: Sequence[Tensor]) -> dict[str, Tensor]:
        shapes = network.shapes()
        return {core.name: grown(found, shapes[core.name]) for core, found in zip(network.cores, cores, strict=True)}


def _rings(dense: Tensor, ranks: list[int]) -> Iterator[list[Tensor]]:
    """Yield the cores for a closing bond of rank 1, and for the widest one that the first mode admits."""
    *inner, closing = ranks
    if dense.ndim == 2:  # tensorly wants three modes
        for left, middle, right in _rings(dense[:, None], [*inner, *inner, closing]):
            yield [left, torch.einsum("aib,boc->aoc", middle, right)]
        return
    first = min(dense.shape[0], dense.numel() // dense.shape[0])
    for last in sorted({1, min(closing, max(first // inner[0], 1))}):
        allowed = [last, min(inner[0], first // last), *inner[1:], last]
        with tensorly_on_torch():
            yield list(tensorly.decomposition.tensor_ring(dense, allowed))
