"""What a training step costs, counted on the meta device: operations and bytes, without computing anything."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..model.example import ExampleInput
from ..model.outputs import tensors_of

_ADAM = 2
"""Numbers that Adam keeps for every trained parameter."""


@dataclasses.dataclass(frozen=True)
class StepCost:
    """Cost of one training step on an example input.

    Args:
        trained: Number of trained parameters.
        state: Bytes of their gradients and of Adam's two averages.
        kept: Bytes of the tensors that the forward pass keeps for the backward pass, without the weights.
        flops: Multiplications and additions of the forward and backward pass.
    """

    trained: int
    state: int
    kept: int
    flops: int


def step_cost(model: nn.Module, example: ExampleInput) -> StepCost:
    """Count what a training step costs, in evaluation mode.

    Args:
        model: A model on the meta device; its parameters that require gradients are the trained ones.
        example: An input on the meta device.

    Raises:
        Exception: Whatever the model raises on this input.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    state = sum(parameter.numel() * parameter.element_size() for parameter in trained) * (1 + _ADAM)
    kept: dict[int, Tensor] = {}
    model.eval()

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    counter = FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten.convolution_backward: _convolution_backward}
    )
    with torch.enable_grad(), counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = [t for t in tensors_of(example.run(model)) if t.is_floating_point() and t.requires_grad]
        own = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
        size = sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in own)
        torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])
    model.zero_grad()
    return StepCost(sum(p.numel() for p in trained), state, size, counter.get_total_flops())


def _convolution_backward(
    gradient: Sequence[int],
    x: Sequence[int],
    weight: Sequence[int],
    _bias: object,
    _stride: object,
    _padding: object,
    _dilation: object,
    transposed: bool,  # the arguments of torch's operator
    _output_padding: object,
    _groups: int,
    wanted: Sequence[bool],
    **_: object,
) -> int:
    """Return the operations of a convolution's backward pass; torch's own count takes grouped ones for dense ones."""
    positions = gradient[0] * math.prod((x if transposed else gradient)[2:])
    return 2 * positions * math.prod(weight) * sum(wanted[:2])
