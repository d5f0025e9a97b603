"""Execution mode for networks without a narrow cut: contract the input with the cores."""

from __future__ import annotations

import torch
from torch import Tensor

from ...plan.indexing import as_index, spread, take
from .execution import NOMINAL_TOKENS, Execution, Masks, Running
from .products import Product


class ContractedInput(Execution):
    """Contract the layer's input with all cores, in the order planned for its number of tokens."""

    def linear(
        self, own: Running, product: Product, x: Tensor, weight: Tensor, bias: Tensor | None, scale: float
    ) -> Tensor:
        """Compute the linear layer with the increment added."""
        y = product(x, weight, bias)
        return torch.add(y, self.passed(own, product, x, y, own.masks(True)).to(y.dtype), alpha=scale)

    def passed(self, own: Running, product: Product, x: Tensor, like: Tensor, masks: Masks) -> Tensor:
        """Return the increment's part of the layer's output."""
        view = own.view
        kept, sizes = view.kept, view.sizes
        tokens = NOMINAL_TOKENS if torch.compiler.is_compiling() else int(x.numel()) // max(int(x.shape[-1]), 1)
        z = x.reshape(-1, *(sizes[axis] for axis in view.inputs))
        for dim, axis in enumerate(view.inputs, 1):
            z = take(z, dim, as_index(kept[axis])) if len(kept[axis]) < sizes[axis] else z
        z = own.applying(tokens)([z, *(part.to(x.dtype) for part in own.parts(masks))])
        for dim, axis in enumerate(view.outputs, 1):
            z = spread(z, dim, kept[axis], sizes[axis])
        return z.reshape(*x.shape[:-1], view.shape[view.transposed])
