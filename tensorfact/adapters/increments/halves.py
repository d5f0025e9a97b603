"""A cut network on a layer's inputs and outputs: two narrow matrices, and how they are formed of the cores."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from torch import Tensor

from ...network import Contraction, Cost, Cut
from .narrow import Rectangles


@dataclasses.dataclass(frozen=True)
class Piece:
    """What some cores are contracted to, for one parameter or for all of a kind.

    Args:
        members: Which cores, by their place in the network.
        alone: How, for one parameter, from its own parts of the cores.
        together: How, for all parameters; a core of which each takes its own part has one more leg.
        stacked: Whether that leg is in the result.
        shape: The shape of the result for one parameter.
    """

    members: tuple[int, ...]
    alone: Contraction
    together: Contraction
    stacked: bool
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Halves:
    """A cut network on a layer's inputs and outputs.

    Args:
        cut: The cut.
        down: Which inputs meet which part of the lower matrix (bond, inputs).
        up: Which outputs come from which part of the upper matrix (bond, outputs).
        pieces: How the two matrices are formed.
    """

    cut: Cut
    down: Rectangles
    up: Rectangles
    pieces: tuple[Piece, Piece]

    @property
    def making(self) -> Cost:
        """What forming the matrices of all parameters costs in a training step."""
        return sum((piece.together.training for piece in self.pieces), Cost())

    @property
    def whole(self) -> bool:
        """Whether the increment is one product of two matrices, with no slot of the parameter frozen."""
        return self.down.whole and self.up.whole

    def matrices(self, parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the two matrices of one parameter, by plain differentiable products.

        Args:
            parts: The parameter's parts of the cores.
        """
        down, up = (p.alone([parts[at] for at in p.members]).reshape(p.shape) for p in self.pieces)
        return down, up
