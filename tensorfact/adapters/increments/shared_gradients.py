"""The gradient of a matrix that several layers share: summed in one buffer, in the products of the layers."""

from __future__ import annotations

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
        self._run, self._sum = -1, None

    _sum: Tensor | None

    def add(self, product: Callable[[Tensor | None], Tensor]) -> None:
        """Add a layer's gradient.

        Args:
            product: Returns the gradient added to a buffer, in place, or for None in a buffer of its own.
        """
        run = torch._C._current_graph_task_id()
        # a backward pass that ended before the sum was taken, as of a gradient of the input alone, leaves one behind
        self._sum = product(self._sum if self._run == run else None)
        self._run = run

    def taken(self, other: Tensor | None) -> Tensor | None:
        """Return the sum of this backward pass plus a gradient that came by itself, and forget it.

        Args:
            other: The sum of the gradients that layers returned, or None.
        """
        found = self._sum if self._run == torch._C._current_graph_task_id() else None
        self._sum = None
        if found is None or other is None:
            return found if other is None else other
        return found + other


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
