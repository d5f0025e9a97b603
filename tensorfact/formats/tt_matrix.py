"""The tensor-train matrix format."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Self

from torch import Tensor

from ..network import Core, Mode, Network
from .base import Format
from .common import mode_sizes
from .rank import Rank, checked_rank, matrix_limit
from .tensor_train import TensorTrain


@dataclasses.dataclass(frozen=True)
class TTMatrix(Format):
    """A tensor-train matrix, or matrix-product operator: the k-th core has the k-th input and the k-th output mode.

    Stack modes come first in the chain, one core each. The last core starts at zero. The plan splits inputs and outputs
    into several modes: `plan.split("in", {"in1": 24, "in2": 32})`.

    Args:
        rank: One rank for all bonds, or one per bond along the chain; a fraction of the dense size; or 'full'.

    Raises:
        RankError: A rank below 1, or (once the modes are known) above the smaller side of its bond.

    Source: A. Novikov et al., Tensorizing Neural Networks, NeurIPS 2015.

    Examples:
        >>> from tensorfact.network import Mode
        >>> from tensorfact.formats import TTMatrix
        >>> modes = (Mode("m", 24, "in"), Mode("n", 32, "in"), Mode("l", 24, "out"), Mode("k", 32, "out"))
        >>> print(TTMatrix(rank=4).network(modes))
        G1[m l _1] G2[_1 n k] -> m n l k
    """

    rank: Rank

    def __post_init__(self) -> None:
        object.__setattr__(self, "rank", checked_rank(self.rank, "TTMatrix"))

    def network(self, modes: Sequence[Mode]) -> Network:
        """Return the chain of cores."""
        sizes, sites = mode_sizes(modes), _sites(modes)
        before = [[mode for site in sites[:k] for mode in site] for k in range(1, len(sites))]
        limits = {
            f"bond {k}": matrix_limit(left, [mode for mode in modes if mode not in left])
            for k, left in enumerate(before, 1)
        }
        bonds = [f"_{k}" for k in range(1, len(sites))]
        ranks = dict(zip(bonds, self.ranks(limits, modes) if limits else (), strict=True))
        cores = []
        for k, site in enumerate(sites):
            legs = (*bonds[max(k - 1, 0) : k], *(mode.name for mode in site), *bonds[k : k + 1])
            cores.append(Core(f"G{k + 1}", legs, "zero" if k == len(sites) - 1 else "normal"))
        return Network(tuple(cores), tuple(mode.name for mode in modes), {**sizes, **ranks})

    def factorize(self, tensor: Tensor, modes: Sequence[Mode]) -> dict[str, Tensor]:
        """Decompose by TT-SVD of the tensor with one merged mode per core."""
        network, train = self.network(modes), _train(modes)
        found = self._as_train().factorize(_paired(tensor, modes), train)
        shapes = network.shapes()
        return {
            core.name: value.reshape(shapes[core.name])
            for core, value in zip(network.cores, found.values(), strict=True)
        }

    def within(self, tensor: Tensor, modes: Sequence[Mode], tolerance: float) -> Self:
        """Give every bond the smallest rank that keeps its share of the error, as in a tensor-train."""
        found = self._as_train().within(_paired(tensor, modes), _train(modes), tolerance)
        return dataclasses.replace(self, rank=found.rank)

    def _as_train(self) -> TensorTrain:
        return TensorTrain(self.rank)


def _sites(modes: Sequence[Mode]) -> list[tuple[Mode, ...]]:
    """Return the modes of every core: each stack mode alone, then inputs and outputs in pairs, then the rest."""
    stack, inputs, outputs = ([mode for mode in modes if mode.side == side] for side in ("stack", "in", "out"))
    pairs = itertools.zip_longest(inputs, outputs)
    return [*((mode,) for mode in stack), *(tuple(mode for mode in pair if mode) for pair in pairs)]


def _train(modes: Sequence[Mode]) -> tuple[Mode, ...]:
    """Return one merged mode per core."""
    return tuple(Mode(f"site{k}", math.prod(m.size for m in site), "stack") for k, site in enumerate(_sites(modes)))


def _paired(tensor: Tensor, modes: Sequence[Mode]) -> Tensor:
    """Return a tensor with one dimension per core."""
    names = [mode.name for mode in modes]
    order = [names.index(mode.name) for site in _sites(modes) for mode in site]
    return tensor.permute(order).reshape([mode.size for mode in _train(modes)])
