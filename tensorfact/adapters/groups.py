"""Trained parameters in groups by learning rate, for torch optimizers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from ..common.checks import finite_number, of_type, one_of
from ..errors import AdaptError

ParameterGroup = dict[str, Any]
"""One parameter group of a torch optimizer, with `params` and `lr`."""


def parameter_groups(
    model: nn.Module,
    cores: Mapping[str, Tensor],
    head: Iterable[Tensor],
    lr: float,
    factors: Mapping[str, float],
) -> list[ParameterGroup]:
    """Group the parameters that require gradients by learning rate.

    Args:
        model: The adapted model.
        cores: Cores by name, `TENSOR.CORE`.
        head: The parameters of the head.
        lr: The learning rate.
        factors: Multiples of `lr` by name, as in `Adapter.parameter_groups`.

    Raises:
        AdaptError: A name is neither a core nor `head`, or a multiple or `lr` is not a number above 0.
    """
    finite_number(
        lr, "parameter_groups: lr", AdaptError, fits=lambda v: v > 0, expected="a number above 0", example=1e-3
    )
    words = {id(core): [name.rpartition(".")[2], name] for name, core in cores.items()}
    words |= {id(parameter): ["head"] for parameter in head}
    known = sorted({word for each in words.values() for word in each})
    multiples = {}
    example = f"{{{known[0]!r}: 16.0}}"
    given = of_type(
        factors,
        Mapping,
        "parameter_groups: factors",
        AdaptError,
        expected="a dict of multiples by name",
        example=example,
    )
    for name, factor in given.items():
        one_of(name, known, "parameter_groups: factors", AdaptError, fix=f"factors={example}")
        multiples[name] = finite_number(
            factor,
            f"parameter_groups: factors[{name!r}]",
            AdaptError,
            fits=lambda m: m > 0,
            expected="a number above 0",
        )
    groups: dict[float, list[Tensor]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            found = [multiples[word] for word in words.get(id(parameter), ()) if word in multiples]
            groups.setdefault((found or [1.0])[-1], []).append(parameter)
    return [{"params": params, "lr": lr * factor} for factor, params in groups.items()]
