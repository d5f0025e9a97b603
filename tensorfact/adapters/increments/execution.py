"""Execution modes: the interface of how an increment runs in its layer, chosen once when a kind is planned."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ...network import Contraction
from ...plan import View
from ..factors import Factors
from .cache import without_autocast
from .products import Product

Masks = Sequence[Tensor | None] | None
"""Dropout masks of the cores, in the network's order; None for a core without a mask, or if no core has one."""

NOMINAL_TOKENS = 1024
"""Number of tokens for which routes are chosen, and compiled or exported models are planned."""


class Running(Protocol):
    """The interface of an increment, as execution modes use it."""

    view: View
    factors: Factors

    @property
    def wide(self) -> torch.dtype:
        """Dtype in which the increment is formed: that of the factors, at least fp32."""

    @property
    def drops(self) -> bool:
        """Whether dropout is active in this call."""

    def masks(self, drop: bool) -> Masks:
        """Draw dropout masks for the cores; None if `drop` is False or dropout is inactive."""

    def parts(self, masks: Masks) -> list[Tensor]:
        """Return this parameter's slices of the cores, multiplied by the masks."""

    def matrices(self, cores: Sequence[Tensor], dtype: torch.dtype, scale: float = 1.0) -> Sequence[Tensor]:
        """Return the down matrix and scale times the up matrix, formed once for all parameters of the tensor."""

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

    def applying(self, tokens: int) -> Contraction:
        """Return the contraction of an input with the cores, planned for a number of tokens."""

    def formed(self, masks: Masks) -> Tensor:
        """Return the increment in the parameter's shape."""

    def added_to(self, base: Tensor, scale: float, *, drop: bool) -> Tensor:
        """Return base + scale x increment, rounded once to the dtype of `base`."""


class Execution(abc.ABC):
    """An execution mode. Each mode is a file with one class, which holds a plan and no numbers."""

    @abc.abstractmethod
    def linear(
        self, own: Running, product: Product, x: Tensor, weight: Tensor, bias: Tensor | None, scale: float
    ) -> Tensor:
        """Compute a layer with the increment added.

        Args:
            own: The increment.
            product: The layer's own product of input, weight and bias.
            x: The layer's input (..., in).
            weight: The layer's stored weight.
            bias: The layer's bias, or None.
            scale: Scale s of the update: W + s dW.

        Returns:
            The layer's output (..., out).
        """

    @abc.abstractmethod
    def passed(self, own: Running, product: Product, x: Tensor, like: Tensor, masks: Masks) -> Tensor:
        """Return the increment's part of the layer's output, without the scale, in plain differentiable operations.

        Args:
            own: The increment.
            product: The layer's own product of input, weight and bias.
            x: The layer's input (..., in).
            like: The layer's output; the result may take its shape and dtype.
            masks: Dropout masks of the cores.

        Returns:
            The increment's part of the output (..., out).
        """

    def added_to(self, own: Running, base: Tensor, scale: float) -> Tensor:
        """Return base + scale x increment, computed in the dtype of `base`.

        Args:
            own: The increment.
            base: The stored parameter, in at least fp32.
            scale: Scale s of the update: W + s dW.
        """
        with without_autocast(base.device):
            return torch.add(base, own.formed(None).to(base.dtype), alpha=scale)

    def add_into(self, own: Running, parameter: Tensor, scale: float) -> None:
        """Add scale x increment to a parameter of at least fp32 in place, as `added_to` does.

        Args:
            own: The increment.
            parameter: The stored parameter.
            scale: Scale s of the update: W + s dW.
        """
        parameter.copy_(self.added_to(own, parameter, scale))
