"""Rules and groups: which parameters fold into which tensor, as frozen data."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from typing import cast, get_args

from torch import nn

from ..common.aliases import JsonObject
from ..common.checks import duplicate, of_type, one_of, quoted, whole_number
from ..errors import PlanError
from ..network import Side
from .notation import Axes, check_count, check_length, mode_name, parse_axes

Coordinate = int | str
Fixed = Coordinate | tuple[Coordinate | None, ...]

_CAPTURE = re.compile(r"\{([^{}]*)\}")
_AXIS = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclasses.dataclass(frozen=True, init=False)
class Rule:
    """A template of parameter names, and how the dimensions of a matching parameter split into axes.

    Args:
        param: The template: a parameter's name in which `{axis}` captures a coordinate, any text without a dot:
            `blocks.{layer}.attn.qkv.weight`.
        pattern: The axes of every dimension: `"(role out) in"`. `1` is a dimension of size one.
        coordinates: For an axis that is not in the pattern, the coordinate of the whole parameter: `role="o"`. For an
            axis in the pattern, the coordinates along it: `role=["q", None, "v"]`; `None` leaves that part frozen.

    Raises:
        PlanError: The template, the pattern or the coordinates are invalid, or contradict each other.

    Examples:
        >>> rule = Rule("blocks.{layer}.attn.qkv.weight", "(role out) in", role=["q", None, "v"])
        >>> rule.match("blocks.3.attn.qkv.weight")
        {'layer': 3}
        >>> sorted(rule.axes), sorted(rule.free)
        (['in', 'layer', 'out', 'role'], ['in', 'out'])
    """

    param: str
    pattern: str
    coordinates: tuple[tuple[str, Fixed], ...]

    def __init__(self, param: str, pattern: str, **coordinates: Coordinate | Sequence[Coordinate | None]) -> None:
        frozen = tuple((a, tuple(c) if isinstance(c, (list, tuple)) else c) for a, c in sorted(coordinates.items()))
        object.__setattr__(self, "param", param)
        object.__setattr__(self, "pattern", pattern)
        object.__setattr__(self, "coordinates", frozen)
        self._check()

    def __repr__(self) -> str:
        words = [repr(self.param), repr(self.pattern)]
        words += [f"{axis}={list(c) if isinstance(c, tuple) else c!r}" for axis, c in self.coordinates]
        return f"Rule({', '.join(words)})"

    @functools.cached_property
    def dims(self) -> tuple[Axes, ...]:
        """The axes of every dimension of the parameter."""
        return parse_axes(self.pattern, f"rule {quoted(self.param)}")

    @property
    def captured(self) -> tuple[str, ...]:
        """The axes whose coordinate is captured from the parameter's name."""
        return tuple(_CAPTURE.findall(self.param))

    @property
    def fixed(self) -> dict[str, Coordinate]:
        """The axes with one given coordinate for the whole parameter, and that coordinate."""
        return {axis: c for axis, c in self.coordinates if not isinstance(c, tuple)}

    @property
    def listed(self) -> dict[str, tuple[Coordinate | None, ...]]:
        """The axes of the pattern with a list of coordinates, and that list."""
        return {axis: c for axis, c in self.coordinates if isinstance(c, tuple)}

    @functools.cached_property
    def free(self) -> tuple[str, ...]:
        """The axes that run along the parameter without labels."""
        listed = self.listed
        return tuple(axis for dim in self.dims for axis in dim if axis not in listed)

    @functools.cached_property
    def axes(self) -> frozenset[str]:
        """Every axis on which this rule places its parameters."""
        return frozenset((*self.captured, *self.fixed, *self.listed, *self.free))

    def match(self, name: str) -> dict[str, Coordinate] | None:
        """Return the coordinates captured from a parameter's name, or None if it does not match the template.

        Raises:
            PlanError: The name is not a str.
        """
        of_type(name, str, "Rule.match: name", PlanError, expected="a str", example="'blocks.0.attn.qkv.weight'")
        if "{" not in self.param:
            return {} if name == self.param else None
        found = self.regex.fullmatch(name)
        if found is None:
            return None
        return {a: int(text) if text.isdecimal() and len(text) < 10 else text for a, text in found.groupdict().items()}

    @functools.cached_property
    def regex(self) -> re.Pattern[str]:
        """The template as a regular expression with a named group for every captured axis."""
        parts = _CAPTURE.split(self.param)
        return re.compile("".join(f"(?P<{p}>[^.]+)" if i % 2 else re.escape(p) for i, p in enumerate(parts)))

    def _check(self) -> None:
        owner = f"rule {quoted(self.param)}"
        check_length(self.param, owner)
        if not isinstance(self.param, str) or not isinstance(self.pattern, str) or not self.param:
            raise PlanError(
                owner,
                expected="a template of parameter names and an axis string",
                got=f"{quoted(self.param)}, {quoted(self.pattern)}",
                fix="Rule('blocks.{layer}.attn.proj.weight', 'out in')",
            )
        in_pattern = {axis for dim in self.dims for axis in dim}
        check_count(len({*in_pattern, *self.captured, *(axis for axis, _ in self.coordinates)}), owner)
        bad = [axis for axis in self.captured if not _AXIS.fullmatch(axis)]
        if bad or "{" in _CAPTURE.sub("", self.param) or "}" in _CAPTURE.sub("", self.param):
            raise PlanError(
                owner,
                expected="captures such as {layer}",
                got=quoted(self.param),
                fix="write an axis name between { and }",
            )
        if "}{" in self.param or any(part.count("{") > 3 for part in self.param.split(".")):
            raise PlanError(
                owner,
                expected="text between captures, and at most three captures between two dots",
                got=quoted(self.param),
                fix="capture fewer axes",
            )
        names = [*self.captured, *self.fixed]
        if twice := duplicate(names):
            raise PlanError(f"{owner}: axis {quoted(twice)} gets two coordinates", fix="keep one of them")
        for axis in names:
            if axis in in_pattern:
                raise PlanError(
                    f"{owner}: axis {quoted(axis)} is in the pattern and has a single coordinate too",
                    fix=f"remove it from the pattern {quoted(self.pattern)}, or give a list of coordinates",
                )
        for axis, coordinates in self.coordinates:
            self._check_coordinates(owner, axis, coordinates, in_pattern)

    def _check_coordinates(self, owner: str, axis: str, coordinates: Fixed, in_pattern: set[str]) -> None:
        values = coordinates if isinstance(coordinates, tuple) else (coordinates,)
        given = [value for value in values if value is not None]
        if isinstance(coordinates, tuple) and axis not in in_pattern:
            raise PlanError(
                f"{owner}: {axis[:80]}={quoted(list(coordinates))} is a list, but the pattern does not have this axis",
                got=quoted(self.pattern),
                fix=f"add {axis[:80]!r} to the pattern, or give a single coordinate",
            )
        if not given or any(isinstance(v, bool) or not isinstance(v, (int, str)) for v in given):
            raise PlanError(
                f"{owner}: {axis[:80]}",
                expected="coordinates that are ints or strings",
                got=quoted(coordinates),
                fix=f"{axis[:80]}=['q', None, 'v']" if isinstance(coordinates, tuple) else f"{axis[:80]}='q'",
            )
        if len(set(given)) < len(given):
            raise PlanError(
                f"{owner}: {axis[:80]}={quoted(list(values))} lists a coordinate twice", fix="use each coordinate once"
            )


