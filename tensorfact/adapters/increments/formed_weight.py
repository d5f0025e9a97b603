"""Execution mode: form the effective weight in each call, and run the layer with it."""

from __future__ import annotations

from torch import Tensor, nn

from .execution import Execution, Masks, Product, Running


class FormedWeight(Execution):
    """Form W + s dW, for nested input tensors and for dropout of the increment's entries.

    No other mode supports these.
    """

    def linear(
        self, own: Running, product: Product, x: Tensor, weight: Tensor, bias: Tensor | None, scale: float
    ) -> Tensor:
        """Compute the linear layer with the increment added."""
        return product(x, own.added_to(weight, scale, drop=True), bias)

    def passed(self, own: Running, x: Tensor, like: Tensor, masks: Masks) -> Tensor:
        """Return the increment's part of the layer's output."""
        formed = own.formed(masks).to(x.dtype)
        return nn.functional.linear(x, formed.t() if own.view.transposed else formed)
