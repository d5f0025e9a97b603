"""The increment of one parameter: formed, or added to what its layer does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...network import Dropout, machine
from ...plan import TensorGroup
from ...plan.indexing import as_index, spread, take
from ...plan.slices import restricted
from ..factors import Factors
from .cache import Formed, autocast_dtype, composable, without_autocast
from .linear import AdaptedLinear, Product, add_into, composed
from .planned import NOMINAL_TOKENS, Kind
from .recompute import source_of

Masks = Sequence[Tensor | None] | None
"""What cores are multiplied with; None for a core, or for all, that are kept whole."""


class Increment:
    """The increment of one parameter: its part of the factors, formed or applied.

    Args:
        factors: The factors of the tensor that the parameter is in.
        kind: What is planned for this parameter and those that lie like it.
        at: Which of them it is.
        parts: What holds their parts of the cores.
        matrices: What holds their two matrices.
        dropout: What is dropped in training.
    """

    def __init__(
        self, factors: Factors, kind: Kind, at: int, parts: Formed, matrices: Formed, *, dropout: Dropout | None = None
    ) -> None:
        self.factors, self.kind, self.at, self.dropout = factors, kind, at, dropout or Dropout()
        self.view, self._may_drop = kind.views[at], bool(self.dropout)  # asked for at every call
        self._parts, self._matrices = parts, matrices

    def forget(self) -> None:
        """Form anew what was formed of the cores; for whoever changed them by `.data`, which torch does not count."""
        self._parts.forget()
        self._matrices.forget()

    def dense(self, *, drop: bool = False) -> Tensor:
        """Return the increment in the parameter's shape, in at least fp32, whatever autocast is in force.

        Args:
            drop: Apply the dropout, if the factors are in training mode.
        """
        formed = self._formed(self._masks(drop))
        return nn.functional.dropout(formed, self.dropout.increment) if drop and self._drops_entries else formed

    def _formed(self, masks: Masks) -> Tensor:
        parts = self._own(masks)
        with without_autocast(parts[0].device):
            return self.view.join(self.kind.forming(parts))

    def added_to(self, base: Tensor, scale: float, *, drop: bool = False) -> Tensor:
        """Return base + scale x increment, computed in at least fp32 and rounded once.

        Args:
            base: The stored parameter.
            scale: Scale s of the update: W + s dW.
            drop: Apply the dropout, if the factors are in training mode.
        """
        wide = torch.promote_types(base.dtype, self._wide)
        if not self._is_one_product or (drop and self._drops):
            return torch.add(base.to(wide), self.dense(drop=drop).to(wide), alpha=scale).to(base.dtype)
        with without_autocast(base.device):
            left, right = self._factored(wide)
            return torch.addmm(base.to(wide), left, right, alpha=scale).to(base.dtype)

    def add_into(self, parameter: Tensor, scale: float) -> None:
        """Add scale x increment to a parameter in place, as `added_to` does.

        Args:
            parameter: The stored parameter.
            scale: Scale s of the update: W + s dW.
        """
        with torch.no_grad(), without_autocast(parameter.device):
            if self._is_one_product and parameter.dtype == self._wide:
                parameter.addmm_(*self._factored(parameter.dtype), alpha=scale)
            else:
                parameter.copy_(self.added_to(parameter, scale))

    def linear(self, product: Product, x: Tensor, weight: Tensor, bias: Tensor | None, scale: float) -> Tensor:
        """Do what a linear layer does, with the increment added.

        Args:
            product: The layer's own product of input, weight and bias.
            x: The layer's input (..., in).
            weight: Its stored weight.
            bias: Its bias, if it has one.
            scale: Scale s of the update: W + s dW.

        Returns:
            The layer's output (..., out).
        """
        halves, cores = self.kind.halves, self.factors.tensors()
        if x.is_nested or self._drops_entries:  # a nested tensor has no rows to multiply one by one
            return product(x, self.added_to(weight, scale, drop=True), bias)
        if halves is None or self._drops or composable(x, weight, bias, *cores):
            return self._added(product(x, weight, bias), x, scale)
        casting = None if x.dtype == torch.float64 else autocast_dtype(x.device)  # which leaves fp64 alone
        dtype = casting or x.dtype
        down, up = self._two(cores, dtype)
        if torch.is_grad_enabled() and any(t.requires_grad for t in (x, weight, bias, down, up) if t is not None):
            operands = (
                (x, weight, bias)
                if casting is None
                else tuple(t if t is None else t.to(casting) for t in (x, weight, bias))
            )
            fused: Tensor = AdaptedLinear.apply(
                product, self.view.transposed, halves, scale, source_of(x), *operands, down, up
            )
            return fused
        y = product(x, weight, bias)
        if y.dtype != dtype:
            return composed(y, x, down, up, halves, scale)
        add_into(y, x.to(dtype), down, up, halves, scale)
        return y

    def _added(self, y: Tensor, x: Tensor, scale: float) -> Tensor:
        """Add the increment of an input to a result, in plain differentiable operations."""
        if self.kind.halves is None:
            return torch.add(y, self._passed(x, y, self._masks(True)).to(y.dtype), alpha=scale)
        with without_autocast(x.device):
            down, up = self.kind.matrices(self._own(self._masks(True)))
        return composed(y, x, down, up, self.kind.halves, scale)

    def _passed(self, x: Tensor, like: Tensor, masks: Masks) -> Tensor:
        """Return what the increment alone makes of an input, in plain differentiable operations (..., out)."""
        parts, halves = self._own(masks), self.kind.halves
        if halves is None:
            return self._contracted(x, parts)
        with without_autocast(x.device):
            down, up = self.kind.matrices(parts)
        return composed(torch.zeros_like(like), x, down, up, halves, 1.0)

    def _contracted(self, x: Tensor, parts: Sequence[Tensor]) -> Tensor:
        """Contract an input with a network that has no narrow place."""
        kept, sizes = self.view.kept, self.view.sizes
        tokens = NOMINAL_TOKENS if torch.compiler.is_compiling() else int(x.numel()) // max(int(x.shape[-1]), 1)
        z = x.reshape(-1, *(sizes[axis] for axis in self.view.inputs))
        for dim, axis in enumerate(self.view.inputs, 1):
            z = take(z, dim, as_index(kept[axis])) if len(kept[axis]) < sizes[axis] else z
        z = self.kind.applying(tokens)([z, *(part.to(x.dtype) for part in parts)])
        for dim, axis in enumerate(self.view.outputs, 1):
            z = spread(z, dim, kept[axis], sizes[axis])
        return z.reshape(*x.shape[:-1], self.view.shape[self.view.transposed])

    @property
    def _is_one_product(self) -> bool:
        """Whether the increment is the product of two matrices, with no slot of the parameter frozen."""
        halves = self.kind.halves
        return halves is not None and halves.down.whole and halves.up.whole

    def _factored(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return the two matrices whose product is the increment in the parameter's shape."""
        down, up = (matrix.to(dtype) for matrix in self._two(self.factors.tensors(), self._wide))
        return (down.t(), up) if self.view.transposed else (up.t(), down)

    def _two(self, cores: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
        """Return the two matrices of the cut."""
        if composable(*cores):
            return self.kind.matrices(self._own(None))
        return [one[self.at if len(one) > 1 else 0] for one in self._matrices(cores, dtype)]

    def _masks(self, drop: bool) -> Masks:
        """Draw what the cores are multiplied with; None where nothing of them is dropped."""
        if not drop or not self._drops:
            return None
        return self.dropout.masks(self.factors.network, self.factors.tensors())

    def _own(self, masks: Masks) -> list[Tensor]:
        """Return this parameter's parts of the cores, in at least fp32."""
        cores = self.factors.tensors()
        if masks is not None or composable(*cores):
            kept = [c if m is None else c * m for c, m in zip(cores, masks or [None] * len(cores), strict=True)]
            return [part.to(self._wide) for part in self.kind.own(self.at, kept)]
        return [part[self.at if len(part) > 1 else 0] for part in self._parts(cores, self._wide)]

    @property
    def _wide(self) -> torch.dtype:
        return torch.promote_types(self.factors.dtype, torch.float32)

    @property
    def _drops(self) -> bool:
        return self._may_drop and self.factors.training

    @property
    def _drops_entries(self) -> bool:
        return self._may_drop and bool(self.dropout.increment) and self.factors.training


def increments(
    tensor: TensorGroup, factors: Factors, optimize: Any = "auto", dropout: Dropout | None = None
) -> Mapping[str, Increment]:
    """Plan the increments of all parameters of a tensor.

    Args:
        tensor: The tensor.
        factors: Its factors.
        optimize: The order's optimiser: anything opt_einsum accepts.
        dropout: As in `Increment`.

    Returns:
        Increments by parameter name.
    """
    alike: dict[object, list[Any]] = {}
    for view in tensor.views:
        network = restricted(factors.network, tensor.modes, view)
        kept = tuple((axis, positions) for axis, positions in view.kept.items())
        alike.setdefault((view.rule, view.shape, kept, view.transposed, network), []).append(view)
    on = machine(factors.tensors()[0].device)
    found = {}
    for views in alike.values():
        kind = Kind(factors.network, tensor.modes, views, optimize, on)
        parts, matrices = kind.formed_parts(), kind.formed_matrices()
        for at, view in enumerate(views):
            found[view.parameter] = Increment(factors, kind, at, parts, matrices, dropout=dropout)
    return {view.parameter: found[view.parameter] for view in tensor.views}
