"""Parameters without ordinary values: offloaded ones, which are elsewhere, and quantised ones, which hold integers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

HOOK = "_hf_hook"
"""The attribute in which accelerate keeps the hook that loads a module's parameters for one call."""


def is_offloaded(module: nn.Module, parameter: Tensor) -> bool:
    """Return whether accelerate keeps a parameter's values elsewhere, and loads them when its module is called.

    Args:
        module: The module that owns the parameter.
        parameter: The parameter.
    """
    return parameter.is_meta and hasattr(module, HOOK)


def is_quantized(tensor: Tensor) -> bool:
    """Return whether a tensor is of a subclass that stores its values in fewer bits, as torchao's are.

    Args:
        tensor: The tensor.
    """
    return type(tensor).dequantize is not Tensor.dequantize


def dense_values(tensor: Tensor) -> Tensor:
    """Return the values of a quantised tensor as an ordinary one; other tensors as they are.

    Args:
        tensor: The tensor.
    """
    return tensor.dequantize() if is_quantized(tensor) else tensor


def shapes_only(tensor: Tensor) -> Tensor:
    """Return a tensor of the same shape, strides and dtype on the meta device; a quantised one becomes an ordinary one.

    Args:
        tensor: The tensor.
    """
    if is_quantized(tensor):
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
    return torch.empty_like(tensor, device="meta", requires_grad=False)
