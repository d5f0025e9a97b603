"""How an increment runs in its layer: the contract of an execution mode, chosen once when a kind is planned."""

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

Masks = Sequence[Tensor | None] | None
"""What cores are multiplied with; None for a core, or for all, that are kept whole."""

NOMINAL_TOKENS = 1024
"""Tokens that the route of a weight is chosen for, and a compiled or exported model planned for."""


class Product(Protocol):
    """A layer's own product."""

    def __call__(self, input: Tensor, weight: Tensor, bias: Tensor | None, /) -> Tensor:
        """Return what the layer makes of an input (..., in): (..., out)."""


class Running(Protocol):
    """What an execution mode asks of the increment that it runs."""

    view: View
    factors: Factors

    @property
    def wide(self) -> torch.dtype:
        """The dtype in which the increment is formed: the factors' own, at least fp32."""

    @property
    def drops(self) -> bool:
        """Whether parts of the cores are dropped in this call."""

    def masks(self, drop: bool) -> Masks:
        """Draw what the cores are multiplied with; None where nothing is dropped."""

    def parts(self, masks: Masks) -> list[Tensor]:
        """Return this parameter's parts of the cores."""

    def matrices(self, cores: Sequence[Tensor], dtype: torch.dtype) -> Sequence[Tensor]:
        """Return the two matrices of the cut, formed once for all parameters of the kind."""

    def applying(self, tokens: int) -> Contraction:
        """Return the order in which an input of so many tokens meets the cores."""

    def formed(self, masks: Masks) -> Tensor:
        """Return the increment in the parameter's shape."""

    def added_to(self, base: Tensor, scale: float, *, drop: bool) -> Tensor:
        """Return base + scale x increment, rounded once to the dtype of `base`."""


class Execution(abc.ABC):
    """One way to run an increment. A mode is one file with one object, which holds its plan and no numbers."""

    @abc.abstractmethod
    def linear(
        self, own: Running, product: Product, x: Tensor, weight: Tensor, bias: Tensor | None, scale: float
    ) -> Tensor:
        """Do what a linear layer does, with the increment added.

        Args:
            own: The increment.
            product: The layer's own product of input, weight and bias.
            x: The layer's input (..., in).
            weight: Its stored weight.
            bias: Its bias, if it has one.
            scale: Scale s of the update: W + s dW.

        Returns:
            The layer's output (..., out).
        """

    @abc.abstractmethod
    def passed(self, own: Running, x: Tensor, like: Tensor, masks: Masks) -> Tensor:
        """Return what the increment alone makes of an input, in plain differentiable operations.

        Args:
            own: The increment.
            x: The layer's input (..., in).
            like: The layer's output, whose shape and dtype the result may take.
            masks: What the cores are multiplied with.

        Returns:
            The increment's share of the output (..., out).
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
