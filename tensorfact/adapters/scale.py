"""Scale s of the update W + s dW: a number, LoRA's alpha divided by the rank, or derived from the tensor."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Literal

import torch

from ..common.checks import finite_number, flag, quoted
from ..errors import AdaptError, nearest
from ..formats import Format
from ..formats.search import spelled_rank
from ..plan import TensorGroup
from ..plan.tensors import per_tensor

LARGEST = torch.finfo(torch.float32).max


@dataclasses.dataclass(frozen=True)
class Alpha:
    """A scale that depends on the rank: LoRA's alpha / r.

    The format needs one rank: several different ranks are an error. A format without a rank gets scale 1, as in LoKr
    with two full matrices.

    Args:
        alpha: The numerator.
        root: Divide by the square root of the rank, as in rank-stabilised LoRA.

    Source: E. Hu et al., LoRA, ICLR 2022; D. Kalajdzievski, rsLoRA, 2023.

    Examples:
        >>> from tensorfact import Alpha, MatrixBatch, adapt, plan_for
        >>> from tensorfact.lab import nano
        >>> model = nano()
        >>> adapter = adapt(model, plan_for(model), MatrixBatch(rank=8), scale=Alpha(16))
        >>> adapter.scales["encoder"]
        2.0
    """

    alpha: float
    root: bool = False

    def __post_init__(self) -> None:
        flag(self.root, "Alpha: root", AdaptError)


AUTO: Literal["auto"] = "auto"

Scale = float | Alpha | Literal["auto"]
"""The `scale` argument of `adapt`, for one tensor."""


def read_scale(text: str) -> float | Literal["auto"]:
    """Read a scale as it is written on the command line: `auto`, or a number.

    Args:
        text: The text.

    Raises:
        AdaptError: It is neither.

    Examples:
        >>> read_scale("auto"), read_scale("10")
        ('auto', 10.0)
    """
    if text.strip().lower() == AUTO:
        return AUTO
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise AdaptError("scale", expected="'auto' or a finite number", got=quoted(text), fix="scale=auto")
    return number


def scale_of(scale: object, format: Format, tensor: TensorGroup) -> float:
    """Return the scale of a tensor's increment as a number; one that is derived later counts as 1 until then.

    Args:
        scale: A number, an `Alpha` or `"auto"`.
        format: The tensor's format, whose rank divides an `Alpha`.
        tensor: The tensor.

    Raises:
        AdaptError: The scale is not a finite number, or an `Alpha` meets a format with several ranks.
    """
    if isinstance(scale, str) and scale == AUTO:
        return 1.0
    given = scale.alpha if isinstance(scale, Alpha) else scale
    words = "" if isinstance(scale, Alpha) else "'auto', or "
    auto = isinstance(scale, str) and bool(nearest(scale.lower(), [AUTO]))
    value = finite_number(
        given,
        f"adapt: tensor {tensor.name!r}: scale",
        AdaptError,
        fits=lambda number: abs(number) <= LARGEST,
        expected=f"{words}a number up to {LARGEST:.3g}, the largest of fp32",
        example=AUTO if auto else 1.0,
    )
    if not isinstance(scale, Alpha):
        return value
    if format.own_rank is None:
        return 1.0
    rank = spelled_rank(format.explicit(tensor.modes))
    if isinstance(rank, tuple):
        if len(set(rank)) > 1:
            raise AdaptError(
                f"adapt: tensor {tensor.name!r}: scale={scale}",
                expected="a format with one rank",
                got=f"rank={rank}",
                fix=f"pass a number, scale={value}",
            )
        rank = rank[0]
    return value / (math.sqrt(rank) if scale.root else rank)


def derived(scale: Scale | Mapping[str, Scale], tensors: Iterable[str]) -> list[str]:
    """Return the names of the tensors whose scale is derived: those of the scale `"auto"`.

    Args:
        scale: The `scale` argument of `adapt`.
        tensors: Names of all tensors.
    """
    return [name for name, each in per_tensor(scale, list(tensors), "scale").items() if each == AUTO]
