"""Products with the narrow matrices of a cut network, which may skip some of a layer's inputs or outputs."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ...network import Cut
from .cache import composable

MANY = 16
"""Largest number of rectangles for which a matrix is multiplied rectangle by rectangle."""

LEAST = 64
"""Tokens that a thread takes at least; see `outer_product`."""


@dataclasses.dataclass(frozen=True)
class Rectangle:
    """A rectangle of a narrow matrix (bond, columns), and the layer's inputs or outputs that it belongs to.

    Args:
        features: Slice of the layer's inputs or outputs.
        bond: Slice of the matrix rows.
        columns: Slice of the matrix columns.
    """

    features: slice
    bond: slice
    columns: slice


@dataclasses.dataclass(frozen=True)
class Rectangles:
    """All rectangles of a narrow matrix.

    Args:
        rows: For each block of matrix rows, its rectangles in the order of their columns.
        size: Number of the layer's inputs or outputs.
        whole: Whether there is one rectangle, which belongs to all inputs or outputs.
        tiles: Number of rectangles of one size that lie beside each other and belong to all inputs or outputs, so that
            one batched product does for all of them; 0 if the rectangles are others.
    """

    rows: tuple[tuple[Rectangle, ...], ...]
    size: int
    whole: bool = dataclasses.field(init=False)
    tiles: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        whole = len(self.rows) == 1 and self.rows[0][0].features == slice(0, self.size)
        object.__setattr__(self, "whole", whole)
        count, bond = len(self.rows), self.rows[0][0].bond.stop
        width = self.size // count
        beside = tuple(
            (Rectangle(slice(at * width, (at + 1) * width), slice(at * bond, (at + 1) * bond), slice(0, width)),)
            for at in range(count)
        )
        tiles = count > 1 and self.size == count * width and self.rows == beside
        object.__setattr__(self, "tiles", count if tiles else 0)

    def project(self, x: Tensor, matrix: Tensor) -> Tensor:
        """Return x times the transpose of the matrix: (tokens, features) -> (tokens, bond)."""
        if self.whole:
            return nn.functional.linear(x, matrix)
        if self.tiles:
            return _batched(self._tiled(x), self._blocks(matrix).transpose(1, 2))
        rows = []
        for row in self.rows:
            first, *others = (
                nn.functional.linear(x[:, part.features], matrix[part.bond, part.columns]) for part in row
            )
            rows.append(sum(others, first))
        return _joined(rows, 1)

    def add_(self, y: Tensor, h: Tensor, matrix: Tensor) -> Tensor:
        """Add h @ matrix to y in place: (tokens, bond) -> (tokens, features)."""
        if self.whole:
            return y.addmm_(h, matrix)
        if self.tiles:
            self._tiled(y).baddbmm_(self._tiled(h), self._blocks(matrix))
            return y
        for part in self._all:
            y[:, part.features].addmm_(h[:, part.bond], matrix[part.bond, part.columns])
        return y

    def added(self, y: Tensor, h: Tensor, matrix: Tensor, scale: float) -> Tensor:
        """Return y + scale * h @ matrix, without in-place writes."""
        if self.whole:
            return torch.addmm(y, h, matrix, alpha=scale)
        pieces, end = [], 0
        for part in sorted(self._all, key=lambda part: int(part.features.start)):
            pieces += [y[:, end : part.features.start]] if part.features.start > end else []
            product = (y[:, part.features], h[:, part.bond], matrix[part.bond, part.columns])
            pieces.append(torch.addmm(*product, alpha=scale))
            end = part.features.stop
        return torch.cat([*pieces, y[:, end:]] if end < self.size else pieces, 1)

    def outer(self, h: Tensor, x: Tensor) -> Tensor:
        """Return the gradient of the matrix, h.T @ x: (tokens, bond), (tokens, features) -> (bond, columns)."""
        if self.whole:
            return outer_product(h, x)
        if self.tiles:
            return torch.bmm(self._tiled(h).transpose(1, 2), self._tiled(x)).flatten(0, 1)
        rows = [[outer_product(h[:, part.bond], x[:, part.features]) for part in row] for row in self.rows]
        return _joined([_joined(row, 1) for row in rows], 0)

    def _tiled(self, x: Tensor) -> Tensor:
        """Return a view of the columns of a matrix, block by block: (tokens, columns) -> (blocks, tokens, columns)."""
        return x.view(len(x), self.tiles, x.shape[1] // self.tiles).transpose(0, 1)

    def _blocks(self, matrix: Tensor) -> Tensor:
        """Return a view of the rows of the narrow matrix, block by block: (blocks, bond, columns)."""
        return matrix.view(self.tiles, len(matrix) // self.tiles, matrix.shape[1])

    def outer_(self, found: Tensor, h: Tensor, x: Tensor) -> Tensor:
        """Add h.T @ x to a gradient of the matrix in place, and return it; gradients are not recorded."""
        if self.whole:
            return outer_product_(found, h, x)
        if self.tiles:
            self._blocks(found).baddbmm_(self._tiled(h).transpose(1, 2), self._tiled(x))
            return found
        for part in self._all:
            found[part.bond, part.columns].addmm_(h[:, part.bond].t(), x[:, part.features])
        return found

    @property
    def _all(self) -> list[Rectangle]:
        return [part for row in self.rows for part in row]


def _joined(pieces: Sequence[Tensor], dim: int) -> Tensor:
    """Return pieces of a matrix as one, without a copy if there is one piece."""
    first, *others = pieces
    return torch.cat([first, *others], dim) if others else first


def _batched(a: Tensor, b: Tensor) -> Tensor:
    """Return the products of each block beside each other: (blocks, tokens, n), (blocks, n, m) -> (tokens, blocks m).

    Without gradients, they are written to where they belong, which saves a copy.
    """
    count, tokens, columns = len(a), a.shape[1], b.shape[2]
    if torch.is_grad_enabled() or composable(a, b):
        return torch.bmm(a, b).transpose(0, 1).flatten(1)
    found = a.new_empty(tokens, count * columns)
    torch.bmm(a, b, out=found.view(tokens, count, columns).transpose(0, 1))
    return found


def outer_product(h: Tensor, x: Tensor) -> Tensor:
    """Return h.T @ x for a narrow h (tokens, bond) and a wide x (tokens, columns).

    On a CPU each thread takes some of the tokens; one product would be divided among them by its rows or columns.
    """
    count = 1 if torch.is_grad_enabled() else _parts(x)
    return h.t() @ x if count == 1 else _summed(count, h, x)


def outer_product_(found: Tensor, h: Tensor, x: Tensor) -> Tensor:
    """Add h.T @ x to a tensor (rows, columns) in place, as `outer_product` computes it."""
    count = _parts(x)
    return found.addmm_(h.t(), x) if count == 1 else found.add_(_summed(count, h, x))


def _parts(x: Tensor) -> int:
    """Return into how many parts a sum over tokens is divided."""
    if x.device.type != "cpu" or x.element_size() < 4:  # sums of parts in bf16 would be rounded twice
        return 1
    return max(min(torch.get_num_threads(), len(x) // LEAST), 1)


def _summed(count: int, h: Tensor, x: Tensor) -> Tensor:
    """Return h.T @ x as the sum of products over equal parts of the tokens, and over the tokens that are left."""
    size, left = divmod(len(x), count)
    if left:
        end = size * count
        return _summed(count, h[:end], x[:end]).addmm_(h[end:].t(), x[end:])
    return torch.bmm(h.view(count, size, -1).transpose(1, 2), x.view(count, size, -1)).sum(0)


def rectangles_of(
    cut: Cut, axes: Sequence[str], sizes: Mapping[str, int], kept: Mapping[str, Sequence[int]], *, inputs: bool
) -> Rectangles | None:
    """Find the rectangles of a half's matrix, and the layer's inputs or outputs that they belong to.

    Args:
        cut: The cut of the network.
        axes: Axes of the layer's inputs or outputs, in order.
        sizes: Sizes of the axes in the parameter, by name.
        kept: Positions of each axis that are in the tensor, by name.
        inputs: True for the inputs (down half), False for the outputs (up half).

    Returns:
        The rectangles, or None if there are more than `MANY`.
    """
    shape = [sizes[axis] for axis in axes]
    features = torch.arange(math.prod(shape), device="cpu").reshape(shape)
    for dim, axis in enumerate(axes):
        features = features.index_select(dim, torch.tensor(kept[axis], device="cpu"))
    blocks = [axis for axis in cut.blocks if axis in axes] if inputs == cut.over_inputs else []
    order = [*blocks, *(axis for axis in axes if axis not in blocks)]
    count = math.prod(len(kept[axis]) for axis in blocks)
    height = cut.bond // count
    rows = []
    for at, row in enumerate(features.permute([axes.index(axis) for axis in order]).reshape(count, -1)):
        breaks = (row.diff() != 1).nonzero().flatten() + 1
        if count * (len(breaks) + 1) > MANY:
            return None
        ends = [0, *breaks.tolist(), len(row)]
        bond = slice(at * height, (at + 1) * height)
        rows.append(
            tuple(
                Rectangle(slice(int(row[a]), int(row[b - 1]) + 1), bond, slice(a, b))
                for a, b in itertools.pairwise(ends)
            )
        )
    return Rectangles(tuple(rows), math.prod(shape))
