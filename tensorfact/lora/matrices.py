"""Increments of linear layers as two matrices, taken from a factored tensor and stacked into one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ..algebra import Term
from ..algebra.recompression import recompress
from ..errors import DataError
from ..formats import MatrixBatch
from ..network import Core, Mode, Network
from ..plan import TensorGroup, View
from ..plan.indexing import as_index, mesh, spread, take
from ..plan.notation import Axes
from ..plan.slices import own_parts, picks_of, restricted

_EXACT = 1e-12
"""The relative error up to which a rank counts as exact; products are in fp64."""


@dataclasses.dataclass(frozen=True, eq=False)
class LowRankIncrement:
    """The increment `up @ down` of a linear layer.

    Args:
        down: The lower matrix (rank, inputs).
        up: The upper matrix (outputs, rank).
        error: The relative error in the Frobenius norm, if it was approximated.
        numbers: The number of entries in the file that it was read from.
    """

    down: Tensor
    up: Tensor
    error: float = 0.0
    numbers: int = 0

    @property
    def rank(self) -> int:
        """The number of rows of `down` and columns of `up`."""
        return self.down.shape[0]


def low_rank(
    tensor: TensorGroup, view: View, network: Network, cores: Mapping[str, Tensor], rank: int | None
) -> LowRankIncrement:
    """Return one parameter's slice of a factored tensor as two matrices of the lowest exact rank.

    Args:
        tensor: The tensor.
        view: Where the parameter, a matrix, lies in the tensor.
        network: The tensor's network.
        cores: The tensor's cores by name.
        rank: The maximum rank; a slice that needs more gets the best approximation (Eckart and Young 1936). None sets
            no bound.
    """
    order = [core.name for core in network.cores]
    part = restricted(network, tensor.modes, view)
    picks = picks_of(network, tensor.modes, view)
    parts = own_parts((cores[name] for name in order), picks, part.shapes().values())
    own = Term(part, dict(zip(order, parts, strict=True)))
    sizes = part.sizes
    modes = [Mode(axis, sizes[axis], "out" if axis in view.outputs else "in") for axis in view.order]
    found = recompress([own], modes, MatrixBatch("full"), tolerance=_EXACT)
    if rank is not None and found.network.sizes["_r"] > rank:
        found = recompress([own], modes, MatrixBatch(rank))
    down, up = found.cores["A"], found.cores["B"]
    return LowRankIncrement(
        _whole(down.movedim(-1, 0), view, view.inputs), _whole(up, view, view.outputs).t(), found.error
    )


def _whole(matrix: Tensor, view: View, axes: Axes) -> Tensor:
    """Return a matrix (rank, *kept axes) as (rank, all coordinates of the parameter), zero in frozen slots."""
    legs = [axis for axis in view.order if axis in axes]
    for dim, axis in enumerate(legs, 1):
        matrix = spread(matrix, dim, view.kept[axis], view.sizes[axis])
    return matrix.reshape(matrix.shape[0], -1)


def stacked(tensor: TensorGroup, layers: Mapping[str, LowRankIncrement]) -> Term:
    """Return low-rank increments of many layers as one factored tensor: two matrices for every slice.

    Args:
        tensor: The tensor that the layers' weights are folded into.
        layers: The increments by parameter name; parameters that are missing get zero.

    Raises:
        DataError: A mode mixes stack axes with inputs or outputs, or parameters share a slice or are not matrices.
    """
    _check(tensor)
    rank = max((layers[view.parameter].rank for view in tensor.views if view.parameter in layers), default=1)
    sides = {side: [at for at, m in enumerate(tensor.modes) if m.side == side] for side in ("stack", "in", "out")}
    shapes = {side: [tensor.shape[at] for at in sides["stack"] + sides[side]] for side in ("in", "out")}
    a = torch.zeros(*shapes["in"], rank, dtype=torch.float64)
    b = torch.zeros(*shapes["out"], rank, dtype=torch.float64)
    for view in tensor.views:
        if view.parameter not in layers:
            continue
        layer = layers[view.parameter]
        for side, total, matrix in (("in", a, layer.down), ("out", b, layer.up.t())):
            block = _block(view, sides["stack"] + sides[side], matrix.double(), outputs=side == "out")
            index = tuple(view.index[at] for at in sides["stack"] + sides[side])
            total[mesh((*index, slice(0, layer.rank, 1)))] = block
    names = [mode.name for mode in tensor.modes]
    stack, inputs, outputs = (tuple(names[at] for at in sides[side]) for side in ("stack", "in", "out"))
    cores = (Core("A", (*stack, *inputs, "_r")), Core("B", (*stack, *outputs, "_r"), "zero"))
    sizes = {**dict(zip(names, tensor.shape, strict=True)), "_r": rank}
    return Term(Network(cores, tuple(names), sizes), {"A": a, "B": b})


def _block(view: View, modes: list[int], matrix: Tensor, *, outputs: bool) -> Tensor:
    """Return a parameter's matrix (rank, coordinates) over modes of its tensor (*modes, rank).

    The numbers repeat along axes of the parameter's other side, such as the role of a fused weight, which lies in the
    outputs, for the matrix of the inputs.
    """
    own = [axis for axis in view.order if (axis in view.outputs) == outputs]
    part = matrix.reshape(-1, *(view.sizes[axis] for axis in own))
    for dim, axis in enumerate(own, 1):
        part = take(part, dim, as_index(view.kept[axis]))
    running = [axis for at in modes for axis in view.axes[at]]
    for axis in running:
        if axis not in own:
            part = part.unsqueeze(-1).expand(*part.shape, len(view.kept[axis]))
    legs = [*own, *(axis for axis in running if axis not in own)]
    part = part.permute([1 + legs.index(axis) for axis in running] + [0])
    sizes = [math.prod(len(view.kept[axis]) for axis in view.axes[at]) for at in modes]
    return part.reshape(*sizes, -1)


def _check(tensor: TensorGroup) -> None:
    for view in tensor.views:
        for mode, axes in zip(tensor.modes, view.axes, strict=True):
            along = view.outputs if mode.side == "out" else view.inputs
            mixed = mode.side != "stack" and (
                any(axis in view.rule.listed or axis not in along for axis in axes)
                or mode.size != math.prod(view.sizes[axis] for axis in axes)
            )
            if mixed or tensor.tied or len(view.rule.dims) != 2:
                raise DataError(
                    f"from_lora: mode {mode.name!r} of tensor {tensor.name!r} cannot hold low-rank matrices of layers",
                    expected="matrices as parameters, and modes of stack axes, inputs or outputs alone",
                    got=f"{view.rule.pattern!r} in {' '.join(m.name for m in tensor.modes)!r}",
                    fix="merge the increments into a copy of the model and extract() the difference",
                )
