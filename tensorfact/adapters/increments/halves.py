"""The down and up matrices of a cut network in a layer, and how they are formed from the cores."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from ...network import Contraction, Cost, Cut
from .narrow import Rectangles


@dataclasses.dataclass(frozen=True)
class Piece:
    """Contraction of some of a network's cores, for one parameter or for all of a kind.

    Args:
        members: Positions of the cores in the network.
        alone: The contraction for one parameter, from its slices of the cores.
        together: The contraction for all parameters; a core that they slice has one more leg, over the parameters.
        stacked: Whether the result of `together` has that leg.
        shape: Shape of the result for one parameter.
    """

    members: tuple[int, ...]
    alone: Contraction
    together: Contraction
    stacked: bool
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Halves:
    """A cut network in a layer.

    Args:
        cut: The cut of the network.
        down: Rectangles of the down matrix (bond, inputs), and the layer's inputs that they are multiplied with.
        up: Rectangles of the up matrix (bond, outputs), and the layer's outputs that they are added to.
        pieces: The contractions that form the down and up matrices.
    """

    cut: Cut
    down: Rectangles
    up: Rectangles
    pieces: tuple[Piece, Piece]

    @property
    def making(self) -> Cost:
        """Cost of forming the matrices of all parameters, in a training step."""
        return sum((piece.together.training for piece in self.pieces), Cost())

    @property
    def whole(self) -> bool:
        """Whether the increment is one product of two matrices, with no part of the parameter left frozen."""
        return self.down.whole and self.up.whole

    @property
    def multiplies(self) -> bool:
        """Whether `product` can form the increments: whether each matrix is whole, or tiles of one size."""
        return all(rectangles.whole or rectangles.tiles for rectangles in (self.down, self.up))

    def added_to(self, base: Tensor, down: Tensor, up: Tensor, *, transposed: bool) -> Tensor:
        """Return the sum of a parameter and its increment, where `multiplies` holds.

        Args:
            base: The parameter (outputs, inputs), or (inputs, outputs).
            down: The down matrix (bond, inputs).
            up: The up matrix (bond, outputs), which holds the scale.
            transposed: Whether the parameter is (inputs, outputs).
        """
        rows, columns = (down, up) if transposed else (up, down)
        if self.whole and base.is_contiguous():
            return torch.addmm(base.flatten(1), rows.t(), columns).view(base.shape)
        if self.whole:  # a sum keeps the memory format
            return base + (rows.t() @ columns).view(base.shape)
        found, tiles = base.clone(memory_format=torch.contiguous_format), self.down.tiles or self.up.tiles
        beside = bool((self.up if transposed else self.down).tiles)
        blocks = found.view(len(found), tiles, -1).transpose(0, 1) if beside else found.view(tiles, -1, found.shape[1])
        left, right = (matrix.view(tiles, len(matrix) // tiles, matrix.shape[1]) for matrix in (rows, columns))
        blocks.baddbmm_(left.transpose(1, 2), right)
        return found

    def product(self, count: int, down: Tensor, up: Tensor, *, transposed: bool) -> Tensor:
        """Return the increments of several parameters in one batched product.

        Args:
            count: Number of parameters.
            down: Their down matrices (parameters, bond, inputs), or that of all of them (bond, inputs).
            up: Their up matrices (parameters, bond, outputs), or that of all of them.
            transposed: Whether the parameters are (inputs, outputs).

        Returns:
            The increments (parameters, outputs, inputs), or (parameters, inputs, outputs).
        """
        rows, columns = (down, up) if transposed else (up, down)
        beside = bool((self.up if transposed else self.down).tiles)
        tiles = self.down.tiles or self.up.tiles or 1
        left, right = (
            matrix.expand(count, *matrix.shape[-2:]).reshape(count * tiles, -1, matrix.shape[-1])
            for matrix in (rows, columns)
        )
        blocks = torch.bmm(left.transpose(1, 2), right).view(count, tiles, left.shape[-1], right.shape[-1])
        return blocks.transpose(1, 2).flatten(2) if beside else blocks.flatten(1, 2)

    def matrices(self, parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the down and up matrices of one parameter, in plain differentiable operations.

        Args:
            parts: The parameter's slices of the cores.
        """
        down, up = (p.alone([parts[at] for at in p.members]).reshape(p.shape) for p in self.pieces)
        return down, up
