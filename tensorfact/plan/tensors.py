"""`ResolvedPlan` and `TensorGroup`: the tensors of a plan on one model, and the parameters folded into them."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

from ..common.table import Table
from ..errors import FormatError, PlanError, RankError, nearest
from ..formats import Format, FormatLike
from ..formats.registry import as_format
from ..model.stacking import ALONE, STACK, UNNAMED, VECTOR
from ..network import Mode, Network
from .indexing import Index, mesh, take
from .labels import covered
from .rules import Coordinate
from .slices import View

T = TypeVar("T")

_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")


@dataclasses.dataclass(frozen=True)
class TensorGroup:
    """One tensor of a resolved plan.

    Args:
        name: The group's name, with the partition's value: `encoder`, `stages[0]`.
        group: The group's name.
        modes: The tensor's modes.
        views: Where each of its parameters lies.
        coordinates: The coordinates of every stack axis, in order.
        tied: Whether several parameters share a slice.
    """

    name: str
    group: str
    modes: tuple[Mode, ...]
    views: tuple[View, ...]
    coordinates: Mapping[str, tuple[Coordinate, ...]]
    tied: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the modes."""
        return tuple(mode.size for mode in self.modes)

    def network(self, format: Format) -> Network:
        """Return a format's network for this tensor.

        Args:
            format: The format.

        Raises:
            FormatError: The format does not accept these modes; the message names the tensor.
        """
        try:
            return format.network(self.modes)
        except RankError as error:
            problem = f"tensor {self.name!r} {self.shape}: {str(error).rstrip('.')}"
            if error.allowed:
                problem += "; or plan.resolve(model).fitted(format), which lowers ranks that are too high"
            raise RankError(problem, allowed=error.allowed) from error
        except FormatError as error:
            raise type(error)(f"tensor {self.name!r} {self.shape}: {error}") from error

    @property
    def extents(self) -> dict[str, int]:
        """Number of coordinates of each mode in one slice; less than the mode's size if it contains stack axes."""
        view = self.views[0]
        free = {axis: len(view.kept[axis]) for axis in view.rule.free}
        return {
            mode.name: math.prod(free.get(axis, 1) for axis in axes)
            for mode, axes in zip(self.modes, view.axes, strict=True)
        }

    def gather(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Fold parameters into the dense tensor.

        Args:
            parameters: Tensors by parameter name.

        Returns:
            The tensor, one dimension per mode; a slice that parameters share is their mean.
        """
        first = parameters[self.views[0].parameter]
        dense, count = first.new_zeros(self.shape), first.new_zeros(self.shape if self.tied else ())
        for view in self.views:
            split = view.split(parameters[view.parameter])
            order = [view.order.index(axis) for mode in view.axes for axis in mode]
            block = split.permute(order).reshape([_length(i) for i in view.index])
            place = mesh(view.index)
            if self.tied:  # a running mean, exact where all are equal
                count[place] += 1
                mean = dense[place] + (block - dense[place]) / count[place]
                kept = (count[place] > 1) & (block == dense[place])
                block = torch.where(count[place] == 1, block, torch.where(kept, dense[place], mean))
            dense[place] = block
        return dense

    def scatter(self, dense: Tensor) -> dict[str, Tensor]:
        """Unfold a dense tensor into one tensor per parameter, zero in frozen slots: the inverse of `gather`.

        Args:
            dense: The tensor, one dimension per mode.

        Returns:
            Tensors of the parameters' shapes, by name.
        """
        parts = {}
        for view in self.views:
            block = dense
            for dim, index in enumerate(view.index):
                block = take(block, dim, index)
            running = [axis for mode in view.axes for axis in mode]
            split = block.reshape([len(view.kept[axis]) for axis in running])
            parts[view.parameter] = view.join(split.permute([running.index(axis) for axis in view.order]))
        return parts


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """A parameter that is in no tensor.

    Args:
        parameter: Its name.
        shape: Its shape.
        reason: Why it is left out, such as `a vector`.
    """

    parameter: str
    shape: tuple[int, ...]
    reason: str


@dataclasses.dataclass(frozen=True)
class ResolvedPlan:
    """The tensors of a plan on one model. Printed, it is a table of tensors and slices.

    Args:
        tensors: The tensors, in the plan's order.
        left_out: The model's other parameters, each with a reason.
    """

    tensors: tuple[TensorGroup, ...]
    left_out: tuple[LeftOut, ...] = ()

    def __getitem__(self, name: str) -> TensorGroup:
        for tensor in self.tensors:
            if tensor.name == name:
                return tensor
        names = [tensor.name for tensor in self.tensors]
        raise PlanError(f"no tensor {name!r}", expected=f"one of {names}", got=f"{name!r}{nearest(name, names)}")

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of all parameters in the tensors."""
        return tuple(view.parameter for tensor in self.tensors for view in tensor.views)

    def formats(self, format: FormatLike | Mapping[str, FormatLike]) -> dict[str, Format]:
        """Return the format of every tensor.

        Args:
            format: One format for all tensors, or formats by the name of a group or tensor.

        Returns:
            Formats by tensor name.

        Raises:
            FormatError: A tensor has no format, a name is unknown, or a value is not a Format.
        """
        return formats_of(format, [tensor.name for tensor in self.tensors])

    def fitted(self, format: FormatLike | Mapping[str, FormatLike]) -> dict[str, Format]:
        """Return the format of every tensor, with ranks lowered to what small tensors admit.

        Args:
            format: One format for all tensors, or formats by the name of a group or tensor.

        Returns:
            Formats by tensor name, to be passed to `adapt`.

        Raises:
            FormatError: As in `formats`, or a format does not fit a tensor at any rank.

        Examples:
            >>> import torch
            >>> from tensorfact import Tucker, plan_by_shape
            >>> model = torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(2)))
            >>> plan_by_shape(model).resolve(model).fitted(Tucker(rank=4))
            {'matrices[8,8]': Tucker(rank=(2, 4, 4))}
        """
        formats = self.formats(format)
        return {tensor.name: formats[tensor.name].fitted(tensor.modes) for tensor in self.tensors}

    def num_parameters(self, format: FormatLike | Mapping[str, FormatLike]) -> int:
        """Return the number of trained parameters of all tensors together.

        Args:
            format: One format for all tensors, or formats by the name of a group or tensor.
        """
        formats = self.formats(format)
        return sum(tensor.network(formats[tensor.name]).num_parameters for tensor in self.tensors)

    def table(self) -> Table:
        """Return a table with one row per tensor and rule: mode sizes, and which parameters fill which slices."""
        rows = []
        for tensor in self.tensors:
            by_rule: dict[str, list[View]] = {}
            for view in tensor.views:
                by_rule.setdefault(view.rule.param, []).append(view)
            modes = " ".join(f"{mode.name}={mode.size}" for mode in tensor.modes)
            for number, views in enumerate(by_rule.values()):
                rule, shape = views[0].rule, "x".join(map(str, views[0].shape))
                labels = {**rule.fixed, **{axis: list(c) for axis, c in rule.listed.items()}}
                covers = {axis: f" ({covered(rule, axis, views[0].sizes)})" for axis in rule.listed}
                slices = " ".join(f"{axis}={_spell(c)}{covers.get(axis, '')}" for axis, c in labels.items())
                head = ("", "") if number else (tensor.name, modes)
                rows.append((*head, rule.param, f"{len(views)} x {shape}", rule.pattern, slices))
        return Table(("tensor", "modes", "parameters", "shapes", "dimensions", "slices"), tuple(rows))

    @property
    def share(self) -> float:
        """The fraction of the model's matrix and kernel entries, without embeddings and tables, in the tensors."""
        inside = sum(math.prod(view.shape) for tensor in self.tensors for view in tensor.views)
        outside = sum(math.prod(left.shape) for left in self.left_out if left.reason in (ALONE, STACK, UNNAMED))
        return inside / (inside + outside)

    def left_out_table(self) -> Table:
        """Return a table of the left-out parameters; names that differ only in numbers share a row, as do vectors."""
        alike: dict[tuple[str, tuple[int, ...], str], int] = {}
        for left in self.left_out:
            if left.reason != VECTOR:
                key = (_NUMBER.sub("*", left.parameter), left.shape, left.reason)
                alike[key] = alike.get(key, 0) + 1
        rows = [(name, f"{count} x {'x'.join(map(str, s))}", why) for (name, s, why), count in alike.items()]
        vectors = sum(left.reason == VECTOR for left in self.left_out)
        rows += [("biases, norms, scales", f"{vectors} vectors", VECTOR)] if vectors else []
        return Table(("left out", "shapes", "why"), tuple(rows))

    def __str__(self) -> str:
        return str(self.table())


def formats_of(format: FormatLike | Mapping[str, FormatLike], tensors: Iterable[str]) -> dict[str, Format]:
    """Return the format of every tensor.

    Args:
        format: One format for all tensors, or formats by the name of a group or tensor.
        tensors: The names of a plan's tensors.

    Raises:
        FormatError: As in `ResolvedPlan.formats`.
    """
    given: dict[str, FormatLike] = per_tensor(format, tensors, "format")
    return {name: as_format(each, f"the format of tensor {name!r}") for name, each in given.items()}


def group_of(tensor: str) -> str:
    """Return the name of the group that a tensor belongs to.

    Examples:
        >>> group_of("stages[0]")
        'stages'
    """
    return tensor.partition("[")[0]


def per_tensor(value: T | Mapping[str, T], tensors: Iterable[str], owner: str) -> dict[str, T]:
    """Return a value for every tensor.

    Args:
        value: One value for all tensors, or values by the name of a group or tensor.
        tensors: The names of a plan's tensors.
        owner: What the value is, for error messages.

    Raises:
        FormatError: A name in the mapping is unknown, or a tensor has no value.
    """
    names = tuple(tensors)
    if not isinstance(value, Mapping):
        return dict.fromkeys(names, value)
    known = {name for tensor in names for name in (tensor, group_of(tensor))}
    missing = [name for name in names if name not in value and group_of(name) not in value]
    if unknown := sorted(set(map(str, value)) - known):
        raise FormatError(
            f"{owner} for {unknown[0]!r}",
            expected=f"one of {sorted(known)}",
            got=f"{unknown[0]!r}{nearest(unknown[0], known)}",
            fix="rename or remove this entry",
        )
    if missing:
        raise FormatError(
            f"no {owner} for tensor {missing[0]!r}", fix=f"add {missing[0]!r} or its group to the mapping"
        )
    return {name: value[name] if name in value else value[group_of(name)] for name in names}


def _spell(coordinates: Coordinate | list[Coordinate | None]) -> str:
    values = coordinates if isinstance(coordinates, list) else [coordinates]
    return ",".join("-" if value is None else str(value) for value in values)


def _length(index: Index) -> int:
    return len(range(index.start, index.stop, index.step)) if isinstance(index, slice) else len(index)
