"""The CP (canonical polyadic) format."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence

import tensorly.decomposition
import torch
from torch import Tensor

from ..common.checks import of_type
from ..errors import FormatError
from ..network import Core, Mode, Network, dense_of
from .base import Format
from .common import arranged, mode_sizes, tensorly_on_torch
from .rank import Rank, checked_rank

_STARTS = 3
_EXACT = 1e-10
"""No further start is tried once the relative error is this small."""

_LARGE = 1 << 20
"""Tensors with more elements than this are compressed by a Tucker decomposition first."""

_RIDGES = (0.0, 1e-9, 1e-6)
"""Ridge terms of the least squares, tried in this order; the last exceeds any rounding error."""


@dataclasses.dataclass(frozen=True)
class CP(Format):
    """A sum of rank-one tensors: one factor per mode, all sharing the leg `_r`. The last factor starts at zero.

    Args:
        rank: The number of terms; a fraction of the dense size; or 'full'.
        weights: Add a trained weight for every term, starting at 1.

    Raises:
        RankError: A rank below 1, or (once the modes are known) above the number of terms that represents any tensor.

    Source: F. Hitchcock, J. Math. Phys. 1927; Kolda & Bader, SIAM Review 2009.

    Examples:
        >>> from tensorfact import CP
        >>> from tensorfact.network import Mode
        >>> modes = (Mode("layer", 12, "stack"), Mode("in", 64, "in"), Mode("out", 64, "out"))
        >>> print(CP(rank=4).network(modes))
        U1[in _r] U2[layer _r] U3[out _r] -> layer in out
    """

    rank: Rank
    weights: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "rank", checked_rank(self.rank, "CP", several=False))
        of_type(self.weights, bool, "CP: weights", FormatError, expected="True or False", example="True")

    def network(self, modes: Sequence[Mode]) -> Network:
        """Return the network of factors."""
        sizes = mode_sizes(modes)
        (rank,) = self.ranks({"terms": _always_enough(modes)}, modes)
        cores = [Core(f"U{k}", (mode.name, "_r")) for k, mode in enumerate(arranged(modes), 1)]
        cores[-1] = dataclasses.replace(cores[-1], start="zero")
        cores[-1:-1] = [Core("w", ("_r",), "constant:1")] if self.weights else []
        return Network(tuple(cores), tuple(sizes), {**sizes, "_r": rank})

    def factorize(self, tensor: Tensor, modes: Sequence[Mode]) -> dict[str, Tensor]:
        """Decompose by alternating least squares (Kolda & Bader 2009), best of several starts: HOSVD, then random.

        A best CP approximation may not exist, and alternating least squares may stop at a local minimum.
        """
        network = self.network(modes)
        rank = network.sizes["_r"]
        if rank == _always_enough(modes):
            return self._exact(tensor, modes)
        ranks = [min(size, 2 * rank) for size in tensor.shape]
        if tensor.numel() > _LARGE and math.prod(ranks) < tensor.numel() // 8:
            return self._compressed(tensor, modes, ranks)
        names, first = [mode.name for mode in modes], network.cores[0].name
        good = _EXACT * float(torch.linalg.vector_norm(tensor))
        fits: list[tuple[float, dict[str, Tensor]]] = []
        while len(fits) < _STARTS and not (fits and fits[-1][0] <= good):
            weights, factors = _least_squares(tensor.double(), rank, start=len(fits))
            cores = _named(network, dict(zip(names, factors, strict=True)))
            cores[first] = cores[first] * weights
            fits.append((float(torch.linalg.vector_norm(dense_of(network, cores) - tensor)), cores))
        _, best = min(fits, key=lambda fit: fit[0])
        return {name: core.to(tensor.dtype) for name, core in best.items()}

    def _compressed(self, tensor: Tensor, modes: Sequence[Mode], ranks: list[int]) -> dict[str, Tensor]:
        """Fit a Tucker-compressed tensor, which is much faster, and expand the factors.

        Source: R. Bro & C. Andersson, Chemometrics and Intelligent Laboratory Systems 1998.
        """
        with tensorly_on_torch():
            small, bases = tensorly.decomposition.tucker(tensor, ranks, n_iter_max=1)
        cores = self.factorize(small, [dataclasses.replace(m, size=r) for m, r in zip(modes, ranks, strict=True)])
        basis = dict(zip((mode.name for mode in modes), bases, strict=True))
        return {
            core.name: basis[core.legs[0]] @ cores[core.name] if core.legs[0] in basis else cores[core.name]
            for core in self.network(modes).cores
        }

    def _exact(self, tensor: Tensor, modes: Sequence[Mode]) -> dict[str, Tensor]:
        """Return an exact decomposition with one term per fibre along the longest mode."""
        long = max(range(tensor.ndim), key=lambda dim: tensor.shape[dim])
        others = [dim for dim in range(tensor.ndim) if dim != long]
        fibres = tensor.movedim(long, -1).reshape(-1, tensor.shape[long])
        where = torch.unravel_index(torch.arange(len(fibres)), [tensor.shape[dim] for dim in others]) if others else ()
        found = {modes[long].name: fibres.t()}
        for dim, at in zip(others, where, strict=True):
            found[modes[dim].name] = torch.nn.functional.one_hot(at, tensor.shape[dim]).t().to(tensor)
        return _named(self.network(modes), found)


def _named(network: Network, factors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the cores by name from the factors by mode, with all weights 1."""
    ones = torch.ones_like(next(iter(factors.values()))[0])
    return {core.name: factors.get(core.legs[0], ones) for core in network.cores}


def _always_enough(modes: Sequence[Mode]) -> int:
    """Return a number of terms that represents any tensor: one per fibre along the longest mode."""
    sizes = mode_sizes(modes).values()
    return math.prod(sizes) // max(sizes)


def _least_squares(tensor: Tensor, rank: int, start: int) -> tuple[Tensor, list[Tensor]]:
    shortest = min(min(size, tensor.numel() // size) for size in tensor.shape)
    fit = functools.partial(
        tensorly.decomposition.parafac,
        tensor,
        rank,
        n_iter_max=200,
        init="random" if start or rank > shortest else "svd",
        random_state=start,
        tol=1e-9,
    )
    with tensorly_on_torch():
        for ridge in _RIDGES[:-1]:
            try:
                weights, factors = fit(l2_reg=ridge)
            except RuntimeError:  # singular: fewer terms suffice
                continue
            return weights, factors
        weights, factors = fit(l2_reg=_RIDGES[-1])
        return weights, factors
