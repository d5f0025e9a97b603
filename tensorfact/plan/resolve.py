"""Resolve groups on a model: match parameters to rules, infer sizes, place slices. The model is only read."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor, nn

from ..common.checks import duplicate
from ..errors import ClaimError, NoMatchError, PlanError, SizeError
from ..model.parameters import base_parameters, own_parameters, owner_of
from ..model.sides import is_stack, is_transposed
from ..model.stacking import ALONE, UNNAMED, obstacles, repeated, stackable
from ..network import Mode, Side
from .indexing import as_index
from .labels import check_labels
from .names import ParameterNames
from .notation import Axes, mode_name
from .rules import Coordinate, Group, Rule, mode_names
from .slices import View
from .tensors import LeftOut, ResolvedPlan, TensorGroup

GridCell = tuple[int, ...]
"""A position on each of some axes."""

Places = dict[str, dict[Coordinate, int]]
"""For each stack axis, the position of every coordinate."""

_MOST_CELLS = 1 << 22
"""The most positions of a mode that are numbered one by one."""


def resolve(groups: Iterable[Group], model: nn.Module) -> ResolvedPlan:
    """Resolve groups on a model: find the tensors, their sizes and the slice of each parameter.

    Args:
        groups: The groups of a plan.
        model: The model; it is only read.

    Returns:
        The tensors, and the parameters that are in none of them.

    Raises:
        NoMatchError: A rule matches no parameter.
        ClaimError: A parameter, or a place in a tensor, is claimed twice.
        SizeError: A dimension is not divisible by the sizes of its axes, or an axis has two sizes.
        PlanError: A slice of a tensor is filled by no parameter.
    """
    parameters = base_parameters(model)
    names = ParameterNames(parameters)
    claims: dict[int, _Match] = {}
    tensors = []
    for group in groups:
        parts: dict[tuple[Coordinate, ...], list[_Match]] = {}
        for match in _matches(group, model, parameters, names):
            earlier = claims.setdefault(id(parameters[match.name]), match)
            if earlier.rule is match.rule and earlier.name != match.name:
                continue  # a module used at two places of the model; its first name stands for both
            if earlier is not match:
                raise ClaimError(
                    f"parameter {match.name!r} {match.shape} is claimed twice",
                    got=f"rule {earlier.rule.param!r} (as {earlier.name!r}) and rule {match.rule.param!r}",
                    cause="two templates fit one name, or two names share one tied tensor",
                    fix="change the templates so that only one matches this parameter",
                )
            parts.setdefault(match.apart(group), []).append(match)
        numbers = all(isinstance(value, int) for values in parts for value in values)
        for values, matches in sorted(parts.items()) if numbers else parts.items():
            name = f"{group.name}[{','.join(map(str, values))}]" if values else group.name
            if "." in name:  # a tensor's name becomes a module's, which torch forbids to hold a dot
                value = next(value for value in values if "." in str(value))
                raise PlanError(
                    f"group {group.name!r}: partition value {value!r} contains a dot", fix="use values without dots"
                )
            tensors.append(_tensor(group, name, matches))
    if twice := duplicate(tensor.name for tensor in tensors):
        raise PlanError(
            f"two tensors are named {twice!r}", cause="partition values such as 1 and '1'", fix="rename one"
        )
    return ResolvedPlan(tuple(tensors), tuple(_left_out(model, set(claims))))


def _left_out(model: nn.Module, claimed: set[int]) -> Iterator[LeftOut]:
    reasons = obstacles(model)
    shapes = stackable(model, reasons)
    several = repeated(shapes)
    for name, parameter in own_parameters(model).items():
        if id(parameter) not in claimed:
            alone = name in shapes and name not in several
            reason = reasons[name] or (ALONE if alone else UNNAMED)
            yield LeftOut(name, tuple(parameter.shape), reason)


@dataclasses.dataclass(frozen=True)
class _Match:
    """A parameter that a rule matched: its coordinates outside the pattern, and the sizes of the pattern's axes."""

    name: str
    shape: tuple[int, ...]
    rule: Rule
    coordinates: dict[str, Coordinate]
    sizes: dict[str, int]
    transposed: bool
    stacked: bool

    def apart(self, group: Group) -> tuple[Coordinate, ...]:
        """Return the partition's value: for each of its axes a coordinate, or the size if it runs along parameters."""
        return tuple(self.sizes[axis] if axis in self.sizes else self.coordinates[axis] for axis in group.apart)

    def along(self, axis: str) -> tuple[Coordinate | None, ...]:
        """Return the parameter's coordinates on a stack axis."""
        return self.rule.listed.get(axis) or (self.coordinates[axis],)


