"""Merge the forms of single parameters into as few rules as possible."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ..rules import Coordinate, Rule


class Form(NamedTuple):
    """The pattern and role that a rule gives a parameter."""

    pattern: str
    role: str | tuple[str, ...] | None


def concrete_rules(
    template: str, found: Mapping[str, Form | None], fixed: Mapping[str, Coordinate] | None = None
) -> list[Rule]:
    """Return one rule if all forms are equal, else rules for each value of the template's first capture.

    Args:
        template: A parameter-name template.
        found: The form of every parameter that the template matches; None leaves the parameter out.
        fixed: Coordinates of the captures that were already replaced by a value in the template.

    Examples:
        >>> found = {"a.0.w": Form("out in", "w"), "a.1.w": None, "a.2.w": Form("out in", "w")}
        >>> concrete_rules("a.{layer}.w", found)
        [Rule('a.0.w', 'out in', layer=0, role='w'), Rule('a.2.w', 'out in', layer=2, role='w')]
    """
    forms, fixed = set(found.values()), fixed or {}
    if len(forms) < 2:
        kept = [form for form in forms if form]
        return [Rule(template, f.pattern, **({} if f.role is None else {"role": f.role}), **fixed) for f in kept]
    rule = Rule(template, "d")
    axis = rule.captured[0]
    coordinates = {name: (rule.match(name) or {})[axis] for name in found}
    rules = []
    apart: dict[Coordinate, dict[str, Form | None]] = {}
    for name, form in found.items():
        apart.setdefault(coordinates[name], {})[name] = form
    for value, own in apart.items():
        rules += concrete_rules(template.replace(f"{{{axis}}}", str(value)), own, {**fixed, axis: value})
    return rules
