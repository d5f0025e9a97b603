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


def is_wide_float(tensor: Tensor) -> bool:
    """Return whether a tensor holds real numbers in at least 16 bits; torch does not compute with those of 8 bits.

    Args:
        tensor: The tensor.
    """
    return tensor.is_floating_point() and tensor.itemsize > 1


def strided_parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """Return ordinary tensors that hold all values of a tensor: itself, or the indices and values of a sparse one.

    Args:
        tensor: The tensor, of any layout.
    """
    tensor = tensor.detach()
    if tensor.layout == torch.strided:
        return (tensor.resolve_conj().resolve_neg(),)
    if tensor.layout == torch.sparse_coo:
        whole = tensor.coalesce()
        return whole.indices(), whole.values()
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return tensor.ccol_indices(), tensor.row_indices(), tensor.values()
    return (tensor.to_dense(),)


def equal_values(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors have the same layout, shape and values; `torch.equal` knows no sparse ones.

    Args:
        one: A tensor.
        other: A tensor of the same dtype.
    """
    if one.layout != other.layout or one.shape != other.shape:
        return False
    parts = strided_parts(one), strided_parts(other)
    return all(torch.equal(mine, theirs) for mine, theirs in zip(*parts, strict=True))


def shapes_only(tensor: Tensor) -> Tensor:
    """Return a tensor of the same shape, strides and dtype on the meta device; a quantised one becomes an ordinary one.

    Args:
        tensor: The tensor.
    """
    if is_quantized(tensor):
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
    return torch.empty_like(tensor, device="meta", requires_grad=False)
