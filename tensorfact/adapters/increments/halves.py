"""The down and up matrices of a cut network in a layer, and how they are formed from the cores."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

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

    def matrices(self, parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the down and up matrices of one parameter, in plain differentiable operations.

        Args:
            parts: The parameter's slices of the cores.
        """
        down, up = (p.alone([parts[at] for at in p.members]).reshape(p.shape) for p in self.pieces)
        return down, up
