"""The increment of one parameter: formed, or applied in its layer by the execution mode of its kind."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from ...errors import AdaptError
from ...model.values import dense_values, is_quantized
from ...network import Contraction, Dropout, machine
from ...network.order import Optimize
from ...plan import TensorGroup, View
from ...plan.slices import restricted
from ..factors import Factors
from ..options import Route
from .cache import Formed, autocast_dtype, composable, without_autocast
from .effective import EffectiveWeights, Owners
from .execution import Masks
from .forming import formed_matrices, formed_parts
from .passes import Passes
from .planned import Kind
from .products import Product


class Increment:
    """The increment of one parameter: its slice of the factors, formed or applied.

    Args:
        factors: The factors of the parameter's tensor.
        kind: The contraction plan that the parameter shares with others.
        place: Position of the kind among those of the tensor, and of the parameter in the kind.
        parts: Cache of the slices of the cores of all parameters of the kind.
        matrices: Cache of the down and up matrices of all parameters of the tensor.
        sums: Cache of the effective weights of all parameters of the kind.
        dropout: Dropout probabilities in training; default: none.
        route: The route that was asked for: in a layer's call, `formed` multiplies by the effective weight.
    """

    def __init__(
        self,
        factors: Factors,
        kind: Kind,
        place: tuple[int, int],
        parts: Formed,
        matrices: Formed,
        sums: EffectiveWeights,
        *,
        dropout: Dropout | None = None,
        route: Route = "auto",
    ) -> None:
        self.factors, self.kind, self.place, self.dropout = factors, kind, place, dropout or Dropout()
        self.at = place[1]
        self.view, self._may_drop = kind.views[self.at], bool(self.dropout)  # computed once, as each call needs it
        self._parts, self._matrices, self._sums, self._route = parts, matrices, sums, route

    @staticmethod
    def formed_for(kinds: Sequence[Kind], factors: Factors, passes: Passes, owners: Owners) -> list[tuple[Any, ...]]:
        """Return for each kind the caches that its increments share; those of a tensor share its matrices.

        Args:
            kinds: The contraction plans of its parameters.
            factors: Its factors.
            passes: Forward passes of the model.
            owners: The modules that hold the parameters.
        """
        matrices = formed_matrices(kinds, passes)
        return [
            (formed_parts(kind, passes), matrices, EffectiveWeights(kind, which, matrices, owners))
            for which, kind in enumerate(kinds)
        ]

    def route(self, tokens: int) -> Route:
        """Return how a linear layer adds the increment in a training step: `activation` or `formed`.

        Args:
            tokens: Number of tokens in the layer's call.
        """
        return "formed" if self.kind.forms(self._route, tokens) else "activation"

    def on_route(self, route: Route) -> Self:
        """Return the increment as layers add it on another route.

        Args:
            route: The route.
        """
        found = copy.copy(self)
        found._route = route
        return found

    @property
    def passes(self) -> Passes:
        """The forward passes in which increments share what is formed."""
        return self._parts.passes

    def linear(self, product: Product, x: Tensor, weight: Tensor, bias: Tensor | None, scale: float) -> Tensor:
        """Compute a linear layer with the increment added.

        Args:
            product: The layer's own product of input, weight and bias.
            x: The layer's input (..., in).
            weight: The layer's stored weight.
            bias: The layer's bias, or None.
            scale: Scale s of the update: W + s dW.

        Returns:
            The layer's output (..., out).
        """
        if x.is_nested or self.drops_entries:  # which no execution mode supports
            return product(x, self.added_to(weight, scale, drop=True), bias)
        return self.kind.execution.linear(self, product, x, weight, bias, scale)

    def dense(self, *, drop: bool = False) -> Tensor:
        """Return the increment in the parameter's shape and at least fp32, even under autocast.

        Args:
            drop: Apply dropout if the factors are in training mode.
        """
        formed = self.formed(self.masks(drop))
        return nn.functional.dropout(formed, self.dropout.increment) if drop and self.drops_entries else formed

    def added_to(self, base: Tensor, scale: float, *, drop: bool = False) -> Tensor:
        """Return base + scale x increment, computed in at least fp32 and rounded once.

        Args:
            base: The stored parameter.
            scale: Scale s of the update: W + s dW.
            drop: Apply dropout if the factors are in training mode.
        """
        wide = dense_values(base).to(torch.promote_types(base.dtype, self.wide))
        if drop and self.drops:
            return torch.add(wide, self.dense(drop=True).to(wide.dtype), alpha=scale).to(base.dtype)
        return self.kind.execution.added_to(self, wide, scale).to(base.dtype)

    def add_into(self, parameter: Tensor, scale: float) -> None:
        """Add scale x increment to a parameter in place, as `added_to` does.

        Args:
            parameter: The stored parameter.
            scale: Scale s of the update: W + s dW.

        Raises:
            AdaptError: The parameter is quantised or offloaded, so that it cannot hold the sum.
        """
        if parameter.is_meta and not self.factors.tensors()[0].is_meta:
            raise AdaptError(
                f"cannot merge into {self.view.parameter!r}, which is offloaded",
                cause="accelerate keeps its values elsewhere, and loads them for a call",
                fix="accelerate.hooks.remove_hook_from_module(model, recurse=True), then adapter.merge()",
            )
        if is_quantized(parameter):
            raise AdaptError(
                f"cannot merge into {self.view.parameter!r}, which is quantised ({type(parameter).__name__})",
                cause="the sum would be rounded to its few bits",
                fix="keep the adapter unmerged, or load it into the model before it is quantised, and merge there",
            )
        with torch.no_grad(), without_autocast(parameter.device):
            if parameter.dtype == self.wide:
                self.kind.execution.add_into(self, parameter, scale)
            else:
                parameter.copy_(self.added_to(parameter, scale))

    # ------------------------------------------------------------------------------------ interface of execution modes

    @property
    def wide(self) -> torch.dtype:
        """Dtype in which the increment is formed: that of the factors, at least fp32."""
        return torch.promote_types(self.factors.dtype, torch.float32)

    @property
    def drops(self) -> bool:
        """Whether dropout is active in this call."""
        return self._may_drop and self.factors.training

    @property
    def drops_entries(self) -> bool:
        """Whether dropout of the increment's entries is active in this call; the increment must then be formed."""
        return self._may_drop and bool(self.dropout.increment) and self.factors.training

    def masks(self, drop: bool) -> Masks:
        """Draw dropout masks for the cores; None if `drop` is False or dropout is inactive."""
        if not drop or not self.drops:
            return None
        return self.dropout.masks(self.factors.applied, self.factors.tensors())

    def parts(self, masks: Masks) -> list[Tensor]:
        """Return this parameter's slices of the cores, multiplied by the masks, in at least fp32."""
        cores = self.factors.tensors()
        if masks is not None or composable(*cores):
            kept = [c if m is None else c * m for c, m in zip(cores, masks or [None] * len(cores), strict=True)]
            return [part.to(self.wide) for part in self.kind.own(self.at, kept)]
        return self._parts(0, self.at, cores, self.wide)

    def matrices(self, cores: Sequence[Tensor], dtype: torch.dtype, scale: float = 1.0) -> Sequence[Tensor]:
        """Return the down matrix and scale times the up matrix, formed once for all parameters of the tensor."""
        if composable(*cores):
            assert self.kind.halves is not None
            down, up = self.kind.halves.matrices(self.parts(None))
            return down, up if scale == 1 else up * scale
        return self._matrices(*self.place, cores, dtype, scale)

    def sums(
        self,
        x: Tensor,
        tokens: int,
        weight: Tensor,
        cores: Sequence[Tensor],
        dtype: torch.dtype,
        scale: float,
        *,
        recorded: bool,
    ) -> tuple[bool, Tensor | None]:
        """Return whether the layer multiplies by its effective weight, and the weight if all layers form it at once."""
        # a sum in a narrow dtype would lose increments of less than half a unit; a trained weight needs its gradient
        if weight.dtype != self.wide or weight.requires_grad:
            return False, None
        own, casts = dtype == weight.dtype, dtype == autocast_dtype(x.device)
        if self._route == "auto" and not (own and x.device.type == "cpu"):  # not measured
            return False, None
        if not (own or casts) or not self.kind.forms(self._route, tokens, recorded=recorded):
            return False, None
        if own and not self.kind.at_once(x.device.type):
            return True, None
        effective = self._sums(self.at, weight, cores, (self.wide, dtype), scale)
        return own or effective is not None, effective

    def applying(self, tokens: int) -> Contraction:
        """Return the contraction of an input with the cores, planned for a number of tokens."""
        return self.kind.applying(tokens)

    def formed(self, masks: Masks) -> Tensor:
        """Return the increment in the parameter's shape, from cores multiplied by the masks."""
        parts = self.parts(masks)
        with without_autocast(parts[0].device):
            return self.view.join(self.kind.forming(parts))


