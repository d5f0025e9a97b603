"""Execution mode: two narrow products, added to the layer's own products forward and backward."""

from __future__ import annotations

import torch
from torch import Tensor

from .adapted import AdaptedLayer, add_into, composed
from .cache import autocast_dtype, composable, without_autocast
from .execution import Execution, Masks, Running
from .halves import Halves
from .products import Product
from .recompute import source_of
from .shared_gradients import shared_of


class NarrowProducts(Execution):
    """Multiply the input by the down and up matrices of a cut network.

    Args:
        halves: The cut, and the plan of its two matrices.
    """

    def __init__(self, halves: Halves) -> None:
        self.halves = halves

    def linear(
        self, own: Running, product: Product, x: Tensor, weight: Tensor, bias: Tensor | None, scale: float
    ) -> Tensor:
        """Compute the layer with the increment added."""
        cores = own.factors.tensors()
        if own.drops or composable(x, weight, bias, *cores):
            y = product(x, weight, bias)
            return composed(product, y, x, *self._differentiable(own, x, own.masks(True)), self.halves, scale)
        casting = None if x.dtype == torch.float64 else autocast_dtype(x.device)  # autocast does not cast fp64
        dtype = casting or x.dtype
        tracked = any(t.requires_grad for t in (x, weight, bias, *cores) if t is not None)
        recorded = torch.is_grad_enabled() and tracked
        down, up = own.matrices(cores, dtype, scale)  # recorded, and so before the sums, which are not
        sums, effective = own.sums(x, product.tokens(x), weight, cores, dtype, scale, recorded=recorded)
        if recorded:
            layer = [x, weight, bias]
            if casting is not None:  # beside an effective weight, second derivatives alone read the stored one
                layer = [t if t is None or (t is weight and effective is not None) else t.to(casting) for t in layer]
            shared = shared_of(down), shared_of(up)
            fused: Tensor | tuple[Tensor, Tensor] = AdaptedLayer.apply(
                product,
                self.halves,
                source_of(x),
                shared,
                sums,
                *layer,
                down,
                up,
                effective,
            )
            return fused if isinstance(fused, Tensor) else fused[0]
        if effective is not None:
            return product(x, effective, bias)
        if sums:
            return product(x, self.halves.added_to(weight, down, up, transposed=own.view.transposed), bias)
        y = product(x, weight, bias)
        return add_into(product, y, x.to(dtype), down, up, self.halves)[0]

    def passed(self, own: Running, product: Product, x: Tensor, like: Tensor, masks: Masks) -> Tensor:
        """Return the increment's part of the layer's output."""
        down, up = self._differentiable(own, x, masks)
        return composed(product, torch.zeros_like(like), x, down, up, self.halves, 1.0)

    def added_to(self, own: Running, base: Tensor, scale: float) -> Tensor:
        """Return base + scale x increment, in one product if no part of the parameter is left frozen."""
        if not self.halves.whole:
            return super().added_to(own, base, scale)
        with without_autocast(base.device):
            down, up = self._matrices(own, base.dtype, scale)
            return self.halves.added_to(base, down, up, transposed=own.view.transposed)

    def add_into(self, own: Running, parameter: Tensor, scale: float) -> None:
        """Add scale x increment to a parameter in place; in one product if it is a matrix without frozen parts."""
        if not self.halves.whole or parameter.dim() > 2:
            super().add_into(own, parameter, scale)
            return
        with without_autocast(parameter.device):
            down, up = self._matrices(own, parameter.dtype, scale)
            rows, columns = (down, up) if own.view.transposed else (up, down)
            parameter.addmm_(rows.t(), columns)

    def _differentiable(self, own: Running, x: Tensor, masks: Masks) -> tuple[Tensor, Tensor]:
        """Return the down and up matrices, in plain differentiable operations."""
        with without_autocast(x.device):
            return self.halves.matrices(own.parts(masks))

    def _matrices(self, own: Running, dtype: torch.dtype, scale: float) -> tuple[Tensor, Tensor]:
        """Return the down matrix and scale times the up matrix in a dtype."""
        down, up = (matrix.to(dtype) for matrix in own.matrices(own.factors.tensors(), own.wide, scale))
        return down, up
