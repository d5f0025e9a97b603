"""A linear layer with the increment added to its output by two narrow products, forward and backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .cache import without_autocast
from .execution import Product
from .halves import Halves
from .narrow import Rectangles
from .recompute import Origin
from .shared_gradients import SharedGradient


def composed(y: Tensor, x: Tensor, down: Tensor, up: Tensor, halves: Halves, scale: float) -> Tensor:
    """Add the increment to a layer's output, in plain differentiable operations without in-place writes.

    Args:
        y: The layer's output (..., out).
        x: The layer's input (..., in).
        down: The down matrix (bond, in).
        up: The up matrix (bond, out).
        halves: The inputs and outputs that the two matrices belong to.
        scale: Scale s of the update: W + s dW.
    """
    rows = x.reshape(-1, x.shape[-1]).to(y.dtype)
    h = halves.down.project(rows, down.to(y.dtype))
    return halves.up.added(y.reshape(-1, y.shape[-1]), h, up.to(y.dtype), scale).reshape(y.shape)


def add_into(y: Tensor, x: Tensor, down: Tensor, up: Tensor, halves: Halves) -> Tensor:
    """Add the increment to a layer's output in place; all operands have the same dtype, and `up` holds the scale.

    Returns:
        The input multiplied by the down matrix (tokens, bond).
    """
    h = halves.down.project(x.reshape(-1, x.shape[-1]), down)
    halves.up.add_(y.view(-1, y.shape[-1]), h, up)
    return h


class AdaptedLinear(torch.autograd.Function):
    """A linear layer with the increment added in place, forward and backward.

    For the backward pass it saves, besides the tensors of a plain linear layer, the narrow product (tokens, bond). In
    place of the layer's input it can save the tensor that the input is recomputed from. A layer that multiplies by its
    effective weight saves no narrow product; it forms the weight again, unless it was formed for all layers.
    """

    @staticmethod
    def forward(
        ctx: Any,
        product: Product,
        transposed: bool,
        halves: Halves,
        source: Origin | None,
        shared: tuple[SharedGradient | None, SharedGradient | None],
        sums: bool,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        down: Tensor,
        up: Tensor,
        effective: Tensor | None,
    ) -> Tensor:
        """Return the layer's output with the increment added.

        All operands have one dtype but the weight, if the effective one is given, and `up` holds the scale. With
        `sums`, the layer multiplies by the effective weight, which it forms where none is given.
        """
        to_x, to_weight, _, to_down, to_up, _ = ctx.needs_input_grad[6:]
        with without_autocast(x.device):
            if sums and effective is None:
                multiplied = halves.added_to(weight, down, up, transposed=transposed)
            else:
                multiplied = weight if effective is None else effective
            y = product(x, multiplied, bias)
            h = None if sums else add_into(y, x, down, up, halves)
        needs_x = to_weight or to_down or (to_up and h is None)
        kept = (source.input if source else x) if needs_x else None
        ctx.save_for_backward(kept, weight, down, up, h if to_up else None, effective if to_x else None)
        ctx.transposed, ctx.halves, ctx.source, ctx.shared = transposed, halves, source and source.recipe, shared
        ctx.sums = sums
        # torch computes a bias on rows and returns a view of them, which later in-place operations could not change
        whole: Tensor = torch.ops.aten._unsafe_view(y, y.shape)
        return whole

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the input, the weight, the bias and the two matrices."""
        kept, weight, down, up, h, effective = ctx.saved_tensors
        x_needs, weight_needs, bias_needs, down_needs, up_needs, _ = ctx.needs_input_grad[6:]
        below, above, twice = ctx.halves.down, ctx.halves.up, torch.is_grad_enabled()
        g = gradient.reshape(-1, gradient.shape[-1])
        to_h = above.project(g, up)
        to_x = to_weight = to_bias = to_down = to_up = None
        if x_needs:
            if ctx.sums and effective is None and not twice:
                effective = ctx.halves.added_to(weight, down, up, transposed=ctx.transposed)
            whole = _to_input(g, to_h, weight, down, None if twice else effective, ctx.transposed, below)
            to_x = whole.reshape(*gradient.shape[:-1], below.size)
        if kept is not None:
            rows = (ctx.source(kept).to(down.dtype) if ctx.source else kept).reshape(-1, below.size)
            to_weight = (rows.t() @ g if ctx.transposed else g.t() @ rows) if weight_needs else None
            to_down = _outer(below, to_h, rows, None if twice else ctx.shared[0]) if down_needs else None
        if up_needs:
            h = below.project(rows, down) if h is None or (twice and down_needs) else h
            to_up = _outer(above, h, g, None if twice else ctx.shared[1])
        if bias_needs:
            to_bias = g.sum(0)
        return None, None, None, None, None, None, to_x, to_weight, to_bias, to_down, to_up, None


def _to_input(
    g: Tensor, to_h: Tensor, weight: Tensor, down: Tensor, effective: Tensor | None, transposed: bool, below: Rectangles
) -> Tensor:
    """Return the gradient of a layer's input (tokens, in) from that of its output (tokens, out)."""
    if effective is not None:
        return g @ (effective.t() if transposed else effective)
    own = g @ (weight.t() if transposed else weight).to(g.dtype)
    # double backward forbids in-place writes
    return below.added(own, to_h, down, 1.0) if torch.is_grad_enabled() else below.add_(own, to_h, down)


def _outer(rectangles: Rectangles, h: Tensor, x: Tensor, shared: SharedGradient | None) -> Tensor | None:
    """Return the gradient of a matrix, h.T @ x; if layers share it, add it to theirs and return None."""
    if shared is None:
        return rectangles.outer(h, x)
    shared.add(lambda found: rectangles.outer(h, x) if found is None else rectangles.outer_(found, h, x))
    return None
