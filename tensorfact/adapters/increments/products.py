"""The product that a layer computes by itself, its gradients, and the products with narrow matrices beside it."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from .halves import Halves


class Side(Protocol):
    """The inputs or the outputs of a layer, and the products with the narrow matrix on their side.

    Rows are what `Product.rows` returns: (tokens, features), or (samples, channels, *positions).
    """

    def project(self, x: Tensor, matrix: Tensor) -> Tensor:
        """Return x times the transpose of the matrix: features -> bond."""

    def add_(self, y: Tensor, h: Tensor, matrix: Tensor) -> Tensor:
        """Add h times the matrix to y in place: bond -> features."""

    def added(self, y: Tensor, h: Tensor, matrix: Tensor, scale: float) -> Tensor:
        """Return y + scale * h times the matrix, without in-place writes."""

    def outer(self, h: Tensor, x: Tensor) -> Tensor:
        """Return the gradient of the matrix from the bond's h and the features' x."""

    def outer_(self, found: Tensor, h: Tensor, x: Tensor) -> Tensor:
        """Add the gradient of the matrix to one in place, and return it; gradients are not recorded."""


class Product(abc.ABC):
    """The product of input and weight that a layer computes by itself, and its gradients."""

    transposed: bool = False
    """Whether the weight is (inputs, outputs)."""

    @abc.abstractmethod
    def __call__(self, input: Tensor, weight: Tensor, bias: Tensor | None, /) -> Tensor:
        """Return the layer's output for its input."""

    @abc.abstractmethod
    def tokens(self, x: Tensor) -> int:
        """Return the number of tokens or positions for which an input gives an output."""

    @abc.abstractmethod
    def shape(self, tokens: int, weight: Tensor) -> tuple[int, ...]:
        """Return the shape of an input of at least this number of tokens or positions.

        Args:
            tokens: The number.
            weight: The layer's weight.
        """

    @abc.abstractmethod
    def rows(self, x: Tensor) -> Tensor:
        """Return a view of an input, an output or a gradient of one, as the sides take it."""

    @abc.abstractmethod
    def sides(self, halves: Halves) -> tuple[Side, Side]:
        """Return the inputs and the outputs of the layer, as a cut network uses them."""

    @abc.abstractmethod
    def to_input(self, g: Tensor, weight: Tensor, shape: Sequence[int]) -> Tensor:
        """Return the gradient of the input's rows.

        Args:
            g: That of the output's rows.
            weight: The weight.
            shape: Shape of the input.
        """

    @abc.abstractmethod
    def to_weight(self, g: Tensor, x: Tensor) -> Tensor:
        """Return the gradient of the weight from the gradient of the output's rows, and the input's rows."""

    @abc.abstractmethod
    def to_bias(self, g: Tensor) -> Tensor:
        """Return the gradient of the bias from that of the output's rows."""


@dataclasses.dataclass(frozen=True)
class LinearProduct(Product):
    """The product of a linear layer.

    Args:
        transposed: Whether the weight is (inputs, outputs), as that of transformers' `Conv1D`.
    """

    transposed: bool = False

    def __call__(self, input: Tensor, weight: Tensor, bias: Tensor | None, /) -> Tensor:
        """Return the layer's output (..., out) for an input (..., in)."""
        if not self.transposed:
            return nn.functional.linear(input, weight, bias)
        if bias is None:
            return input @ weight
        rows = torch.addmm(bias, input.reshape(-1, input.shape[-1]), weight)  # as transformers computes it
        return rows.reshape(*input.shape[:-1], weight.shape[1])

    def tokens(self, x: Tensor) -> int:
        """Return the number of tokens."""
        return x.numel() // max(x.shape[-1], 1)

    def shape(self, tokens: int, weight: Tensor) -> tuple[int, ...]:
        """Return (tokens, in)."""
        return tokens, weight.shape[0 if self.transposed else 1]

    def rows(self, x: Tensor) -> Tensor:
        """Return (tokens, features)."""
        return x.reshape(-1, x.shape[-1])

    def sides(self, halves: Halves) -> tuple[Side, Side]:
        """Return the rectangles of both matrices."""
        return halves.down, halves.up

    def to_input(self, g: Tensor, weight: Tensor, shape: Sequence[int]) -> Tensor:
        """Return the gradient (tokens, in)."""
        return g @ (weight.t() if self.transposed else weight)

    def to_weight(self, g: Tensor, x: Tensor) -> Tensor:
        """Return the gradient of the weight."""
        return x.t() @ g if self.transposed else g.t() @ x

    def to_bias(self, g: Tensor) -> Tensor:
        """Return the gradient (out)."""
        return g.sum(0)
