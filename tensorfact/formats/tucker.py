"""The Tucker format."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Self

import tensorly.decomposition
import torch
from torch import Tensor

from ..network import Core, Mode, Network
from .base import Format
from .common import arranged, enough, grown, mode_sizes, tensorly_on_torch
from .rank import Rank, checked_rank


@dataclasses.dataclass(frozen=True)
class Tucker(Format):
    """A core C and one factor per mode: U1, U2, ... for inputs, stacks, outputs. The last factor starts at zero.

    Args:
        rank: One rank for all modes, or one per mode in the tensor's order; a fraction of the dense size; or 'full'.

    Raises:
        RankError: A rank below 1, or (once the modes are known) above the mode's size.

    Source: L. Tucker, Psychometrika 1966; FacT-TK: Jie & Deng, AAAI 2023.

    Examples:
        >>> from tensorfact.network import Mode
        >>> from tensorfact import Tucker
        >>> modes = (Mode("layer", 12, "stack"), Mode("in", 64, "in"), Mode("out", 64, "out"))
        >>> print(Tucker(rank=4).network(modes))
        U1[in _in] U2[layer _layer] C[_layer _in _out] U3[out _out] -> layer in out
    """

    rank: Rank

    def __post_init__(self) -> None:
        object.__setattr__(self, "rank", checked_rank(self.rank, type(self).__name__))

    def network(self, modes: Sequence[Mode]) -> Network:
        """Return the network of the core and the factors."""
        sizes, factored = mode_sizes(modes), self._factored(modes)
        ranks = dict(zip(mode_sizes(factored), self.ranks(mode_sizes(factored), modes), strict=True))
        factors = [Core(f"U{k}", (mode.name, f"_{mode.name}")) for k, mode in enumerate(arranged(factored), 1)]
        zero = dataclasses.replace(factors.pop(), start="zero")
        core = Core("C", tuple(f"_{name}" if name in ranks else name for name in sizes))
        bonds = {f"_{name}": rank for name, rank in ranks.items()}
        return Network((*factors, core, zero), tuple(sizes), {**sizes, **bonds})

    def factorize(self, tensor: Tensor, modes: Sequence[Mode]) -> dict[str, Tensor]:
        """Decompose by higher-order orthogonal iteration from the HOSVD (De Lathauwer et al. 2000)."""
        network, factored = self.network(modes), self._factored(modes)
        dims = [at for at, mode in enumerate(modes) if mode in factored]
        sizes = [network.sizes[f"_{mode.name}"] if mode in factored else mode.size for mode in modes]
        for dim in dims:  # the unfolding of the core has no more columns than this
            sizes[dim] = min(sizes[dim], math.prod(sizes) // sizes[dim])
        single = tensor.ndim == 1  # tensorly needs two modes
        with tensorly_on_torch():
            dense, ranks = tensor[:, None] if single else tensor, [sizes[dim] for dim in dims]
            (core, factors), _ = tensorly.decomposition.partial_tucker(dense, ranks, dims)
        core = core[:, 0] if single else core
        found = {"C": core, **dict(zip((mode.name for mode in factored), factors, strict=True))}
        shapes = network.shapes()
        return {c.name: grown(found["C" if c.name == "C" else c.legs[0]], shapes[c.name]) for c in network.cores}

    def within(self, tensor: Tensor, modes: Sequence[Mode], tolerance: float) -> Self:
        """Give every mode the smallest rank with a truncation error of at most tolerance / sqrt(factors)."""
        factored = self._factored(modes)
        share = tolerance * float(torch.linalg.vector_norm(tensor)) / math.sqrt(len(factored))
        highest = dict(zip(mode_sizes(factored), self.ranks(mode_sizes(factored), modes), strict=True))
        ranks = [
            min(enough(tensor.movedim(at, 0).reshape(mode.size, -1), share), highest[mode.name])
            for at, mode in enumerate(modes)
            if mode in factored
        ]
        return dataclasses.replace(self, rank=tuple(ranks))

    def _factored(self, modes: Sequence[Mode]) -> tuple[Mode, ...]:
        """Return the modes with a factor, in the tensor's order."""
        return tuple(modes)
