"""An increment minus its initial value, so that training starts from the base model for any initial cores."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..options import Route
from .increment import Increment
from .products import Product


class ShiftedIncrement:
    """The increment of the factors minus that of a frozen copy of the initial factors.

    Both are computed in the same way, so that equal factors give exactly zero.

    Args:
        own: The increment of the factors.
        start: The increment of the frozen copy.
    """

    def __init__(self, own: Increment, start: Increment) -> None:
        self.own, self.start = own, start
        self.kind, self.view, self.factors, self.passes = own.kind, own.view, own.factors, own.passes

    def route(self, tokens: int) -> Route:
        """Return how a linear layer adds the difference in its call."""
        return "activation"

    def linear(self, product: Product, x: Tensor, weight: Tensor, bias: Tensor | None, scale: float) -> Tensor:
        """Compute a linear layer with the difference added."""
        if x.is_nested or self.own.drops_entries:
            return product(x, self.added_to(weight, scale, drop=True), bias)
        y, masks, mode = product(x, weight, bias), self.own.masks(True), self.kind.execution
        through = mode.passed(self.own, product, x, y, masks) - mode.passed(self.start, product, x, y, masks)
        return torch.add(y, through.to(y.dtype), alpha=scale)

    def dense(self, *, drop: bool = False) -> Tensor:
        """Return the difference in the parameter's shape."""
        masks = self.own.masks(drop)  # the same for both, so that equal factors give zero
        shifted = self.own.formed(masks) - self.start.formed(masks)
        return (
            nn.functional.dropout(shifted, self.own.dropout.increment) if drop and self.own.drops_entries else shifted
        )

    def added_to(self, base: Tensor, scale: float, *, drop: bool = False) -> Tensor:
        """Return base + scale x difference, computed in at least fp32 and rounded once."""
        wide = base.to(torch.promote_types(base.dtype, self.own.wide))
        return torch.add(wide, self.dense(drop=drop).to(wide.dtype), alpha=scale).to(base.dtype)

    def add_into(self, parameter: Tensor, scale: float) -> None:
        """Add scale x difference to a parameter in place."""
        with torch.no_grad():
            parameter.copy_(self.added_to(parameter, scale))
