"""Checks of a dense tensor before it is decomposed, its default modes, and relative errors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..common.checks import finite_number, quoted
from ..errors import DataError, RankError
from ..network import Mode, Side


def default_modes(tensor: Tensor) -> tuple[Mode, ...]:
    """Return default modes for a tensor: the last two are inputs and outputs, the others are stacked."""
    if not isinstance(tensor, Tensor) or not tensor.ndim:
        raise DataError("decompose: tensor", expected="a torch.Tensor of one or more dimensions", got=quoted(tensor))
    stack: list[Side] = ["stack"] * (tensor.ndim - 2)
    ends: list[Side] = ["in", "out"] if tensor.ndim > 1 else ["out"]
    return tuple(
        Mode(f"m{k}", size, side) for k, (size, side) in enumerate(zip(tensor.shape, stack + ends, strict=True))
    )


def check_tolerance(tolerance: object) -> float:
    """Check that a tolerance is a valid relative error, and return it as a float.

    Raises:
        RankError: The tolerance is not a number in (0, 1).
    """
    meant = "a relative error, 0 < tolerance < 1"
    return finite_number(tolerance, "tolerance", RankError, fits=lambda t: 0 < t < 1, expected=meant, example=0.01)


def out_of_reach(format: object, tolerance: float, error: float) -> RankError:
    """Return the error for a tolerance that a format cannot reach.

    Args:
        format: The format, for the message.
        tolerance: The requested relative error.
        error: The relative error that was reached.
    """
    return RankError(
        f"{format}: tolerance {tolerance:g} cannot be reached",
        got=f"a relative error of {error:.3g}",
        cause="the rank is too low, or the tolerance is below the precision of the dtype",
        fix="use rank='full', a larger tolerance, or fp64",
    )


def checked(tensor: Tensor, modes: Sequence[Mode]) -> Tensor:
    """Check that a tensor is dense, real, finite and matches the modes; return it in fp32 or fp64."""
    names = [mode.name for mode in modes if isinstance(mode, Mode)]
    if len(set(names)) < len(modes):
        raise DataError("decompose: modes", expected="Mode objects with different names", got=repr(modes))
    sizes = tuple(mode.size for mode in modes)
    plain = isinstance(tensor, Tensor) and tensor.layout == torch.strided and not tensor.is_meta
    eight_bits = plain and tensor.is_floating_point() and tensor.itemsize < 2  # torch cannot promote these
    if not plain or tuple(tensor.shape) != sizes or tensor.is_complex() or eight_bits:
        got = f"{tensor.dtype} {tuple(tensor.shape)}" if isinstance(tensor, Tensor) else type(tensor).__name__
        raise DataError(
            "decompose: tensor", expected=f"a dense real tensor of shape {sizes}, one dimension per mode", got=got
        )
    if not math.prod(sizes):
        raise DataError("decompose: tensor", expected="a tensor with at least one element", got=f"shape {sizes}")
    dense = tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))
    if not bool(dense.isfinite().all()):
        count = int((~dense.isfinite()).sum())
        raise DataError(
            f"decompose: {count:,} of {dense.numel():,} values are NaN or infinite",
            cause="diverged training, or a damaged file",
            fix="replace them with torch.nan_to_num(tensor)",
        )
    return dense


def relative_error(dense: Tensor, found: Tensor) -> float:
    """Return |dense - found| / |dense|, in the Frobenius norm."""
    return float(torch.linalg.vector_norm(dense - found)) / float(torch.linalg.vector_norm(dense))
