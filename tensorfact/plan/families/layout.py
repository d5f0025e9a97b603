"""What the families know of a model: the towers that have their names, and the blocks of a fused weight."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from typing import NamedTuple

from torch import nn

from ...errors import PlanError
from ..notation import parse_axes
from ..rules import Rule
from .family import Family, Part
from .heads import head_labels
from .known import FAMILIES


class FusedWeight(NamedTuple):
    """A weight that holds several matrices of equal size, one after the other.

    Args:
        family: The family that names them.
        roles: Their names, in order.
        keys: How often the names repeat along the weight: the number of key heads if the matrices alternate by head.
    """

    family: str
    roles: tuple[str, ...]
    keys: int = 1


def conflicting_layout(
    name: str, shape: tuple[int, ...], dim: int, count: int, model: nn.Module, names: Iterable[str]
) -> FusedWeight | None:
    """Return how a known family divides a weight, if a number of labels along it does not fit; else None.

    Matrices that the plan of a family cuts into chunks of any size, as those of an MLP, are not considered.

    Args:
        name: The parameter's name.
        shape: Its shape, of at least two dimensions.
        dim: The dimension that the labels divide.
        count: The number of labels.
        model: The model, which states its numbers of heads.
        names: The names of all parameters of the model.
    """
    for family, part, template in _fused(tuple(FAMILIES)):  # the model's names are read last, by few plans
        if dim != part.divided or not (part.heads or (count % len(part.roles) and chunks(part, shape))):
            continue
        if (found := template.fullmatch(name)) and found["_before"] in towers(family, names):
            try:
                weight = _layout(family, part, name, shape, model)
            except PlanError:  # it is of another family of the same names
                continue
            return weight if count % (weight.keys * len(weight.roles)) else None
    return None


def _layout(family: Family, part: Part, name: str, shape: tuple[int, ...], model: nn.Module) -> FusedWeight:
    if part.heads is None:
        return FusedWeight(family.name, part.roles)
    keys, roles = head_labels(model, part, part.heads, name, shape)
    return FusedWeight(family.name, roles, keys if "head" in part.pattern else 1)


def towers(family: Family, names: Iterable[str]) -> list[str]:
    """Return the name prefixes below which a model has every required part of a family.

    Args:
        family: The family.
        names: The names of the model's parameters.
    """
    found: list[dict[str, None]] = []
    for part in family.parts:
        if not part.optional:
            template = _anywhere(part)
            found.append(dict.fromkeys(match["_before"] for name in names if (match := template.fullmatch(name))))
    return [prefix for prefix in found[0] if _is_name(prefix) and all(prefix in others for others in found)]


def chunks(part: Part, shape: tuple[int, ...]) -> int:
    """Return the number of square chunks per label that a parameter can be cut into; 0 if it cannot.

    Labels along an axis `hid` cover one block each, of any size.

    Args:
        part: A part with labels.
        shape: The parameter's shape.
    """
    along = part.divided
    if "hid" in parse_axes(part.pattern, part.param)[along]:
        return int(shape[along] % len(part.roles) == 0)
    count, rest = divmod(shape[along], shape[1 - along] * len(part.roles))
    return 0 if rest else count


@functools.lru_cache(maxsize=4)
def _fused(families: tuple[str, ...]) -> tuple[tuple[Family, Part, re.Pattern[str]], ...]:
    parts = ((FAMILIES[name], part) for name in families for part in FAMILIES[name].parts)
    return tuple((family, part, _anywhere(part)) for family, part in parts if len(part.roles) > 1 and not part.is_wide)


@functools.cache
def _anywhere(part: Part) -> re.Pattern[str]:
    """Return the template of a part's names with any prefix before them."""
    return re.compile(rf"(?P<_before>(?:[^.]+\.)*){Rule(part.param, 'd').regex.pattern}")


def _is_name(prefix: str) -> bool:
    """Return whether a prefix may hold a tower: only its first word may be a number."""
    return not any(word.isdecimal() for word in prefix.split(".")[1:])
