"""Execution mode: the effective weight is formed for the call, and the layer multiplies with it."""

from __future__ import annotations

from torch import Tensor, nn

from .execution import Execution, Masks, Product, Running


class FormedWeight(Execution):
    """Form W + s dW: for inputs and dropouts that no other mode can take.

    A nested tensor has no rows to multiply one by one, and entries of an increment are dropped only where it is formed.
    """

    def linear(
        self, own: Running, product: Product, x: Tensor, weight: Tensor, bias: Tensor | None, scale: float
    ) -> Tensor:
        """Do what a linear layer does, with the increment added."""
        return product(x, own.added_to(weight, scale, drop=True), bias)

    def passed(self, own: Running, x: Tensor, like: Tensor, masks: Masks) -> Tensor:
        """Return what the increment alone makes of an input."""
        formed = own.formed(masks).to(x.dtype)
        return nn.functional.linear(x, formed.t() if own.view.transposed else formed)