def increments(
    tensor: TensorGroup,
    factors: Factors,
    optimize: Optimize = "auto",
    dropout: Dropout | None = None,
    passes: Passes | None = None,
    made: type[Increment] = Increment,
    *,
    owners: Owners | None = None,
    route: Route = "auto",
) -> Mapping[str, Increment]:
    """Plan the increments of all parameters of a tensor.

    Args:
        tensor: The tensor.
        factors: Its factors.
        optimize: The name of an opt_einsum method, or an optimiser object.
        dropout: Dropout probabilities in training; default: none.
        passes: Forward passes of the model, in which the increments share what is formed.
        made: The class of the increments.
        owners: The modules that hold the parameters; default: unknown, and no effective weights are formed for layers.
        route: The route that was asked for: in a layer's call, `formed` multiplies by the effective weight.

    Returns:
        Increments by parameter name.
    """
    passes = passes or Passes()
    alike: dict[object, list[View]] = {}
    for view in tensor.views:
        network = restricted(factors.applied, tensor.modes, view)
        kept = tuple((axis, positions) for axis, positions in view.kept.items())
        alike.setdefault((view.rule, view.shape, kept, view.transposed, network), []).append(view)
    on = machine(factors.tensors()[0].device)
    kinds = [Kind(factors.applied, tensor.modes, views, optimize, on) for views in alike.values()]
    formed = made.formed_for(kinds, factors, passes, owners or {})
    found = {
        view.parameter: made(factors, kind, (which, at), *formed[which], dropout=dropout, route=route)
        for which, kind in enumerate(kinds)
        for at, view in enumerate(kind.views)
    }
    return {view.parameter: found[view.parameter] for view in tensor.views}
