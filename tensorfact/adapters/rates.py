"""The learning rate of each core, relative to its size and to what it changes; `scale="auto"` makes them all equal.

A step of Adam moves every entry of a core by about its learning rate, whatever the size of the gradient. Multiplying
the learning rate of a core by m is therefore the same as dividing its entries by m and multiplying the scale by m.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..formats.common import zero_core
from ..model.parameters import base_parameters
from ..model.values import dense_values, is_wide_float
from ..network import Network
from ..network.environment import Environment
from ..network.starts import ZERO
from ..plan import TensorGroup
from .factors import Factors

CHANGE = 16.0
"""The change of the weights by the first step of LoRA of rank 1, over the learning rate and their size."""
ENTRIES = 0.04
"""The root mean square of the entries of the other cores: a step changes them by the learning rate divided by this."""


_LEAST = 1e-15
"""Rates and their inverses are larger than this, so that no product of them leaves the range of fp32."""


def rates(factors: Factors, scale: float, size: float, inputs: int) -> dict[str, float]:
    """Return the multiple of the learning rate for each trained core of a tensor, by the core's name.

    The core that starts at zero gets the multiple at which a step of independent signs changes the weights by
    `CHANGE (N / (P I))^(1/4)` times the learning rate, relative to their size: N is the number of elements of the
    tensor, P that of the core's entries, I that of the inputs of a slice. For LoRA N / (P I) is 1 / rank, and for a
    core that S slices share S / rank. The power lies between two rules: an equal change of the weights asks for 0
    (rsLoRA), and an equal change of the loss for 1/2 (LoRA's alpha / rank), since of a step in P of N directions a
    share of (P / N)^(1/2) is along the gradient. The size of the change is exact, from the Gram matrices of the others.

    Every other core gets the multiple at which its entries change by the learning rate divided by `ENTRIES`.

    Args:
        factors: The cores; on the meta device all multiples are 1.
        scale: Scale s of the update: W + s dW.
        size: Root mean square of the base weights.
        inputs: Number of inputs of one slice.
    """
    network, cores = factors.network, factors.named_cores()
    trained = [core for core in network.cores if core.trained]
    if any(core.is_meta for core in cores.values()):
        return {core.name: 1.0 for core in trained}
    found = {core.name: _usable(float(_rms(cores[core.name])) / ENTRIES) for core in trained}
    zero = zero_core(network)
    if zero.start == ZERO:
        change = abs(scale) * Environment.of(network, zero.name).rms(cores)
        found[zero.name] = _usable(first_change(network, size, inputs) / change if change else 1.0)
    return found


def first_change(network: Network, size: float, inputs: int) -> float:
    """Return the root mean square of the change of the weights by the first step, over the learning rate.

    Args:
        network: The network of a tensor.
        size: Root mean square of the base weights.
        inputs: Number of inputs of one slice.
    """
    entries = math.prod(network.shape(zero_core(network).legs))
    return CHANGE * size * math.sqrt(math.sqrt(math.prod(network.shape(network.output)) / (entries * inputs)))


def _rms(core: Tensor) -> Tensor:
    return core.detach().double().square().mean().sqrt()


def _usable(rate: float) -> float:
    """Return a rate, or 1 where there is none: for a core of zeros, or one that is not finite, or beyond fp32."""
    return rate if _LEAST < rate < 1 / _LEAST else 1.0


def inputs_of(tensor: TensorGroup) -> int:
    """Return the number of inputs of one slice of a tensor.

    Args:
        tensor: The tensor.
    """
    return math.prod(tensor.extents.get(mode.name, mode.size) for mode in tensor.modes if mode.side == "in")


def weights_rms(model: nn.Module, tensor: TensorGroup) -> float:
    """Return the root mean square of the base weights that fold into a tensor.

    Weights that are all zero, not finite or on the meta device count as those of a layer that keeps the variance of its
    input: 1 / sqrt(inputs).

    Args:
        model: The model.
        tensor: The tensor.
    """
    parameters, squares, count = base_parameters(model), 0.0, 0
    for view in tensor.views:
        weight = parameters[view.parameter].detach()
        count += weight.numel()
        if not weight.is_meta:
            values = dense_values(weight)
            values = values if is_wide_float(values) else values.float()
            squares += _norm(values) ** 2
    return math.sqrt(squares / count) if squares and math.isfinite(squares) else 1 / math.sqrt(inputs_of(tensor))


def _norm(values: Tensor) -> float:
    """Return the Frobenius norm, in fp64 where the squares leave the range of fp32, which takes longer."""
    found = float(torch.linalg.vector_norm(values, dtype=torch.promote_types(values.dtype, torch.float32)))
    left = math.isinf(found) or (found < _LEAST and bool(values.any()))
    return float(torch.linalg.vector_norm(values.double())) if left else found


def rounded(number: float) -> float:
    """Return a derived scale to four digits, so that it is the same on any machine.

    Args:
        number: The scale.
    """
    return float(f"{number:.4g}")
