"""What trains, in groups of one learning rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..common.checks import finite_number, one_of
from ..errors import AdaptError
from ..model.parameters import base_parameters


def parameter_groups(
    model: nn.Module,
    cores: Mapping[str, Tensor],
    head: tuple[str, ...],
    lr: float,
    factors: Mapping[str, float] | None,
) -> list[dict[str, Any]]:
    """Return the parameters that require gradients in groups of one learning rate.

    Args:
        model: The adapted model.
        cores: Its cores, named `TENSOR.CORE`.
        head: The names of the head's parameters.
        lr: The learning rate.
        factors: As in `Adapter.parameter_groups`.

    Raises:
        AdaptError: A name is no core's and not `head`, or a multiple is no positive number.
    """
    words = {id(core): [name.rpartition(".")[2], name] for name, core in cores.items()}
    parameters = base_parameters(model)
    words |= {id(parameters[name]): ["head"] for name in head if name in parameters}
    known = sorted({word for each in words.values() for word in each})
    multiples = {}
    for name, factor in (factors or {}).items():
        one_of(name, known, "parameter_groups: factors", AdaptError)
        multiples[name] = finite_number(
            factor,
            f"parameter_groups: factors[{name!r}]",
            AdaptError,
            fits=lambda m: m > 0,
            expected="a multiple above 0",
        )
    groups: dict[float, list[Tensor]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            found = [multiples[word] for word in words.get(id(parameter), ()) if word in multiples]
            groups.setdefault((found or [1.0])[-1], []).append(parameter)
    return [{"params": params, "lr": lr * factor} for factor, params in groups.items()]
