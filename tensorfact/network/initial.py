"""First values of a network's cores: their standard deviations, and the numbers drawn with them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .network import Mode, Network
from .starts import drawn


def deviations(network: Network, modes: Sequence[Mode], extents: Mapping[str, int] | None = None) -> dict[str, float]:
    """Return the standard deviation of every core that keeps the variance of what it is applied to.

    Args:
        network: The network.
        modes: The tensor's modes.
        extents: Over how many coordinates of each mode one slice runs; its size by default.
    """
    inputs = {mode.name: (extents or {}).get(mode.name, mode.size) for mode in modes if mode.side == "in"}
    return {core.name: 1 / math.sqrt(network.fan_in(core, inputs)) for core in network.cores}


def fresh(
    network: Network,
    deviations: Mapping[str, float],
    given: Mapping[str, Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Return what the cores of a network start from, in fp32 on the CPU, drawn one after the other.

    Args:
        network: The network.
        deviations: What `deviations` returned for it.
        given: The cores that the format gives.
        generator: A CPU generator; torch's own by default.
    """
    shapes, given = network.shapes(), given or {}
    return {
        core.name: drawn(core.start, shapes[core.name], deviations[core.name], generator, given.get(core.name))
        for core in network.cores
    }
