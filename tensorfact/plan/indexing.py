"""Positions along one dimension, and how to take and place them without index tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Index = slice | tuple[int, ...]
"""Evenly spaced positions as a slice, any others as a tuple."""


def as_index(positions: Sequence[int]) -> Index:
    """Return positions as a slice where they are evenly spaced and rising, else as a tuple.

    Args:
        positions: Positions along a dimension, at least one.

    Examples:
        >>> as_index([3, 5, 7]), as_index([2, 0])
        (slice(3, 8, 2), (2, 0))
    """
    first, last = positions[0], positions[-1]
    step = positions[1] - first if len(positions) > 1 else 1
    even = step > 0 and tuple(positions) == tuple(range(first, last + 1, step))
    return slice(first, last + 1, step) if even else tuple(positions)


def take(tensor: Tensor, dim: int, index: Index) -> Tensor:
    """Return the entries at `index` along `dim`: a view for a slice, a copy for scattered positions."""
    if isinstance(index, slice):
        return tensor[(slice(None),) * dim + (index,)]
    return torch.stack([tensor.select(dim, at) for at in index], dim)


def spread(tensor: Tensor, dim: int, positions: Sequence[int], size: int) -> Tensor:
    """Place entries at `positions` along a dimension of `size`, and zeros elsewhere: the adjoint of `take`."""
    if tuple(positions) == tuple(range(size)):
        return tensor
    parts = dict(zip(positions, tensor.unbind(dim), strict=True))
    zero = torch.zeros_like(parts[positions[0]])
    return torch.stack([parts.get(at, zero) for at in range(size)], dim)


def mesh(index: tuple[Index, ...]) -> tuple[slice | Tensor, ...]:
    """Return an index for a block of a tensor: slices if all are slices, else an open mesh as of `numpy.ix_`.

    Args:
        index: The positions of the block in every dimension.
    """
    slices = [i for i in index if isinstance(i, slice)]
    if len(slices) == len(index):
        return tuple(slices)
    runs = [torch.tensor(list(range(i.start, i.stop, i.step) if isinstance(i, slice) else i)) for i in index]
    return tuple(r.reshape([-1 if d == dim else 1 for d in range(len(index))]) for dim, r in enumerate(runs))
