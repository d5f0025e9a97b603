"""The labels of a fused q, k and v whose blocks follow the heads, by the numbers that the model states."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from ...errors import PlanError
from .family import Heads, Part


class HeadLabels(NamedTuple):
    """How a fused weight is divided.

    Args:
        keys: The number of key heads.
        roles: The labels of one key head's rows, in order: its queries, its key and its value.
    """

    keys: int
    roles: tuple[str, ...]


def head_labels(model: nn.Module, part: Part, heads: Heads, name: str, shape: tuple[int, ...]) -> HeadLabels:
    """Return the labels of a fused q, k and v.

    Args:
        model: The model.
        part: The part that names the weight.
        heads: Where the model states its heads.
        name: The weight's name.
        shape: Its shape.

    Raises:
        PlanError: The model does not state the numbers, or the weight has another number of rows.
    """
    queries, size = stated(model, name, heads.queries), stated(model, name, heads.size)
    keys = queries if heads.keys is None else stated(model, name, heads.keys)
    rows = shape[part.divided]
    if queries % keys or rows != (queries + 2 * keys) * size:
        raise PlanError(
            f"{name!r} {shape}",
            expected=f"{queries} query heads, {keys} keys and {keys} values of {size} rows each",
            got=f"{rows} rows",
            fix="write a TensorizationPlan",
        )
    query, *others = part.roles
    count = queries // keys
    return HeadLabels(keys, (*([query] if count == 1 else [f"{query}{k}" for k in range(count)]), *others))


def stated(model: nn.Module, name: str, attribute: str) -> int:
    """Return a number that the innermost module around a parameter states, itself or in its configuration.

    Args:
        model: The model.
        name: The parameter's name.
        attribute: The attribute that holds the number.

    Raises:
        PlanError: No module around the parameter states it.
    """
    words = name.split(".")
    for end in range(len(words) - 1, -1, -1):
        module = model.get_submodule(".".join(words[:end]))
        for holder in (module, getattr(module, "config", None)):
            found = getattr(holder, attribute, None)
            if isinstance(found, int) and not isinstance(found, bool) and found > 0:
                return found
    raise PlanError(
        f"no module around {name!r} states {attribute}",
        cause="the order of the rows of a fused q, k and v depends on it",
        fix="write a TensorizationPlan",
    )
