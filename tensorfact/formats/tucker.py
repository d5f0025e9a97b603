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
from .base import Format, arranged, enough, grown, mode_sizes, tensorly_on_torch
from .rank import Rank, checked_rank


@dataclasses.dataclass(frozen=True)
class Tucker(Format):
    """One small core C and a factor a mode: U1, U2, ... for inputs, stacks, outputs. The last factor starts at zero.

    Args:
        rank: One rank for all modes, or one a mode in the tensor's own order; a fraction of the dense size; or 'full'.

    Raises:
        RankError: A rank below 1, or (once the modes are known) above the mode's size.

    Source: L. Tucker, Psychometrika 1966; FacT-TK: Jie & Deng, AAAI 2023.

    Examples:
        >>> from tensorfact import Mode, Tucker
        >>> modes = (Mode("layer", 12, "stack"), Mode("in", 64, "in"), Mode("out", 64, "out"))
        >>> print(Tucker(rank=4).network(modes))
        U1[in _in] U2[layer _layer] C[_layer _in _out] U3[out _out] -> layer in out
    """

    rank: Rank

    def __post_init__(self) -> None:
        object.__setattr__(self, "rank", checked_rank(self.rank, "Tucker"))

    def network(self, modes: Sequence[Mode]) -> Network:
        """State the core and the factors."""
        sizes = mode_sizes(modes)
        ranks = dict(zip(sizes, self.ranks(sizes, modes), strict=True))
        factors = [Core(f"U{k}", (mode.name, f"_{mode.name}")) for k, mode in enumerate(arranged(modes), 1)]
        zero = dataclasses.replace(factors.pop(), start="zero")
        core = Core("C", tuple(f"_{name}" for name in ranks))
        bonds = {f"_{name}": rank for name, rank in ranks.items()}
        return Network((*factors, core, zero), tuple(sizes), {**sizes, **bonds})

    def factorize(self, tensor: Tensor, modes: Sequence[Mode]) -> dict[str, Tensor]:
        """Decompose by higher-order orthogonal iteration from the HOSVD (De Lathauwer et al. 2000)."""
        network = self.network(modes)
        ranks = [network.sizes[f"_{mode.name}"] for mode in modes]
        for k, rank in enumerate(ranks):  # no unfolding of the core has more columns than this
            ranks[k] = min(rank, math.prod(ranks) // rank)
        single = tensor.ndim == 1  # tensorly wants two modes
        with tensorly_on_torch():
            core, factors = tensorly.decomposition.tucker(tensor[:, None] if single else tensor, ranks + [1] * single)
        if single:
            core, factors = (core * factors[1])[:, 0], factors[:1]
        found = {"C": core, **dict(zip((m.name for m in modes), factors, strict=True))}
        shapes = network.shapes()
        return {c.name: grown(found["C" if c.name == "C" else c.legs[0]], shapes[c.name]) for c in network.cores}

    def within(self, tensor: Tensor, modes: Sequence[Mode], tolerance: float) -> Self:
        """Give every mode the rank that leaves its share of the error: tolerance / sqrt(modes)."""
        share = tolerance * float(torch.linalg.vector_norm(tensor)) / math.sqrt(len(modes))
        highest = self.ranks(mode_sizes(modes), modes)
        unfoldings = (tensor.movedim(k, 0).reshape(mode.size, -1) for k, mode in enumerate(modes))
        return dataclasses.replace(
            self, rank=tuple(min(enough(u, share), high) for u, high in zip(unfoldings, highest, strict=True))
        )