def _matches(
    group: Group, model: nn.Module, parameters: Mapping[str, Tensor], names: ParameterNames
) -> Iterator[_Match]:
    for rule in group.rules:
        found = False
        for name, captured in names.matching(rule):
            module, attribute = owner_of(model, name)
            shape = tuple(parameters[name].shape)
            sizes = _axis_sizes(group, rule, name, shape)
            if not found and rule.listed:
                check_labels(rule, name, shape, sizes, model, parameters)
            found = True
            transposed, stacked = is_transposed(module, attribute), is_stack(module, parameters[name])
            yield _Match(name, shape, rule, {**captured, **rule.fixed}, sizes, transposed, stacked)
        if not found:
            raise NoMatchError(
                f"group {group.name!r}: rule {rule.param!r} matches none of the model's {len(parameters)} parameters",
                got=f"names such as {', '.join(_like(rule, parameters))}",
                cause="the template does not follow the model's names, or lacks '.weight'",
                fix="print [name for name, _ in model.named_parameters()] and copy a name, with {axis} for its number",
            )


def _like(rule: Rule, names: Iterable[str]) -> list[str]:
    """Return up to three parameter names, the most similar to the template first."""
    parts = set(rule.param.split("."))
    return [repr(n) for n in sorted(names, key=lambda name: -len(parts & set(name.split("."))))[:3]]


