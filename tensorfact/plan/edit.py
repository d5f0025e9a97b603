"""Other groups from given ones: an axis split into several, other modes, fewer coordinates."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping

from ..common.checks import one_of, whole_number
from ..errors import PlanError, nearest
from .notation import Axes, format_axes, parse_axes
from .rules import Coordinate, Group, Rule

Chosen = Mapping[str, Coordinate | Iterable[Coordinate]]
"""Coordinates by axis: one, or several."""


def split_axis(groups: Iterable[Group], axis: str, into: Mapping[str, int | None]) -> tuple[Group, ...]:
    """Split an axis that runs along the parameters into several, the last running fastest.

    Args:
        groups: The groups; those without the axis stay as they are.
        axis: The axis.
        into: The new axes and their sizes; one may be None, what remains.

    Raises:
        PlanError: No group has the axis, or the new axes are none.
    """
    groups = tuple(groups)
    one_of(axis, _free_axes(groups), "split: axis", PlanError)
    sizes = dict(into) if isinstance(into, Mapping) else {}
    if not sizes or not all(isinstance(name, str) for name in sizes) or list(sizes.values()).count(None) > 1:
        raise PlanError(
            f"split: {axis!r} into {into!r}",
            expected="the new axes and their sizes, ints of at least 1, or one None",
            fix=f"plan.split({axis!r}, {{'head': 12, 'dim': None}})",
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

    modes = tuple(
        each for dim in group.dims for each in (tuple((new,) for new in into) if dim == (axis,) else renamed((dim,)))
    )
    rules = tuple(Rule(rule.param, format_axes(renamed(rule.dims)), **dict(rule.coordinates)) for rule in group.rules)
    known = {name: size for name, size in (group.axis_sizes or {}).items() if name != axis}
    told, product = (group.axis_sizes or {}).get(axis), math.prod(size or 1 for size in into.values())
    rest = told // product if told and not told % product else None
    known |= {name: found for name, size in into.items() if (found := size or rest)}
    apart = None if group.partition is None else " ".join(" ".join(into) if a == axis else a for a in group.apart)
    return dataclasses.replace(group, modes=format_axes(modes), rules=rules, axis_sizes=known, partition=apart)


def select(groups: Iterable[Group], chosen: Chosen) -> tuple[Group, ...]:
    """Keep some coordinates of axes that rules label; the others stay frozen, and rules without any are left out.

    Args:
        groups: The groups; one that has none of the axes stays as it is.
        chosen: Coordinates by axis.

    Raises:
        PlanError: An axis or a coordinate is none of the groups', or nothing is left.
    """
    groups = tuple(groups)
    for axis, coordinates in chosen.items():
        wanted = _wanted(groups, axis, coordinates)
        rules = [(group, _chosen(group, axis, wanted)) for group in groups]
        groups = tuple(dataclasses.replace(group, rules=kept) for group, kept in rules if kept)
    return groups


def swap(groups: Iterable[Group], first: str, second: str, chosen: Chosen) -> tuple[Group, ...]:
    """Let two axes change places in the patterns of some rules, whose parameters then lie transposed.

    Args:
        groups: The groups.
        first: An axis.
        second: Another.
        chosen: Coordinates by axis; rules with all of these are changed, without any, all rules.

    Raises:
        PlanError: An axis or a coordinate is none of the groups', or a rule has other coordinates too.
    """
    groups, places = tuple(groups), {first: second, second: first}
    for axis in places:
        one_of(axis, _free_axes(groups), "swapped: axis", PlanError)
    wanted = {axis: set(_wanted(groups, axis, coordinates)) for axis, coordinates in chosen.items()}

    def swapped(rule: Rule) -> Rule:
        labels = {axis: set(_labels(rule, axis)) for axis in wanted}
        if not all(labels[axis] & wanted[axis] for axis in wanted):
            return rule
        if any(not labels[axis] <= wanted[axis] for axis in wanted) or not set(places) <= set(rule.free):
            raise PlanError(
                f"swapped: rule {rule.param!r}",
                expected=f"{first!r} and {second!r} along its parameters, and all coordinates in {chosen}",
                got=f"{rule.pattern!r}, {labels}",
                fix="choose all coordinates of a rule, or none",
            )
        return _renamed(rule, places)

    return tuple(dataclasses.replace(group, rules=tuple(map(swapped, group.rules))) for group in groups)


def _renamed(rule: Rule, places: Mapping[str, str]) -> Rule:
    dims = tuple(tuple(places.get(axis, axis) for axis in dim) for dim in rule.dims)
    return Rule(rule.param, format_axes(dims), **dict(rule.coordinates))


def _wanted(
    groups: tuple[Group, ...], axis: str, coordinates: Coordinate | Iterable[Coordinate]
) -> tuple[Coordinate, ...]:
    """Return coordinates of an axis, if the rules give them."""
    known = {c: None for group in groups for rule in group.rules for c in _labels(rule, axis)}
    wanted: tuple[Coordinate, ...]
    if isinstance(coordinates, Iterable) and not isinstance(coordinates, str):
        wanted = tuple(coordinates)
    else:
        wanted = (coordinates,)
    for coordinate in wanted or (None,):
        if coordinate not in known:
            raise PlanError(
                f"{axis}={coordinate!r}",
                expected=f"coordinates that the rules give: {list(known)}",
                got=f"{coordinate!r}{nearest(str(coordinate), map(str, known))}",
                cause="an axis that the parameters' names tell, such as a layer, or a label of another model",
                fix="see plan.groups[0].rules",
            )
    return wanted


def _labels(rule: Rule, axis: str) -> tuple[Coordinate, ...]:
    listed = rule.listed.get(axis) or ((rule.fixed[axis],) if axis in rule.fixed else ())
    return tuple(coordinate for coordinate in listed if coordinate is not None)


def _chosen(group: Group, axis: str, wanted: tuple[Coordinate, ...]) -> tuple[Rule, ...]:
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
    """Give all groups other modes of the same axes.

    Args:
        groups: The groups.
        modes: The modes: `"in layer role out"`.

    Raises:
        PlanError: A group's rules do not have these axes.
    """
    parse_axes(modes, "arranged")
    return tuple(dataclasses.replace(group, modes=modes) for group in groups)
