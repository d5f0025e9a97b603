"""`Recipe`: a published method as a plan, a format and options of `adapt`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, cast

from torch import nn

from ..adapters import Adapter, adapt
from ..common.aliases import Options
from ..errors import PlanError
from ..formats import FormatLike
from ..plan import TensorizationPlan


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A published method for one model.

    Args:
        plan: Which weights fold into which tensors.
        format: How each tensor is factored: one format for all, or formats by group name.
        options: Other arguments of `adapt` that the method sets, such as `scale`.

    Examples:
        >>> from tensorfact import recipes
        >>> from tensorfact.lab import nano
        >>> model = nano()
        >>> recipes.lora(model, rank=4).adapt(model).num_parameters
        9216
    """

    plan: TensorizationPlan
    format: FormatLike | Mapping[str, FormatLike]
    options: Options = dataclasses.field(default_factory=dict)

    def adapt(self, model: nn.Module, **options: Any) -> Adapter:
        """Attach the method's factors to a model.

        Args:
            model: The model that the recipe was made for; it is adapted in place.
            options: Other arguments of `adapt`; they take precedence over the recipe's.
        """
        return cast("Adapter", adapt(model, self.plan, self.format, **{**self.options, **options}))

    def num_parameters(self, model: nn.Module) -> int:
        """Return the number of trained parameters, without the head.

        Args:
            model: The model; it is only read.
        """
        return self.plan.resolve(model).num_parameters(self.format)


def width(plan: TensorizationPlan, model: nn.Module, axis: str) -> int:
    """Return the size of a mode that is the same in all of a plan's tensors.

    Args:
        plan: The plan.
        model: A model that the plan fits.
        axis: The mode's name, such as `in`.

    Raises:
        PlanError: The tensors have several sizes.
    """
    tensors = plan.resolve(model).tensors
    sizes = {mode.size for tensor in tensors for mode in tensor.modes if mode.name == axis}
    if len(sizes) != 1:
        raise PlanError(
            f"cannot fold the width {axis!r}",
            expected="one width in all tensors",
            got=f"{sorted(sizes)} in {', '.join(tensor.name for tensor in tensors)}",
            cause="stages of several widths, or keys and values with fewer heads",
            fix="roles=['q'], or adapt() with your own plan and format",
        )
    return sizes.pop()


def heads_of(model: nn.Module, heads: int | None) -> int:
    """Return the number of attention heads: the given one, or that of the model's modules or config.

    Args:
        model: The model.
        heads: The number, if it is known; None to read it from the model.

    Raises:
        PlanError: The model states no number, or several.
    """
    if heads is not None:
        return heads
    stated = [getattr(module, "num_heads", None) for module in model.modules()]
    stated += [getattr(getattr(model, "config", None), "num_attention_heads", None)]
    found = {int(number) for number in stated if isinstance(number, int)}
    if len(found) != 1:
        raise PlanError(
            "the number of attention heads",
            expected="one `num_heads` among the model's modules",
            got=repr(sorted(found)) if found else "none",
            fix="pass heads=12",
        )
    return found.pop()


def split_heads(plan: TensorizationPlan, model: nn.Module, axis: str, heads: int | None) -> TensorizationPlan:
    """Split an axis of a plan into `head`, the attention head, and `dim`, the dimension within a head.

    Args:
        plan: The plan.
        model: A model that the plan fits.
        axis: The axis to split, `in` or `out`.
        heads: The number of heads; None to read it from the model.

    Raises:
        PlanError: The number of heads is not known, or the tensors have heads of several sizes.
    """
    split = plan.split(axis, {"head": heads_of(model, heads), "dim": None})
    sizes = {mode.size for tensor in split.resolve(model).tensors for mode in tensor.modes if mode.name == "dim"}
    if len(sizes) > 1:
        raise PlanError(
            f"heads of {axis!r}",
            expected="heads of one size in all tensors",
            got=f"sizes {sorted(sizes)}",
            cause="grouped-query attention, whose keys and values have fewer heads",
            fix="roles=['q']",
        )
    return split


def fold(size: int, parts: int) -> tuple[int, ...]:
    """Return the factors of a number that are closest to each other, in ascending order.

    Args:
        size: The number to factor.
        parts: The number of factors.

    Examples:
        >>> fold(768, 2), fold(768, 3)
        ((24, 32), (8, 8, 12))
    """
    if parts == 1:
        return (size,)
    divisors = [number for number in range(1, size + 1) if size % number == 0]
    splits = [tuple(sorted((first, *fold(size // first, parts - 1)))) for first in divisors]
    return min(splits, key=lambda split: (sum(split), math.prod(split)))


def layers_by_matrices(plan: TensorizationPlan, model: nn.Module) -> TensorizationPlan:
    """Arrange a plan as layers by matrices: q, k, v, o, and equally many chunks of the MLP's two matrices.

    Args:
        plan: The plan of a transformer.
        model: The model; it is only read.

    Raises:
        PlanError: A layer has other matrices, or not all layers have the same.
    """
    problem = f"fact_tk_released: the layers of {type(model).__name__}"
    expected, fix = "q, k, v, o and the chunks up0, ..., down0, ... of an MLP", "recipes.fact_tk(model)"
    try:
        arranged = plan.arranged("layer role in out")
        tensors = arranged.resolve(model).tensors
    except PlanError as error:
        raise PlanError(problem, expected=expected, got=str(error)[:200], fix=fix) from error
    for tensor in tensors:
        found = [str(label) for label in tensor.coordinates["role"]]
        chunks = range((len(found) - 4) // 2)
        if found != ["q", "k", "v", "o", *(f"up{k}" for k in chunks), *(f"down{k}" for k in chunks)]:
            raise PlanError(problem, expected=expected, got=", ".join(found), fix=fix)
    return arranged
