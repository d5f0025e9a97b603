"""Functions that return edited groups: split an axis, select coordinates, swap two axes, replace the modes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import cast

from ..common.checks import one_of, quoted, whole_number
from ..errors import PlanError, nearest
from .notation import Axes, format_axes, parse_axes
from .rules import Coordinate, Group, Rule

Chosen = Mapping[str, Coordinate | Iterable[Coordinate]]
"""For each axis, one coordinate or several."""

_INTO = "{'head': 12, 'dim': None}"
"""An example of the new axes of a split."""


def split_axis(groups: Iterable[Group], axis: str, into: Mapping[str, int | None]) -> tuple[Group, ...]:
    """Split an axis that runs along the parameters into several, the last running fastest.

    Args:
        groups: The groups of a plan; groups without the axis are returned unchanged.
        axis: The axis to split, such as `in`.
        into: The new axes and their sizes; at most one size may be None and is inferred.

    Raises:
        PlanError: No group has the axis, or the new axes or sizes are invalid.
    """
    groups = tuple(groups)
    free = _free_axes(groups)
    one_of(axis, free or ["in"], "split: axis", PlanError, fix=f"plan.split({(free or ['in'])[0]!r}, {_INTO})")
    sizes = dict(into) if isinstance(into, Mapping) else {}
    if not sizes or not all(isinstance(name, str) for name in sizes) or list(sizes.values()).count(None) > 1:
        raise PlanError(
            f"split: {axis!r} into {quoted(into)}",
            expected="a dict of new axes and their sizes, at most one of them None",
            fix=f"plan.split({axis!r}, {_INTO})",
        )
    for name, size in sizes.items():
        if size is not None:
            whole_number(size, f"split: {axis!r} into {name!r}: size", PlanError, example=12)
    return tuple(_split(group, axis, sizes) if axis in group.rules[0].free else group for group in groups)


def _free_axes(groups: Iterable[Group]) -> list[str]:
    """Return the axes that run along the parameters."""
    return sorted({axis for group in groups for rule in group.rules for axis in rule.free})


def _split(group: Group, axis: str, into: Mapping[str, int | None]) -> Group:
    def renamed(dims: tuple[Axes, ...]) -> tuple[Axes, ...]:
        return tuple(tuple(new for old in dim for new in (into if old == axis else (old,))) for dim in dims)

    modes: list[Axes] = []
    for dim in group.dims:
        if dim == (axis,):
            modes += [(new,) for new in into]
        else:
            modes += renamed((dim,))
    rules = tuple(Rule(rule.param, format_axes(renamed(rule.dims)), **dict(rule.coordinates)) for rule in group.rules)
    sizes = dict(group.axis_sizes or {})
    whole = sizes.pop(axis, None)
    product = math.prod(size or 1 for size in into.values())
    for name, size in into.items():
        if size is not None:
            sizes[name] = size
        elif whole is not None and whole % product == 0:
            sizes[name] = whole // product
    partition = None if group.partition is None else " ".join(renamed((group.apart,))[0])
    sides = {new: side for old, side in (group.sides or {}).items() for new in (into if old == axis else (old,))}
    return dataclasses.replace(
        group, modes=format_axes(tuple(modes)), rules=rules, axis_sizes=sizes, partition=partition, sides=sides
    )


def select(groups: Iterable[Group], chosen: Chosen) -> tuple[Group, ...]:
    """Keep some coordinates of labelled axes and freeze the rest; rules without a kept coordinate are dropped.

    Args:
        groups: The groups of a plan; groups that do not label the axes are returned unchanged.
        chosen: The coordinates to keep, by axis.

    Raises:
        PlanError: The groups do not have an axis or coordinate, or no coordinate is given.
    """
    groups = tuple(groups)
    if not chosen:
        raise PlanError("only: no label is given", expected="labels to keep, by axis", fix="plan.only(role=['q', 'v'])")
    for axis, coordinates in chosen.items():
        wanted = frozenset(_wanted(groups, axis, coordinates, "only"))
        rules = [(group, _chosen(group, axis, wanted)) for group in groups]
        groups = tuple(dataclasses.replace(group, rules=kept) for group, kept in rules if kept)
    return groups


def swap(groups: Iterable[Group], first: str, second: str, chosen: Chosen) -> tuple[Group, ...]:
    """Swap two axes in the patterns of some rules, so that their parameters lie transposed in the tensor.

    Args:
        groups: The groups of a plan.
        first: An axis that runs along the parameters.
        second: Another such axis.
        chosen: The rules to change, by their coordinates; by default all rules.

    Raises:
        PlanError: The groups do not have an axis or coordinate, or only some of a rule's coordinates are chosen.
    """
    groups = tuple(groups)
    for axis in (first, second):
        free = _free_axes(groups)
        example = (free or ["in"])[0], (free or ["out"])[-1]
        one_of(axis, free or ["in", "out"], "swapped: axis", PlanError, fix=f"plan.swapped{example!r}")
    if first == second:
        got = f"{first!r} twice"
        raise PlanError("swapped: axes", expected="two different axes", got=got, fix="plan.swapped('in', 'out')")
    wanted = {axis: set(_wanted(groups, axis, coordinates, "swapped")) for axis, coordinates in chosen.items()}
    places = {first: second, second: first}

    def swapped(rule: Rule) -> Rule:
        labels = {axis: set(_labels(rule, axis)) for axis in wanted}
        if not all(labels[axis] & wanted[axis] for axis in wanted):
            return rule
        if not set(places) <= set(rule.free):
            raise PlanError(
                f"swapped: rule {rule.param!r}",
                expected=f"a pattern with the unlabelled axes {first!r} and {second!r}",
                got=repr(rule.pattern),
                fix="choose the rules to change by their labels, such as role='o'",
            )
        for axis in wanted:
            if not labels[axis] <= wanted[axis]:
                raise PlanError(
                    f"swapped: only some coordinates of rule {rule.param!r} are chosen",
                    got=f"{axis}={chosen[axis]!r}",
                    fix=f"{axis}={list(_labels(rule, axis))}",
                )
        return _renamed(rule, places)

    return tuple(dataclasses.replace(group, rules=tuple(map(swapped, group.rules))) for group in groups)


def _renamed(rule: Rule, places: Mapping[str, str]) -> Rule:
    dims = tuple(tuple(places.get(axis, axis) for axis in dim) for dim in rule.dims)
    return Rule(rule.param, format_axes(dims), **dict(rule.coordinates))


def _wanted(
    groups: tuple[Group, ...], axis: str, coordinates: Coordinate | Iterable[Coordinate], call: str
) -> tuple[Coordinate, ...]:
    """Return the chosen coordinates of an axis as a tuple; raise if the rules do not have one."""
    known = {c: None for group in groups for rule in group.rules for c in _labels(rule, axis)}
    try:
        wanted = (coordinates,) if isinstance(coordinates, str) else tuple(cast("Iterable[Coordinate]", coordinates))
    except TypeError:  # a single coordinate
        wanted = (cast("Coordinate", coordinates),)
    labelled = sorted({a for group in groups for rule in group.rules for a in (*rule.fixed, *rule.listed)})
    for coordinate in wanted or (None,):
        if isinstance(coordinate, bool) or not isinstance(coordinate, (int, str)) or coordinate not in known:
            example = f"{axis}={quoted(next(iter(known)))}" if known else f"one of the axes {', '.join(labelled)}"
            raise PlanError(
                f"{call}: {axis}={quoted(coordinates)}",
                expected=f"labels of the rules: {quoted(list(known))}" if known else "an axis with labels",
                got=f"{quoted(coordinate) if wanted else 'no label'}{nearest(str(coordinate), map(str, known))}",
                cause="a label of another model, or an axis captured from parameter names, such as layer",
                fix=f"{example if known or labelled else 'give the rules labels first'}; print(plan.groups[0].rules)",
            )
    return wanted


def _labels(rule: Rule, axis: str) -> tuple[Coordinate, ...]:
    listed = rule.listed.get(axis) or ((rule.fixed[axis],) if axis in rule.fixed else ())
    return tuple(coordinate for coordinate in listed if coordinate is not None)


def _chosen(group: Group, axis: str, wanted: frozenset[Coordinate]) -> tuple[Rule, ...]:
    if not any(_labels(rule, axis) for rule in group.rules):
        return group.rules
    rules = []
    for rule in group.rules:
        kept = [c if c in wanted else None for c in rule.listed.get(axis, ())]
        if any(coordinate is not None for coordinate in kept):
            rules.append(Rule(rule.param, rule.pattern, **{**dict(rule.coordinates), axis: kept}))
        elif rule.fixed.get(axis) in wanted:
            rules.append(rule)
    return tuple(rules)


def arrange(groups: Iterable[Group], modes: str) -> tuple[Group, ...]:
    """Replace the modes of all groups by others made of the same axes.

    Args:
        groups: The groups of a plan.
        modes: The new modes as an axis string: `"in layer role out"`.

    Raises:
        PlanError: A group's rules do not have these axes.
    """
    parse_axes(modes, "arranged")
    return tuple(dataclasses.replace(group, modes=modes) for group in groups)
