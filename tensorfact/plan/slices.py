"""`View`: where one parameter lies in its tensor, and the part of the tensor's network that gives its increment."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from ..network import Mode, Network
from .indexing import Index, as_index, spread, take
from .notation import Axes
from .rules import Rule

Picks = tuple[tuple[int, Index], ...]
"""The slice of a core that one parameter uses: pairs of a dimension and an index."""


@dataclasses.dataclass(frozen=True)
class View:
    """Where one parameter lies in one tensor.

    Args:
        parameter: The parameter's name.
        rule: The rule that placed it.
        shape: The parameter's shape.
        sizes: The size of every axis of the rule's pattern along the parameter, frozen slots included.
        kept: For every axis of the pattern, the positions that are not frozen.
        index: For every mode of the tensor, the positions of the parameter.
        axes: For every mode of the tensor, the axes of it that run along the parameter.
        transposed: Whether the parameter's outputs are its second dimension, as in transformers' `Conv1D`.
    """

    parameter: str
    rule: Rule
    shape: tuple[int, ...]
    sizes: Mapping[str, int]
    kept: Mapping[str, tuple[int, ...]]
    index: tuple[Index, ...]
    axes: tuple[Axes, ...]
    transposed: bool

    def __deepcopy__(self, memo: object) -> View:
        return self  # immutable, and large: it holds an integer for every coordinate

    @property
    def outputs(self) -> Axes:
        """The axes of the parameter's outputs."""
        return self.rule.dims[min(int(self.transposed), len(self.rule.dims) - 1)]

    @property
    def inputs(self) -> Axes:
        """The axes of the parameter's inputs: all other axes."""
        return tuple(axis for axis in self.order if axis not in self.outputs)

    @property
    def order(self) -> Axes:
        """The axes along the parameter, in the order of its dimensions."""
        return tuple(axis for dim in self.rule.dims for axis in dim)

    def split(self, parameter: Tensor) -> Tensor:
        """Return the part of a parameter that is in the tensor, one dimension per axis of `order`."""
        tensor = parameter.reshape([self.sizes[axis] for axis in self.order])
        for dim, axis in enumerate(self.order):
            tensor = take(tensor, dim, as_index(self.kept[axis]))
        return tensor

    def frozen_part(self, parameter: Tensor) -> Tensor:
        """Return the frozen part of a parameter: zero where the parameter is in the tensor.

        Args:
            parameter: A tensor of the parameter's shape.
        """
        if all(len(self.kept[axis]) == self.sizes[axis] for axis in self.order):
            return parameter.new_zeros(())
        return parameter - self.join(self.split(parameter))

    def join(self, parts: Tensor) -> Tensor:
        """Return a tensor of the parameter's shape, zero in frozen slots: the inverse of `split`."""
        for dim, axis in enumerate(self.order):
            parts = spread(parts, dim, self.kept[axis], self.sizes[axis])
        return parts.reshape(self.shape)


def restricted(network: Network, modes: Sequence[Mode], view: View) -> Network:
    """Return the network of one parameter's slice of a tensor.

    Args:
        network: The tensor's network.
        modes: The tensor's modes.
        view: Where the parameter lies in the tensor.
    """
    axes = {mode.name: axes for mode, axes in zip(modes, view.axes, strict=True)}
    cores = tuple(
        dataclasses.replace(core, legs=tuple(axis for leg in core.legs for axis in axes.get(leg, (leg,))))
        for core in network.cores
    )
    bonds = {leg: size for leg, size in network.sizes.items() if leg not in axes}
    kept = {axis: len(positions) for axis, positions in view.kept.items()}
    return Network(cores, view.order, {**bonds, **kept})


def picks_of(network: Network, modes: Sequence[Mode], view: View) -> tuple[Picks, ...]:
    """Return the slice of every core that a parameter uses.

    Args:
        network: The tensor's network.
        modes: The tensor's modes.
        view: Where the parameter lies in the tensor.
    """
    index = {
        mode.name: index for mode, index in zip(modes, view.index, strict=True) if index != as_index(range(mode.size))
    }
    return tuple(tuple((dim, index[leg]) for dim, leg in enumerate(c.legs) if leg in index) for c in network.cores)


def own_parts(cores: Iterable[Tensor], picks: Iterable[Picks], shapes: Iterable[tuple[int, ...]]) -> list[Tensor]:
    """Return the slices of the cores that a parameter uses, in the shapes of its network.

    Args:
        cores: The tensor's cores, in the network's order.
        picks: The slice of every core, as `picks_of` returns them.
        shapes: The shapes of the cores in the network that `restricted` returns.
    """
    return [taken(core, own).reshape(shape) for core, own, shape in zip(cores, picks, shapes, strict=True)]


def taken(core: Tensor, picks: Picks) -> Tensor:
    """Return the slice of a core that a parameter uses; it has the core's dimensions.

    Args:
        core: The whole core.
        picks: The slice, as `picks_of` returns it.
    """
    for dim, index in picks:
        core = take(core, dim, index)
    return core
