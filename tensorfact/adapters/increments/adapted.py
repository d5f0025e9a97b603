"""A layer with the increment added to its output by two narrow products, or to its weight; gradients stay narrow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .cache import without_autocast
from .halves import Halves
from .products import Product, Side
from .recompute import Origin
from .shared_gradients import SharedGradient


def composed(product: Product, y: Tensor, x: Tensor, down: Tensor, up: Tensor, halves: Halves, scale: float) -> Tensor:
    """Add the increment to a layer's output, in plain differentiable operations without in-place writes.

    Args:
        product: The layer's own product.
        y: The layer's output.
        x: The layer's input.
        down: The down matrix (bond, in).
        up: The up matrix (bond, out).
        halves: The inputs and outputs that the two matrices belong to.
        scale: Scale s of the update: W + s dW.
    """
    below, above = product.sides(halves)
    h = below.project(product.rows(x).to(y.dtype), down.to(y.dtype))
    return above.added(product.rows(y), h, up.to(y.dtype), scale).reshape(y.shape)


def add_into(product: Product, y: Tensor, x: Tensor, down: Tensor, up: Tensor, halves: Halves) -> tuple[Tensor, Tensor]:
    """Add the increment to a layer's output in place; all operands have the same dtype, and `up` holds the scale.

    Returns:
        The output, and the input multiplied by the down matrix.
    """
    below, above = product.sides(halves)
    h = below.project(product.rows(x), down)
    return above.add_(product.rows(y), h, up).view(y.shape), h


class AdaptedLayer(torch.autograd.Function):
    """A layer with the increment added in place, forward and backward.

    For the backward pass it saves, besides the tensors of a plain layer, the narrow product. In place of the layer's
    input it can save the tensor that the input is recomputed from. If the down matrix is frozen, it saves no input: the
    narrow product is a second output, through which second derivatives reach the input. A layer that multiplies by its
    effective weight saves no narrow product; it forms the weight again, unless it was formed for all layers.
    """

    @staticmethod
    def forward(
        ctx: Any,
        product: Product,
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
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return the layer's output with the increment added, and the narrow product if it links to the input.

        All operands have one dtype but the weight, if the effective one is given, and `up` holds the scale. With
        `sums`, the layer multiplies by the effective weight, which it forms where none is given.
        """
        to_x, to_weight, _, to_down, to_up, _ = ctx.needs_input_grad[5:]
        with without_autocast(x.device):
            if sums and effective is None:
                multiplied = halves.added_to(weight, down, up, transposed=product.transposed)
            else:
                multiplied = weight if effective is None else effective
            y, h = product(x, multiplied, bias), None
            if not sums:
                y, h = add_into(product, y, x, down, up, halves)
        needs_x = to_weight or to_down or (to_up and h is None)
        kept = (source.input if source else x) if needs_x else None
        of_x = (weight, effective) if to_x else (None, None)
        ctx.save_for_backward(kept, of_x[0], down, up, h if to_up else None, of_x[1])
        ctx.product, ctx.halves, ctx.sums, ctx.shapes = product, halves, sums, (x.shape, y.shape)
        ctx.source, ctx.shared = source and source.recipe, shared
        ctx.set_materialize_grads(False)
        # torch computes a bias on rows and returns a view of them, which later in-place operations could not change
        whole: Tensor = torch.ops.aten._unsafe_view(y, y.shape)
        return (whole, h) if h is not None and to_x and to_up and not needs_x else whole

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None, linked: Tensor | None = None) -> tuple[Tensor | None, ...]:
        """Return the gradients of the input, the weight, the bias and the two matrices."""
        kept, weight, down, up, h, effective = ctx.saved_tensors
        x_needs, weight_needs, bias_needs, down_needs, up_needs, _ = ctx.needs_input_grad[5:]
        product, twice, (x_shape, y_shape) = ctx.product, torch.is_grad_enabled(), ctx.shapes
        g = product.rows(up.new_zeros(y_shape) if gradient is None else gradient)  # none: only `linked` is there
        below, above = product.sides(ctx.halves)
        to_h = above.project(g, up)
        to_h = to_h if linked is None else to_h + linked
        to_x = to_weight = to_bias = to_down = to_up = None
        if x_needs:
            if ctx.sums and effective is None and not twice:
                effective = ctx.halves.added_to(weight, down, up, transposed=product.transposed)
            # double backward forbids in-place writes, and so does a batch of `linked` alone
            plain = twice or linked is not None
            whole = _to_input(product, g, to_h, weight, down, None if twice else effective, below, x_shape, plain)
            to_x = whole.reshape(x_shape)
        if kept is not None:
            rows = product.rows(ctx.source(kept).to(down.dtype) if ctx.source else kept)
            to_weight = product.to_weight(g, rows) if weight_needs else None
            to_down = _outer(below, to_h, rows, None if twice else ctx.shared[0]) if down_needs else None
        if up_needs:
            h = below.project(rows, down) if h is None or (twice and kept is not None) else h
            to_up = _outer(above, h, g, None if twice else ctx.shared[1])
        if bias_needs:
            to_bias = product.to_bias(g)
        return None, None, None, None, None, to_x, to_weight, to_bias, to_down, to_up, None


def _to_input(
    product: Product,
    g: Tensor,
    to_h: Tensor,
    weight: Tensor,
    down: Tensor,
    effective: Tensor | None,
    below: Side,
    shape: Sequence[int],
    plain: bool,
) -> Tensor:
    """Return the gradient of the rows of a layer's input from that of its output; `plain`: without in-place writes."""
    if effective is not None:
        return product.to_input(g, effective, shape)
    own = product.to_input(g, weight.to(g.dtype), shape)
    return below.added(own, to_h, down, 1.0) if plain else below.add_(own, to_h, down)


def _outer(side: Side, h: Tensor, x: Tensor, shared: SharedGradient | None) -> Tensor | None:
    """Return the gradient of a matrix, h.T @ x; if layers share it, add it to theirs and return None."""
    if shared is None:
        return side.outer(h, x)
    shared.add(lambda found: side.outer(h, x) if found is None else side.outer_(found, h, x))
    return None