def _axis_sizes(group: Group, rule: Rule, name: str, shape: tuple[int, ...]) -> dict[str, int]:
    if len(rule.dims) != len(shape):
        raise SizeError(
            f"rule {rule.param!r}: pattern {rule.pattern!r} on parameter {name!r}",
            expected=f"{len(rule.dims)} dimension(s)",
            got=f"shape {shape}",
            fix="write one name, or one (a b), for each dimension",
        )
    if 0 in shape:
        raise SizeError(f"rule {rule.param!r}: parameter {name!r} {shape} is empty", fix="leave it out of the plan")
    known = {**(group.axis_sizes or {}), **{axis: len(listed) for axis, listed in rule.listed.items()}}
    sizes: dict[str, int] = {}
    for axes, size in zip(rule.dims, shape, strict=True):
        unknown = [axis for axis in axes if axis not in known]
        product = math.prod(known[axis] for axis in axes if axis in known)
        if len(unknown) > 1 or size % product or (not unknown and size != product):
            owner = f"rule {rule.param!r}: parameter {name!r} {shape} does not split as {rule.pattern!r}"
            raise _does_not_split(owner, size, axes, known)
        sizes |= {axis: known.get(axis, size // product) for axis in axes}
    return sizes


def _does_not_split(owner: str, size: int, axes: Axes, known: Mapping[str, int]) -> SizeError:
    """Return the error for a dimension whose size does not match its axes."""
    told = {axis: known[axis] for axis in axes if axis in known}
    unknown = [axis for axis in axes if axis not in known]
    spelled, product = " x ".join(f"{axis}={n}" for axis, n in told.items()), math.prod(told.values())
    if len(unknown) > 1:
        return SizeError(
            owner,
            expected=f"one axis of unknown size in {mode_name(axes)}",
            got=", ".join(unknown),
            fix=f"pass axis_sizes={{{unknown[0]!r}: ...}} to the group",
        )
    if unknown:
        first = next(iter(told))
        others = product // told[first]
        fits = [n for n in range(1, size // others + 1) if size % (n * others) == 0] if size % others == 0 else []
        return SizeError(
            owner,
            expected=f"a size divisible by {spelled}",
            got=str(size),
            cause="a coordinate list of the wrong length, or a wrong axis size",
            fix=f"choose {first} from {', '.join(map(str, fits[:12]))}" if fits else f"axis_sizes={{{first!r}: ...}}",
        )
    if not axes:
        return SizeError(owner, expected="size 1 where the pattern has 1", got=str(size), fix="write an axis name")
    return SizeError(
        owner,
        expected=f"{mode_name(axes)} of size {size}",
        got=spelled if len(told) == 1 else f"{spelled} = {product}",
        cause="a coordinate list of the wrong length, or a wrong axis size",
        fix=f"list {size} coordinates" if len(told) == 1 else f"choose sizes with the product {size}",
    )


def _tensor(group: Group, name: str, matches: list[_Match]) -> TensorGroup:
    sizes = _agreed_sizes(group, name, matches)
    coordinates = {axis: _ordered(c for m in matches for c in m.along(axis)) for axis in group.stack}
    where = {axis: {c: at for at, c in enumerate(found)} for axis, found in coordinates.items()}
    sizes |= {axis: len(found) for axis, found in coordinates.items()}
    positions = [_positions(group, axes, matches, where, sizes) for axes in group.dims]
    _check_filled(group, name, matches, where, positions)
    views = tuple(_view(group, match, where, positions) for match in matches)
    sides = _sides(group, matches[0], views[0])
    modes = tuple(
        Mode(mode, len(table) or math.prod(sizes[axis] for axis in axes), _side(axes, sides))
        for mode, axes, table in zip(mode_names(group), group.dims, positions, strict=True)
    )
    return TensorGroup(name, group.name, modes, views, coordinates, bool(group.shared))


def _agreed_sizes(group: Group, name: str, matches: list[_Match]) -> dict[str, int]:
    first: dict[str, _Match] = {}
    for match in matches:
        for axis in match.rule.free:
            other = first.setdefault(axis, match)
            if other.sizes[axis] != match.sizes[axis]:
                raise SizeError(
                    f"tensor {name!r}: axis {axis!r} has two sizes",
                    expected=f"{other.sizes[axis]} as in {other.name!r} {other.shape} by rule {other.rule.param!r}",
                    got=f"{match.sizes[axis]} in {match.name!r} {match.shape} by rule {match.rule.param!r}",
                    cause="parameters of different widths in one tensor",
                    fix="split the wider one into labelled parts, or set partition= to keep the widths apart",
                )
    return {axis: match.sizes[axis] for axis, match in first.items()}


def _ordered(found: Iterable[Coordinate | None]) -> tuple[Coordinate, ...]:
    """Return distinct coordinates: numbers by value, anything else in the order of the rules."""
    distinct = list(dict.fromkeys(c for c in found if c is not None))
    numbers = [c for c in distinct if isinstance(c, int)]
    return tuple(sorted(numbers)) if len(numbers) == len(distinct) else tuple(distinct)


def _positions(
    group: Group, axes: Axes, matches: list[_Match], where: Places, sizes: Mapping[str, int]
) -> dict[GridCell, int]:
    """Number the cells of one mode: those that occur if all its axes are stacked, else the whole grid.

    Without a stacked axis the table is empty: a parameter fills such a mode as it lies.
    """
    if not any(axis in where for axis in axes):
        return {}
    if all(axis in where for axis in axes):
        cells = {cell for match in matches for cell in _cells(axes, match, where)}
        return {cell: at for at, cell in enumerate(sorted(cells))}
    count = math.prod(sizes[axis] for axis in axes)
    if count > _MOST_CELLS:
        raise SizeError(
            f"group {group.name!r}: mode {mode_name(axes)} of labelled and other axes",
            expected=f"a size of at most {_MOST_CELLS:,}",
            got=f"{count:,}",
            fix="make its axes modes of their own",
        )
    return {cell: at for at, cell in enumerate(itertools.product(*(range(sizes[axis]) for axis in axes)))}


def _cells(axes: Axes, match: _Match, where: Places) -> Iterator[GridCell]:
    """Iterate over a parameter's cells along some axes, the last axis fastest."""
    runs = (
        [where[axis][c] for c in match.along(axis) if c is not None] if axis in where else range(match.sizes[axis])
        for axis in axes
    )
    return itertools.product(*runs)


def _check_filled(
    group: Group, name: str, matches: list[_Match], where: Places, positions: list[dict[GridCell, int]]
) -> None:
    """Raise unless every cell of the stack axes is filled once, or once per coordinate of the tied axes."""
    stack = group.stack
    claims: dict[tuple[Coordinate, ...], _Match] = {}
    filled: set[GridCell] = set()
    for match in matches:
        for cell in _cells(stack, match, where):
            key = (*cell, *(match.coordinates[axis] for axis in group.shared))
            other = claims.setdefault(key, match)
            filled.add(cell)
            if other is not match:
                raise ClaimError(
                    f"tensor {name!r}: {_spell_cell(stack, cell, where)} is filled twice",
                    got=f"{other.name!r} by rule {other.rule.param!r} and {match.name!r} by rule {match.rule.param!r}",
                    cause="two rules give the same labels, or a number in the name is not captured",
                    fix="give one of them other coordinates, or name the axis they share in tied=",
                )
    runs: list[list[tuple[tuple[str, int], ...]]] = []
    for axes, table in zip(group.dims, positions, strict=True):
        if not table:
            continue
        stacked = [at for at, axis in enumerate(axes) if axis in where]
        runs.append(list(dict.fromkeys(tuple((axes[at], cell[at]) for at in stacked) for cell in table)))
    for combination in itertools.product(*runs):
        place = dict(itertools.chain.from_iterable(combination))
        if (cell := tuple(place[axis] for axis in stack)) not in filled:
            raise PlanError(
                f"tensor {name!r}: no parameter fills {_spell_cell(stack, cell, where)}",
                cause="not every layer has every role",
                fix=f"merge the stacked axes into one mode '({' '.join(stack)})', or set partition=",
            )


def _view(group: Group, match: _Match, where: Places, positions: list[dict[GridCell, int]]) -> View:
    listed = match.rule.listed
    kept = {
        axis: tuple(at for at in range(size) if axis not in listed or listed[axis][at] is not None)
        for axis, size in match.sizes.items()
    }
    index = tuple(
        as_index([table[cell] for cell in _cells(axes, match, where)])
        if table
        else slice(0, math.prod(match.sizes[axis] for axis in axes), 1)
        for axes, table in zip(group.dims, positions, strict=True)
    )
    running = tuple(tuple(axis for axis in axes if axis in match.sizes) for axes in group.dims)
    return View(match.name, match.rule, match.shape, match.sizes, kept, index, running, match.transposed)


def _sides(group: Group, match: _Match, view: View) -> dict[str, Side]:
    """Return the side of every axis along a tensor's first parameter: as the group says, else by its dimension."""
    given, outputs, stacked = group.sides or {}, view.outputs, set[str]()
    if match.stacked:
        dims = [[axis for axis in dim if axis in view.rule.free] for dim in view.rule.dims]
        dims = [dim for dim in dims if dim and not all(given.get(axis) == "stack" for axis in dim)]
        if len(dims) == len(match.shape) == 3:  # a mixture's experts: the matrices are the last two dimensions
            stacked = set(dims.pop(0))
        outputs = tuple(dims[0]) if len(dims) > 1 else outputs
    guessed: dict[str, Side] = {
        axis: "stack" if axis in stacked else "out" if axis in outputs else "in" for axis in view.rule.free
    }
    return {**guessed, **given}


def _side(axes: Axes, sides: Mapping[str, Side]) -> Side:
    """Return the side of a mode: that of its first axis that is not stacked, else `stack`."""
    return next((sides[axis] for axis in axes if sides.get(axis, "stack") != "stack"), "stack")


def _spell_cell(stack: Axes, cell: GridCell, where: Places) -> str:
    return ", ".join(f"{axis}={list(where[axis])[at]!r}" for axis, at in zip(stack, cell, strict=True)) or "the tensor"
