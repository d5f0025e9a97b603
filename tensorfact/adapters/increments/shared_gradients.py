"""The gradient of a matrix that several layers share: summed in one buffer, in the products of the layers."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

_NAME = "_tensorfact_shared_gradient"


class SharedGradient:
    """Sums the gradients of one matrix over the layers that use it, within one backward pass.

    Each layer adds its product to the buffer in the product itself, and returns no gradient; the node that formed the
    matrix, which runs after all of them, takes the sum. Autograd would add full gradients, one launch for each layer.
    """

    def __init__(self) -> None:
        self._sums: dict[int, Tensor] = {}  # by backward pass, which may run inside or beside another one

    def add(self, product: Callable[[Tensor | None], Tensor]) -> None:
        """Add a layer's gradient.

        Args:
            product: Returns the gradient added to a buffer, in place, or for None in a buffer of its own.
        """
        run = torch._C._current_graph_task_id()
        if run not in self._sums:  # a pass may end before the sum is taken, as one for the gradient of the input alone
            torch.autograd.Variable._execution_engine.queue_callback(functools.partial(self._forget, run))
        self._sums[run] = product(self._sums.get(run))

    def taken(self, other: Tensor | None) -> Tensor | None:
        """Return the sum of this backward pass plus a gradient that came by itself, and forget it.

        Args:
            other: The sum of the gradients that layers returned, or None.
        """
        found = self._sums.pop(torch._C._current_graph_task_id(), None)
        if found is None or other is None:
            return found if other is None else other
        return found + other

    def _forget(self, run: int) -> None:
        self._sums.pop(run, None)


def share(matrix: Tensor) -> SharedGradient:
    """Let layers that use a matrix add to one gradient.

    Args:
        matrix: The matrix, formed in a pass.
    """
    shared = SharedGradient()
    setattr(matrix, _NAME, shared)
    return shared


def shared_of(matrix: Tensor) -> SharedGradient | None:
    """Return the shared gradient of a matrix; None if it belongs to one layer.

    Args:
        matrix: A matrix as a layer gets it.
    """
    return getattr(matrix, _NAME, None)
