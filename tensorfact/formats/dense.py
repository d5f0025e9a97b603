"""A dense tensor that is to be decomposed: its modes, its checks, and errors relative to it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..common.checks import finite_number
from ..errors import DataError, RankError
from ..network import Mode, Side


def default_modes(tensor: Tensor) -> tuple[Mode, ...]:
    """Return modes for a tensor of which nothing is known: the last two are inputs and outputs, the others stacked."""
    if not isinstance(tensor, Tensor) or not tensor.ndim:
        raise DataError("decompose: tensor", expected="a torch.Tensor of at least one dimension", got=repr(tensor)[:80])
    stack: list[Side] = ["stack"] * (tensor.ndim - 2)
    ends: list[Side] = ["in", "out"] if tensor.ndim > 1 else ["out"]
    return tuple(
        Mode(f"m{k}", size, side) for k, (size, side) in enumerate(zip(tensor.shape, stack + ends, strict=True))
    )


def check_tolerance(tolerance: object) -> None:
    """Raise unless this is a relative error that can be asked for.

    Raises:
        RankError: It is no number in (0, 1).
    """
    meant = "a relative error, 0 < tolerance < 1"
    finite_number(tolerance, "tolerance", RankError, fits=lambda t: 0 < t < 1, expected=meant, example=0.01)


def out_of_reach(format: object, tolerance: float, error: float) -> RankError:
    """Return the error of a tolerance that a format does not reach.

    Args:
        format: The format.
        tolerance: The relative error that was asked for.
        error: The one that was reached.
    """
    return RankError(
        f"{format}: tolerance {tolerance:g}",
        expected="a relative error that a rank of this format reaches",
        got=f"{error:.3g}",
        cause="a rank that is too low, or a tolerance below what the dtype can show",
        fix="rank='full', a larger tolerance, or fp64",
    )


def checked(tensor: Tensor, modes: Sequence[Mode]) -> Tensor:
    """Return a tensor in at least fp32, where linear algebra exists, if it is finite and has the modes' sizes."""
    names = [mode.name for mode in modes if isinstance(mode, Mode)]
    if len(set(names)) < len(modes):
        raise DataError("decompose: modes", expected="Mode objects with different names", got=repr(modes))
    sizes = tuple(mode.size for mode in modes)
    plain = isinstance(tensor, Tensor) and tensor.layout == torch.strided and not tensor.is_meta
    eight_bits = plain and tensor.is_floating_point() and tensor.itemsize < 2  # which torch promotes to nothing
    if not plain or tuple(tensor.shape) != sizes or tensor.is_complex() or eight_bits:
        got = f"{tensor.dtype} {tuple(tensor.shape)}" if isinstance(tensor, Tensor) else type(tensor).__name__
        raise DataError(
            "decompose: tensor", expected=f"dense real numbers of shape {sizes}, one dimension a mode", got=got
        )
    if not math.prod(sizes):
        raise DataError("decompose: tensor", expected="a tensor that holds numbers", got=f"shape {sizes}")
    dense = tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))
    if not bool(dense.isfinite().all()):
        count = int((~dense.isfinite()).sum())
        raise DataError(
            f"decompose: {count:,} of {dense.numel():,} numbers are NaN or infinite",
            cause="weights that diverged, or a damaged file",
            fix="repair them, for instance with torch.nan_to_num",
        )
    return dense


def relative_error(dense: Tensor, found: Tensor) -> float:
    """Return |dense - found| / |dense|, in the Frobenius norm."""
    return float(torch.linalg.vector_norm(dense - found)) / float(torch.linalg.vector_norm(dense))
