"""The product of a mixed batch with the cores of its samples' tasks, added to a layer's output."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from ...network import Contraction, Network, plan_contraction
from ...network.cost import Machine
from ...network.order import Optimize

SAMPLE = "(sample)"
"""The leg over the samples of a mixed batch; no mode or bond has this name."""


@dataclasses.dataclass(frozen=True)
class _LastStep:
    """The last product of a contraction as one of matrices, for each sample or for all.

    Args:
        left: The order of the dimensions of the operand with the tokens: those that stay, then the summed ones.
        right: The order of the dimensions of the other one: the sample if it has one, the summed ones, those that stay.
        swapped: Whether the operand with the tokens comes second.
        summed: The number of summed dimensions.
        batched: Whether the other operand has a matrix for each sample.
    """

    left: tuple[int, ...]
    right: tuple[int, ...]
    swapped: bool
    summed: int
    batched: bool

    @classmethod
    def of(cls, equation: str) -> _LastStep | None:
        """Return the product that an einsum computes, whose result has samples and tokens in front; None for others.

        Args:
            equation: The einsum.
        """
        operands, result = equation.split("->")
        first, *others = operands.split(",")
        if len(others) != 1:
            return None
        swapped = result[1] not in first
        left, right = (others[0], first) if swapped else (first, others[0])
        summed = [letter for letter in left if letter not in result]
        batched = result[0] in right
        stays = [letter for letter in result if letter in left]
        rest = [letter for letter in result if letter in right and letter != result[0]]
        plain = set(left) == {*stays, *summed} and set(right) == {*summed, *rest, *(result[0] if batched else "")}
        if [*stays, *rest] != list(result) or not plain or not summed or not rest:
            return None
        return cls(
            tuple(map(left.index, (*stays, *summed))),
            tuple(map(right.index, (*(result[0] if batched else ""), *summed, *rest))),
            swapped,
            len(summed),
            batched,
        )

    def added(self, y: Tensor, operands: Sequence[Tensor], scale: float) -> Tensor:
        """Return y + scale * product; in place where no gradient is recorded."""
        left, right = reversed(operands) if self.swapped else operands
        left, right = left.permute(self.left), right.permute(self.right)
        size = left.shape[left.dim() - self.summed :].numel()
        columns = right.shape[self.batched + self.summed :].numel()
        if self.batched:
            shapes: tuple[tuple[int, ...], ...] = ((len(left), -1, columns), (len(left), -1, size), (-1, size, columns))
        else:
            shapes = ((-1, columns), (-1, size), (size, columns))
        own, *factors = (each.reshape(shape) for each, shape in zip((y, left, right), shapes, strict=True))
        if _recorded(own, *factors):
            found = (torch.baddbmm if self.batched else torch.addmm)(own, *factors, alpha=scale)
        else:
            found = (own.baddbmm_ if self.batched else own.addmm_)(*factors, alpha=scale)
        return found.reshape(y.shape)


def _recorded(*tensors: Tensor) -> bool:
    tracked = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    return tracked or torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


@dataclasses.dataclass(frozen=True)
class MixedProduct:
    """The contraction of a layer's input with the cores of each sample's task, planned for one size of batch.

    Args:
        contraction: The contraction; its result has samples and tokens in front.
        last: Its last step as a product of matrices; None if it is none.
    """

    contraction: Contraction
    last: _LastStep | None

    @classmethod
    def of(cls, network: Network, optimize: Optimize, on: Machine) -> MixedProduct:
        """Plan the contraction of a network.

        Args:
            network: The network of the input and the cores.
            optimize: As in `plan_contraction`.
            on: The machine to predict times for.
        """
        contraction = plan_contraction(network, optimize, on)
        return cls(contraction, _LastStep.of(contraction.steps[-1].equation))

    def added(self, y: Tensor, operands: Sequence[Tensor], scale: float) -> Tensor:
        """Return y + scale * the contraction, in one pass over the output if the last step is a product of matrices.

        Args:
            y: The layer's output, contiguous; it may be overwritten.
            operands: The input and the cores, in the network's order.
            scale: Scale s of the update: W + s dW.
        """
        if self.last is None or not y.is_contiguous():
            return torch.add(y, self.contraction(operands).reshape(y.shape), alpha=scale)
        return self.last.added(y, self.contraction.before_last(operands), scale)
