"""The increment of one parameter: formed, or run in its layer by the mode that is planned for its kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...network import Contraction, Dropout, machine
from ...plan import TensorGroup
from ...plan.slices import restricted
from ..factors import Factors
from .cache import Formed, Passes, composable, without_autocast
from .execution import Execution, Masks, Product
from .formed_weight import FormedWeight
from .planned import Kind

_FORMED: Execution = FormedWeight()


class Increment:
    """The increment of one parameter: its part of the factors, formed or applied.

    Args:
        factors: The factors of the tensor that the parameter is in.
        kind: What is planned for this parameter and those that share its contraction plan.
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
        mode = _FORMED if x.is_nested or self.drops_entries else self.kind.execution
        return mode.linear(self, product, x, weight, bias, scale)

    def dense(self, *, drop: bool = False) -> Tensor:
        """Return the increment in the parameter's shape, in at least fp32, whatever autocast is in force.

        Args:
            drop: Apply the dropout, if the factors are in training mode.
        """
        formed = self.formed(self.masks(drop))
        return nn.functional.dropout(formed, self.dropout.increment) if drop and self.drops_entries else formed

    def added_to(self, base: Tensor, scale: float, *, drop: bool = False) -> Tensor:
        """Return base + scale x increment, computed in at least fp32 and rounded once.

        Args:
            base: The stored parameter.
            scale: Scale s of the update: W + s dW.
            drop: Apply the dropout, if the factors are in training mode.
        """
        wide = base.to(torch.promote_types(base.dtype, self.wide))
        if drop and self.drops:
            return torch.add(wide, self.dense(drop=True).to(wide.dtype), alpha=scale).to(base.dtype)
        return self.kind.execution.added_to(self, wide, scale).to(base.dtype)

    def add_into(self, parameter: Tensor, scale: float) -> None:
        """Add scale x increment to a parameter in place, as `added_to` does.

        Args:
            parameter: The stored parameter.
            scale: Scale s of the update: W + s dW.
        """
        with torch.no_grad(), without_autocast(parameter.device):
            if parameter.dtype == self.wide:
                self.kind.execution.add_into(self, parameter, scale)
            else:
                parameter.copy_(self.added_to(parameter, scale))

    # ----------------------------------------------------------------------------------- what execution modes ask for

    @property
    def wide(self) -> torch.dtype:
        """The dtype in which the increment is formed: the factors' own, at least fp32."""
        return torch.promote_types(self.factors.dtype, torch.float32)

    @property
    def drops(self) -> bool:
        """Whether anything is dropped in this call."""
        return self._may_drop and self.factors.training

    @property
    def drops_entries(self) -> bool:
        """Whether entries of the increment are dropped in this call, for which it has to be formed."""
        return self._may_drop and bool(self.dropout.increment) and self.factors.training

    def masks(self, drop: bool) -> Masks:
        """Draw what the cores are multiplied with; None where nothing of them is dropped."""
        if not drop or not self.drops:
            return None
        return self.dropout.masks(self.factors.network, self.factors.tensors())

    def parts(self, masks: Masks) -> list[Tensor]:
        """Return this parameter's parts of the cores, in at least fp32."""
        cores = self.factors.tensors()
        if masks is not None or composable(*cores):
            kept = [c if m is None else c * m for c, m in zip(cores, masks or [None] * len(cores), strict=True)]
            return [part.to(self.wide) for part in self.kind.own(self.at, kept)]
        return self._parts(self.at, cores, self.wide)

    def matrices(self, cores: Sequence[Tensor], dtype: torch.dtype) -> Sequence[Tensor]:
        """Return the two matrices of the cut, formed once for all parameters of the kind."""
        if composable(*cores):
            assert self.kind.halves is not None
            return self.kind.halves.matrices(self.parts(None))
        return self._matrices(self.at, cores, dtype)

    def applying(self, tokens: int) -> Contraction:
        """Return the order in which an input of so many tokens meets the cores."""
        return self.kind.applying(tokens)

    def formed(self, masks: Masks) -> Tensor:
        """Return the increment in the parameter's shape, of cores that are multiplied with masks."""
        parts = self.parts(masks)
        with without_autocast(parts[0].device):
            return self.view.join(self.kind.forming(parts))


def increments(
    tensor: TensorGroup,
    factors: Factors,
    optimize: Any = "auto",
    dropout: Dropout | None = None,
    passes: Passes | None = None,
) -> Mapping[str, Increment]:
    """Plan the increments of all parameters of a tensor.

    Args:
        tensor: The tensor.
        factors: Its factors.
        optimize: The order's optimiser: anything opt_einsum accepts.
        dropout: As in `Increment`.
        passes: The passes through the model, within which they share what is formed.

    Returns:
        Increments by parameter name.
    """
    passes = passes or Passes()
    alike: dict[object, list[Any]] = {}
    for view in tensor.views:
        network = restricted(factors.network, tensor.modes, view)
        kept = tuple((axis, positions) for axis, positions in view.kept.items())
        alike.setdefault((view.rule, view.shape, kept, view.transposed, network), []).append(view)
    on = machine(factors.tensors()[0].device)
    found = {}
    for views in alike.values():
        kind = Kind(factors.network, tensor.modes, views, optimize, on)
        parts, matrices = kind.formed_parts(passes), kind.formed_matrices(passes)
        for at, view in enumerate(views):
            found[view.parameter] = Increment(factors, kind, at, parts, matrices, dropout=dropout)
    return {view.parameter: found[view.parameter] for view in tensor.views}
