"""What multiplies an increment: a number, or one that depends on the rank."""

from __future__ import annotations

import dataclasses
import math

import torch

from ..common.checks import finite_number
from ..errors import AdaptError
from ..formats import Format
from ..formats.search import spelled_rank
from ..plan import TensorGroup

LARGEST = torch.finfo(torch.float32).max


@dataclasses.dataclass(frozen=True)
class Alpha:
    """A scale that depends on the rank: LoRA's alpha / r.

    A format with several ranks has no one rank to divide by; one without a rank is scaled by 1, as LoKr does where both
    its matrices are whole.

    Args:
        alpha: The numerator.
        root: Divide by the square root of the rank instead, as rank-stabilised LoRA does.

    Source: E. Hu et al., LoRA, ICLR 2022; D. Kalajdzievski, rsLoRA, 2023.

    Examples:
        >>> from tensorfact import Alpha, MatrixBatch, adapt, plan_for
        >>> from tensorfact.lab import nano
        >>> model = nano()
        >>> adapter = adapt(model, plan_for(model), MatrixBatch(rank=8), scale=Alpha(16))
        >>> adapter.scales
        {'encoder': 2.0}
    """

    alpha: float
    root: bool = False


Scale = float | Alpha
"""What multiplies an increment."""


def scale_of(scale: object, format: Format, tensor: TensorGroup) -> float:
    """Return the number that multiplies a tensor's increment.

    Args:
        scale: What `adapt` takes.
        format: The tensor's format.
        tensor: The tensor.

    Raises:
        AdaptError: It is no finite number, or the format has several ranks.
    """
    given = scale.alpha if isinstance(scale, Alpha) else scale
    value = finite_number(
        given,
        f"adapt: tensor {tensor.name!r}: scale",
        AdaptError,
        fits=lambda number: abs(number) <= LARGEST,
        expected=f"a number up to {LARGEST:.3g}, the largest of fp32",
        example=1.0,
    )
    if not isinstance(scale, Alpha):
        return value
    if format.own_rank is None:
        return 1.0
    rank = spelled_rank(format.explicit(tensor.modes))
    if isinstance(rank, tuple):
        if len(set(rank)) > 1:
            raise AdaptError(
                f"adapt: scale {scale} of {tensor.name!r}",
                expected="a format of one rank",
                got=f"rank={rank}",
                fix="pass a number",
            )
        rank = rank[0]
    return value / (math.sqrt(rank) if scale.root else rank)
