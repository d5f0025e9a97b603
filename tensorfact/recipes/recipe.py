"""What a recipe is: a plan, a format and options of `adapt`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from ..adapters import Adapter, adapt
from ..errors import PlanError
from ..formats import Format
from ..plan import TensorizationPlan


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A published method on one model.

    Args:
        plan: Which weights fold into which tensors.
        format: How each tensor is factored: one format, or one for each group's name.
        options: What else the method sets in `adapt`.

    Examples:
        >>> from tensorfact import recipes
        >>> from tensorfact.lab import nano
        >>> model = nano()
        >>> recipes.lora(model, rank=4).adapt(model).num_parameters
        9216
    """

    plan: TensorizationPlan
    format: Format | Mapping[str, Format]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def adapt(self, model: nn.Module, **options: Any) -> Adapter:
        """Adapt a model.

        Args:
            model: The model.
            options: Other options of `adapt`; they take precedence over the recipe's.
        """
        return adapt(model, self.plan, self.format, **{**self.options, **options})

    def num_parameters(self, model: nn.Module) -> int:
        """Return how many numbers train, the head apart.

        Args:
            model: The model; it is only read.
        """
        return self.plan.resolve(model).num_parameters(self.format)


def width(plan: TensorizationPlan, model: nn.Module, axis: str) -> int:
    """Return the size that a mode has in all of a plan's tensors.

    Args:
        plan: The plan.
        model: The model.
        axis: The mode's name.

    Raises:
        PlanError: They have several sizes.
    """
    tensors = plan.resolve(model).tensors
    sizes = {mode.size for tensor in tensors for mode in tensor.modes if mode.name == axis}
    if len(sizes) != 1:
        raise PlanError(
            f"the width {axis!r} that is to be folded",
            expected="one for all tensors",
            got=f"{sorted(sizes)} in {', '.join(tensor.name for tensor in tensors)}",
            cause="stages of several widths, or keys and values with fewer heads",
            fix="pass roles= of one width, or a plan and format by hand",
        )
    return sizes.pop()


def heads_of(model: nn.Module, heads: int | None) -> int:
    """Return the number of attention heads: as given, or as the model says it.

    Args:
        model: The model.
        heads: The number; None to look for it.

    Raises:
        PlanError: The model does not say it, or says several.
    """
    if heads is not None:
        return heads
    told = [getattr(module, "num_heads", None) for module in model.modules()]
    told += [getattr(getattr(model, "config", None), "num_attention_heads", None)]
    found = {int(number) for number in told if isinstance(number, int)}
    if len(found) != 1:
        raise PlanError(
            "the number of attention heads",
            expected="one `num_heads` among the model's modules",
            got=repr(sorted(found)) if found else "none",
            fix="pass heads=12",
        )
    return found.pop()


def split_heads(plan: TensorizationPlan, model: nn.Module, axis: str, heads: int | None) -> TensorizationPlan:
    """Split an axis of a plan into heads and what is within one: axes `head` and `dim`.

    Args:
        plan: The plan.
        model: The model.
        axis: The axis.
        heads: The number of heads; None to look for it.

    Raises:
        PlanError: The model does not say how many heads it has, or its tensors have heads of several sizes.
    """
    split = plan.split(axis, {"head": heads_of(model, heads), "dim": None})
    sizes = {mode.size for tensor in split.resolve(model).tensors for mode in tensor.modes if mode.name == "dim"}
    if len(sizes) > 1:
        raise PlanError(
            f"heads of {axis!r}",
            expected="heads of one size in all tensors",
            got=f"sizes {sorted(sizes)}",
            cause="grouped-query attention, whose keys and values have fewer heads",
            fix="pass roles= of one width, such as roles=['q']",
        )
    return split


def fold(size: int, parts: int) -> tuple[int, ...]:
    """Return the most even factors of a number, rising.

    Args:
        size: The number.
        parts: How many factors.

    Examples:
        >>> fold(768, 2), fold(768, 3)
        ((24, 32), (8, 8, 12))
    """
    if parts == 1:
        return (size,)
    divisors = [number for number in range(1, size + 1) if size % number == 0]
    splits = [tuple(sorted((first, *fold(size // first, parts - 1)))) for first in divisors]
    return min(splits, key=lambda split: (sum(split), math.prod(split)))
