"""Initial values of a network's cores: their standard deviations and the random draws."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .network import Mode, Network
from .starts import drawn


def deviations(network: Network, modes: Sequence[Mode], extents: Mapping[str, int] | None = None) -> dict[str, float]:
    """Return the standard deviation for each core that preserves the variance of its input, by core name.

    Args:
        network: The network of the tensor.
        modes: The tensor's modes.
        extents: Number of coordinates of each mode in one slice; default: the mode's size.
    """
    inputs = {mode.name: (extents or {}).get(mode.name, mode.size) for mode in modes if mode.side == "in"}
    return {core.name: 1 / math.sqrt(network.fan_in(core, inputs)) for core in network.cores}


def fresh(
    network: Network,
    deviations: Mapping[str, float],
    given: Mapping[str, Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Draw the initial cores of a network, in its order, in fp32 on the CPU.

    Args:
        network: The network of the tensor.
        deviations: Standard deviations by core name, from `deviations`.
        given: Cores whose values come from the format, by name.
        generator: A CPU generator; default: torch's global one.
    """
    shapes, given = network.shapes(), given or {}
    return {
        core.name: drawn(core.start, shapes[core.name], deviations[core.name], generator, given.get(core.name))
        for core in network.cores
    }
