"""The sum of several increments of one parameter, of adapters that are active together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...model.values import dense_values
from ...plan import View
from ..factors import Factors
from ..options import Route
from .increment import Increment
from .passes import Passes
from .planned import Kind
from .products import Product
from .shifted import ShiftedIncrement


class SummedIncrement:
    """The scaled sum of increments of one parameter. A layer forms it, whatever the route of each.

    Args:
        terms: The increments, each with its scale.
    """

    def __init__(self, terms: Sequence[tuple[Increment | ShiftedIncrement | SummedIncrement, float]]) -> None:
        self.terms = tuple(terms)
        first = self.terms[0][0]
        self.kind: Kind = first.kind
        self.view: View = first.view
        self.factors: Factors = first.factors
        self.passes: Passes = first.passes

    def route(self, tokens: int) -> Route:
        """Return how a linear layer adds the sum in its call."""
        return "weight"

    def linear(self, product: Product, x: Tensor, weight: Tensor, bias: Tensor | None, scale: float) -> Tensor:
        """Compute a linear layer with the sum added."""
        return product(x, self.added_to(weight, scale, drop=True), bias)

    def dense(self, *, drop: bool = False) -> Tensor:
        """Return the sum in the parameter's shape."""
        return torch.stack([increment.dense(drop=drop) * scale for increment, scale in self.terms]).sum(0)

    def added_to(self, base: Tensor, scale: float, *, drop: bool = False) -> Tensor:
        """Return base + scale x sum, computed in at least fp32 and rounded once."""
        found = self.dense(drop=drop)
        wide = dense_values(base).to(torch.promote_types(base.dtype, found.dtype))
        return torch.add(wide, found.to(wide.dtype), alpha=scale).to(base.dtype)

    def add_into(self, parameter: Tensor, scale: float) -> None:
        """Add scale x sum to a parameter in place."""
        with torch.no_grad():
            parameter.copy_(self.added_to(parameter, scale))