@dataclasses.dataclass(frozen=True)
class Group:
    """Rules that fold into one tensor, or into one tensor for every value of `partition`.

    Args:
        name: The group's name; it names the tensor.
        modes: The tensor's modes as an axis string: `"(layer role) in out"`.
        rules: The rules; all of them have the same axes.
        partition: Axes, separated by spaces, that divide the group into several tensors. An axis with coordinates makes
            one tensor per coordinate and is not a mode: `"stage"` for Swin. Axes that run along the parameters make one
            tensor per combination of sizes: `"in out"`.
        axis_sizes: Sizes of axes that the shapes alone do not determine: `{"head": 12}`.
        tied: Axes, separated by spaces, along which parameters share one slice: with `"layer"`, and no `layer` in the
            modes, all layers share one increment.
        sides: The sides of axes that run along the parameters: `{"expert": "stack", "out": "out", "in": "in"}`. By
            default, outputs are the dimension that the module stores them in. A parameter of three dimensions that is
            no kernel, such as a mixture's experts, is read as a stack of matrices (outputs, inputs); where they are
            (inputs, outputs), say so: `{"in": "in", "out": "out"}`.

    Raises:
        PlanError: The modes and the rules do not have the same axes.

    Examples:
        >>> Group("up", "(layer role) in out", [
        ...     Rule("blocks.{layer}.mlp.fc1.weight", "(role out) in", role=["up0", "up1"])
        ... ]).stack
        ('layer', 'role')
    """

    name: str
    modes: str
    rules: tuple[Rule, ...]
    partition: str | None = None
    axis_sizes: Mapping[str, int] | None = None
    tied: str | None = None
    sides: Mapping[str, Side] | None = None

    def __post_init__(self) -> None:
        given: object = self.rules
        object.__setattr__(self, "rules", tuple(self.rules) if isinstance(self.rules, (list, tuple)) else ())
        owner = f"group {quoted(self.name)}"
        sizes: object = self.axis_sizes
        if sizes is not None and not isinstance(sizes, Mapping):
            fix = "axis_sizes={'in': 12}"
            raise PlanError(f"{owner}: axis_sizes", expected="a dict of sizes by axis", got=quoted(sizes), fix=fix)
        object.__setattr__(self, "axis_sizes", dict(sizes) if sizes else None)
        if not isinstance(self.name, str) or not self.name or set(self.name) & set(".[]"):
            raise PlanError(
                owner, expected="a name without '.', '[' and ']'", got=quoted(self.name), fix="rename the group"
            )
        if self.name == "training" or hasattr(nn.ModuleDict, self.name):
            raise PlanError(f"{owner}: torch modules already have an attribute of this name", fix="rename the group")
        if not self.rules or not all(isinstance(rule, Rule) for rule in self.rules):
            raise PlanError(owner, expected="a list of at least one Rule", got=quoted(given), fix="pass [Rule(...)]")
        self._check_axes(owner)
        self._check_sides(owner)
        for axis, size in (self.axis_sizes or {}).items():
            free = sorted(self.rules[0].free)
            fix = f"axis_sizes={{{free[0]!r}: 12}}" if free else "leave axis_sizes out"
            one_of(axis, free, f"{owner}: axis_sizes", PlanError, fix=fix)
            whole_number(size, f"{owner}: axis_sizes[{axis!r}]", PlanError, example=12)

    def __hash__(self) -> int:
        return hash((self.name, self.modes, self.rules, self.partition, self.tied))

    @functools.cached_property
    def dims(self) -> tuple[Axes, ...]:
        """The axes of every mode."""
        return parse_axes(self.modes, f"group {quoted(self.name)}")

    @property
    def stack(self) -> tuple[str, ...]:
        """The stack axes: the tensor's axes whose coordinates are parameters, or labelled parts of them."""
        free = set(self.rules[0].free)
        return tuple(axis for dim in self.dims for axis in dim if axis not in free)

    @functools.cached_property
    def apart(self) -> Axes:
        """The axes in `partition`."""
        return _names(self.partition, f"group {quoted(self.name)}: partition")

    @functools.cached_property
    def shared(self) -> Axes:
        """The axes in `tied`."""
        return _names(self.tied, f"group {quoted(self.name)}: tied")

    def _check_axes(self, owner: str) -> None:
        modes = {axis for dim in self.dims for axis in dim}
        if () in self.dims:
            raise PlanError(
                f"{owner}: modes {quoted(self.modes)} contain a mode without an axis", fix="remove 1 and ()"
            )
        free = set(self.rules[0].free)
        outside = (set(self.apart) - free) | set(self.shared)
        if both := sorted(set(self.apart) & set(self.shared)):
            raise PlanError(f"{owner}: axis {both[0]!r} is in partition and in tied", fix="remove it from one of them")
        expected = modes | outside
        described = f"the axes of modes {quoted(self.modes)}"
        if outside:
            described += f", and one coordinate on {', '.join(map(repr, sorted(outside)))}"
        for rule in self.rules:
            if rule.axes != expected or outside & (set(rule.free) | set(rule.listed) | modes):
                raise PlanError(
                    f"{owner}, rule {quoted(rule.param)}",
                    expected=described,
                    got=", ".join(sorted(rule.axes)) or "none",
                    cause=f"missing {sorted(expected - rule.axes)}, not in the modes {sorted(rule.axes - expected)}",
                    fix="give every rule each axis once: in the pattern, as {axis} in the name, or as axis=coordinate",
                )
            if set(rule.free) != free:
                raise PlanError(
                    f"{owner}: axes {sorted(set(rule.free) ^ free)} have coordinates in only one of the rules"
                    f" {quoted(self.rules[0].param)} and {quoted(rule.param)}",
                    fix="label these axes in all rules of the group, or in none",
                )

    def _check_sides(self, owner: str) -> None:
        given: object = self.sides
        free = sorted(self.rules[0].free)
        if given is not None and not isinstance(given, Mapping):
            raise PlanError(
                f"{owner}: sides",
                expected="a dict of 'stack', 'in' or 'out' by axis",
                got=quoted(given),
                fix=f"sides={{{(free or ['out'])[0]!r}: 'out'}}",
            )
        sides = dict(given or {})
        for axis, side in sides.items():
            fix = f"sides={{{free[0]!r}: 'stack'}}" if free else "leave sides out"
            one_of(axis, free, f"{owner}: sides", PlanError, fix=fix)
            one_of(side, get_args(Side), f"{owner}: sides[{axis!r}]", PlanError, fix=f"sides={{{axis!r}: 'stack'}}")
        object.__setattr__(self, "sides", cast("dict[str, Side]", sides) or None)


def _names(text: str | None, owner: str) -> Axes:
    """Split names separated by spaces."""
    if text is None:
        return ()
    dims = parse_axes(text, owner)
    if any(len(dim) != 1 for dim in dims):
        raise PlanError(
            owner, expected="axis names separated by spaces", got=quoted(text), fix='write "stage" or "in out"'
        )
    return tuple(dim[0] for dim in dims)


def rule_to_dict(rule: Rule) -> JsonObject:
    """Return a rule as plain JSON data."""
    listed = {axis: list(c) if isinstance(c, tuple) else c for axis, c in rule.coordinates}
    return {"param": rule.param, "pattern": rule.pattern, **({"coordinates": listed} if listed else {})}


def group_to_dict(group: Group) -> JsonObject:
    """Return a group as plain JSON data."""
    names = ("partition", "axis_sizes", "tied", "sides")
    options = {name: getattr(group, name) for name in names}
    return {
        "name": group.name,
        "modes": group.modes,
        "rules": [rule_to_dict(rule) for rule in group.rules],
        **{key: value for key, value in options.items() if value is not None},
    }


def mode_names(group: Group) -> tuple[str, ...]:
    """Return the names of the group's modes."""
    return tuple(mode_name(dim) for dim in group.dims)
