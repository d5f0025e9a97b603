"""Alternating least squares over the cores of any network: the default decomposition of a format."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import FormatError
from ..network import Core, Network, plan_contraction
from ..network.environment import Environment

_SWEEPS, _STARTS = 200, 3
_STALLED = 1e-7
"""The fit stops after a sweep that lowers the error by less than this fraction."""
_EXACT = 1e-7
"""No further start is tried once the relative error is this small: the resolution of normal equations in fp64."""


def least_squares(
    network: Network,
    tensor: Tensor,
    given: Mapping[str, Tensor] | None = None,
    start: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Fit the cores of a network to a tensor and return the best of several starts.

    A network is linear in each core, so with the other cores fixed the optimal core solves a linear least-squares
    problem, here by its normal equations. The error never rises, but the fit may stop at a local minimum.

    Args:
        network: The network to fit.
        tensor: The target, one dimension per output leg.
        given: Cores that keep their values.
        start: Cores of the first start; random by default.

    Returns:
        The cores by name, in the tensor's dtype.

    Raises:
        FormatError: A bond belongs to only one core.

    Source: alternating least squares as for CP (Kolda & Bader, SIAM Review 2009), for any multilinear network.

    Examples:
        >>> import torch
        >>> from tensorfact.network import Core, Network
        >>> network = Network((Core("A", ("i", "_r")), Core("B", ("_r", "j"))), ("i", "j"), {"i": 6, "j": 5, "_r": 2})
        >>> tensor = torch.randn(6, 2) @ torch.randn(2, 5)
        >>> cores = least_squares(network, tensor)
        >>> bool(torch.dist(cores["A"] @ cores["B"], tensor) < 1e-4)
        True
    """
    fixed = {name: core.to(tensor.device, torch.float64) for name, core in (given or {}).items()}
    dense = tensor.double()
    free = [_Solver.of(network, core) for core in network.cores if core.name not in fixed]
    best: tuple[float, dict[str, Tensor]] = (math.inf, {})
    for seed in range(_STARTS if len(free) > 1 else 1):
        cores = _random(network, dense, seed) | (dict(start or {}) if not seed else {}) | fixed
        fit = _fit(free, dense, {name: core.double() for name, core in cores.items()})
        best = min(best, fit, key=lambda each: each[0])
        if best[0] <= _EXACT:
            break
    return {core.name: best[1][core.name].to(tensor.dtype) for core in network.cores}


def _random(network: Network, like: Tensor, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drawn = {
        name: torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
        for name, shape in network.shapes().items()
    }
    return {name: value.to(like.device) for name, value in drawn.items()}


def _fit(free: list[_Solver], dense: Tensor, cores: dict[str, Tensor]) -> tuple[float, dict[str, Tensor]]:
    """Sweep over the cores until the error stalls; return the relative error and the cores."""
    whole, error = float(dense.square().sum()), math.inf
    for _ in range(_SWEEPS):
        before = error
        for solver in free:
            cores[solver.core.name], explained = solver.solve(cores, dense)
        error = math.sqrt(max(whole - explained, 0.0) / whole)
        if error <= _EXACT or before - error <= _STALLED * error:
            break
        _balance(cores, [solver.core.name for solver in free])
    return error, cores


def _balance(cores: dict[str, Tensor], names: list[str]) -> None:
    """Scale all cores to the same norm, which keeps the equations well conditioned; the product is unchanged."""
    norms = [float(torch.linalg.vector_norm(cores[name])) for name in names]
    if all(norms):
        mean = math.exp(sum(math.log(norm) for norm in norms) / len(norms))
        for name, norm in zip(names, norms, strict=True):
            cores[name] = cores[name] * (mean / norm)


@dataclasses.dataclass(frozen=True)
class _Solver:
    """The normal equations for one core with the other cores fixed.

    Args:
        core: The core to solve for.
        environment: Its environment, whose Gram matrices are those of the equations.
        side: The network of the right-hand side: the target tensor and the other cores.
    """

    core: Core
    environment: Environment
    side: Network

    @classmethod
    def of(cls, network: Network, core: Core) -> _Solver:
        """Set up the normal equations for a core of a network."""
        others = [other for other in network.cores if other is not core]
        shared = {leg for other in others for leg in other.legs} | set(network.output)
        if lone := [leg for leg in core.legs if leg not in shared]:
            raise FormatError(
                f"network {network}: bond {lone[0]!r} belongs only to core {core.name!r}",
                fix="remove the leg, or add it to a second core",
            )
        plain = (Core("T", network.output), *(Core(other.name, other.legs) for other in others))
        side = Network(plain, core.legs, {leg: network.sizes[leg] for each in plain for leg in each.legs})
        return cls(core, Environment.of(network, core.name), side)

    def solve(self, cores: Mapping[str, Tensor], dense: Tensor) -> tuple[Tensor, float]:
        """Return the optimal core, and the squared norm of the tensor that the network then explains."""
        right = plan_contraction(self.side)([dense, *(cores[core.name] for core in self.side.cores[1:])])
        grams = (branch.matrix(cores) for branch in self.environment.branches)
        left = self.environment.multiply([torch.linalg.pinv(g, rtol=1e-13, hermitian=True) for g in grams], right)
        return left, float((left * right).sum())
