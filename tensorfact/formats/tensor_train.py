"""The tensor-train format."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Self

import tensorly.decomposition
import torch
from torch import Tensor

from ..errors import FormatError
from ..network import Core, Mode, Network
from .base import Format
from .common import arranged, enough, grown, mode_sizes, tensorly_on_torch
from .rank import Rank, checked_rank, matrix_limit


@dataclasses.dataclass(frozen=True)
class TensorTrain(Format):
    """A chain of cores, one per mode; on `(layer role) in out` this is U - Sigma - V of FacT-TT.

    Args:
        rank: One rank for all bonds, or one per bond along the chain; a fraction of the dense size; or 'full'.
        order: The mode names along the chain; by default inputs, stacks, outputs. The last core starts at zero.

    Raises:
        RankError: A rank below 1, or (once the modes are known) above the smaller side of its bond.
        FormatError: `order` does not name every mode once.

    Source: I. Oseledets, Tensor-Train Decomposition, SIAM J. Sci. Comput. 2011; FacT-TT: Jie & Deng, AAAI 2023.

    Examples:
        >>> from tensorfact.network import Mode
        >>> from tensorfact import TensorTrain
        >>> modes = (Mode("layer", 12, "stack"), Mode("in", 64, "in"), Mode("out", 64, "out"))
        >>> print(TensorTrain(rank=4).network(modes))
        U[in _1] S1[_1 layer _2] V[_2 out] -> layer in out
    """

    rank: Rank
    order: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "rank", checked_rank(self.rank, "TensorTrain"))
        if self.order is not None:
            names = list(self.order) if isinstance(self.order, (tuple, list)) else [None]
            if not all(isinstance(name, str) for name in names):
                raise FormatError("TensorTrain: order", expected="a tuple of mode names", got=repr(self.order))
            object.__setattr__(self, "order", tuple(self.order))

    def network(self, modes: Sequence[Mode]) -> Network:
        """Return the chain of cores."""
        chain = self._chain(modes)
        limits = {f"bond {k}": matrix_limit(chain[:k], chain[k:]) for k in range(1, len(chain))}
        ranks = self.ranks(limits, modes) if limits else ()
        bonds = [f"_{k}" for k in range(1, len(chain))]
        cores = []
        for k, mode in enumerate(chain):
            last = k == len(chain) - 1
            legs = (*bonds[max(k - 1, 0) : k], mode.name, *bonds[k : k + 1])
            cores.append(Core("V" if last else f"S{k}" if k else "U", legs, "zero" if last else "normal"))
        output = tuple(mode.name for mode in modes)
        return Network(tuple(cores), output, {**mode_sizes(modes), **dict(zip(bonds, ranks, strict=True))})

    def factorize(self, tensor: Tensor, modes: Sequence[Mode]) -> dict[str, Tensor]:
        """Decompose by TT-SVD (Oseledets 2011), quasi-optimal within sqrt(modes - 1)."""
        network, names = self.network(modes), [mode.name for mode in modes]
        order = [names.index(mode.name) for mode in self._chain(modes)]
        ranks = [1, *(network.sizes[f"_{k}"] for k in range(1, len(modes))), 1]
        dense = tensor.permute(order)
        with tensorly_on_torch():  # tensorly lowers ranks above what their neighbours admit
            train = tensorly.decomposition.tensor_train(dense, ranks) if len(modes) > 1 else [dense[None, :, None]]
        shapes = [
            (left, mode.size, right) for left, mode, right in zip(ranks, self._chain(modes), ranks[1:], strict=False)
        ]
        cores = zip(network.cores, train, shapes, strict=True)
        final = network.shapes()
        return {core.name: grown(found, shape).reshape(final[core.name]) for core, found, shape in cores}

    def within(self, tensor: Tensor, modes: Sequence[Mode], tolerance: float) -> Self:
        """Give every bond the smallest rank with a truncation error of at most tolerance / sqrt(modes - 1)."""
        chain = self._chain(modes)
        if len(chain) == 1:
            return self.explicit(modes)
        names = [mode.name for mode in modes]
        dense = tensor.permute([names.index(mode.name) for mode in chain])
        share = tolerance * float(torch.linalg.vector_norm(dense)) / math.sqrt(len(chain) - 1)
        sizes = self.network(modes).sizes
        highest = [sizes[f"_{k}"] for k in range(1, len(chain))]
        ranks: list[int] = []
        for mode, high in zip(chain, highest, strict=False):
            rows = math.prod(m.size for m in chain[: len(ranks) + 1])
            needed = enough(dense.reshape(rows, -1), share)
            ranks.append(min(needed, high, (ranks[-1] if ranks else 1) * mode.size))
        return dataclasses.replace(self, rank=tuple(ranks))

    def _chain(self, modes: Sequence[Mode]) -> tuple[Mode, ...]:
        if self.order is None:
            return arranged(modes)
        named = {mode.name: mode for mode in modes}
        if sorted(self.order) != sorted(named):
            raise FormatError(f"{self}: order", expected=f"each of {sorted(named)} once", got=repr(self.order))
        return tuple(named[name] for name in self.order)
