"""An increment less what it was at the start, so that training starts from the base model whatever the cores hold."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .increment import Increment
from .linear import Product


class ShiftedIncrement(Increment):
    """The difference of two increments of one parameter: of the factors as they are, and of a frozen copy of the first.

    Both are computed alike, so that equal factors give exactly zero.

    Args:
        own: The increment of the factors.
        start: The increment of the frozen copy.
    """

    def __init__(self, own: Increment, start: Increment) -> None:
        super().__init__(own.factors, own.kind, own.at, own._parts, own._matrices, dropout=own.dropout)
        self.start = start

    def forget(self) -> None:
        """Form anew what was formed of the cores."""
        super().forget()
        self.start.forget()

    def dense(self, *, drop: bool = False) -> Tensor:
        """Return the difference in the parameter's shape."""
        masks = self._masks(drop)  # one for both, so that equal factors give zero
        shifted = self._formed(masks) - self.start._formed(masks)
        return nn.functional.dropout(shifted, self.dropout.increment) if drop and self._drops_entries else shifted

    def linear(self, product: Product, x: Tensor, weight: Tensor, bias: Tensor | None, scale: float) -> Tensor:
        """Do what a linear layer does, with the difference added."""
        if x.is_nested or self._drops_entries:
            return product(x, self.added_to(weight, scale, drop=True), bias)
        y, masks = product(x, weight, bias), self._masks(True)
        through = self._passed(x, y, masks) - self.start._passed(x, y, masks)
        return torch.add(y, through.to(y.dtype), alpha=scale)

    @property
    def _is_one_product(self) -> bool:
        return False
