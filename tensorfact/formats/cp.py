"""The CP (canonical polyadic) format."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import tensorly.decomposition
import torch
from torch import Tensor

from ..network import Core, Mode, Network
from .base import Format, arranged, checked_count, grown, mode_sizes, spread_rank, tensorly_on_torch, wide

_RIDGES = (0.0, 1e-9, 1e-6)
"""Ridges of the least squares, tried in this order; the last is far above what rounding can cancel."""


@dataclasses.dataclass(frozen=True)
class CP(Format):
    """A sum of rank-one tensors: a factor a mode, all sharing the rank's leg. The last factor starts at zero.

    Args:
        rank: The number of terms.

    Raises:
        RankError: A rank below 1, or (once the modes are known) above the number that is always enough.

    Source: F. Hitchcock, J. Math. Phys. 1927; Kolda & Bader, SIAM Review 2009.

    Examples:
        >>> from tensorfact import CP, Mode
        >>> modes = (Mode("layer", 12, "stack"), Mode("in", 64, "in"), Mode("out", 64, "out"))
        >>> print(CP(rank=4).network(modes))
        U1[in _r] U2[layer _r] U3[out _r] -> layer in out
    """

    rank: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "rank", checked_count(self.rank, "CP"))

    def network(self, modes: Sequence[Mode]) -> Network:
        """State the factors."""
        sizes = mode_sizes(modes)
        limit = math.prod(sizes.values()) // max(sizes.values())
        (rank,) = spread_rank(self.rank, {"terms": limit}, str(self))
        cores = [Core(f"U{k}", (mode.name, "_r")) for k, mode in enumerate(arranged(modes), 1)]
        cores[-1] = dataclasses.replace(cores[-1], start="zero")
        return Network(tuple(cores), tuple(sizes), {**sizes, "_r": rank})

    def decompose(self, tensor: Tensor, modes: Sequence[Mode]) -> dict[str, Tensor]:
        """Decompose by alternating least squares (Kolda & Bader 2009) from a seeded random start.

        The best CP approximation may not exist, and alternating least squares may stop at a local one.
        """
        network, dense = self.network(modes), wide(tensor)
        shapes, scale = network.shapes(), dense.abs().max()
        if dense.ndim == 1:
            return {name: grown(dense[:, None], shape) for name, shape in shapes.items()}
        if not scale:  # least squares on zero factors is singular
            return {name: torch.zeros(shape).to(dense) for name, shape in shapes.items()}
        weights, factors = _least_squares(dense.double() / scale, self.rank)
        found = dict(zip((mode.name for mode in modes), factors, strict=True))
        cores = {core.name: found[core.legs[0]].to(dense.dtype) for core in network.cores}
        first = network.cores[0].name
        return {**cores, first: cores[first] * weights.to(dense.dtype) * scale}


def _least_squares(tensor: Tensor, rank: int) -> tuple[Tensor, list[Tensor]]:
    fit = functools.partial(
        tensorly.decomposition.parafac, tensor, rank, n_iter_max=200, init="random", random_state=0, tol=1e-9
    )
    with tensorly_on_torch():
        for ridge in _RIDGES[:-1]:
            try:
                weights, factors = fit(l2_reg=ridge)
            except RuntimeError:  # singular: the tensor needs fewer terms
                continue
            return weights, factors
        weights, factors = fit(l2_reg=_RIDGES[-1])
        return weights, factors
