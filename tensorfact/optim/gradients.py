"""Precondition the gradients of an adapter's cores before the step of any optimizer."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch.optim import Optimizer

from ..adapters import Adapter
from ..common.checks import flag, of_type
from ..errors import AdaptError
from .preconditioner import checked_adapter, checked_damping, inverse, trained_cores

AnyOptimizer = TypeVar("AnyOptimizer", bound=Optimizer)


def precondition(
    optimizer: AnyOptimizer, adapter: Adapter, *, damping: float = 1e-2, relative: bool = False
) -> AnyOptimizer:
    """Multiply the gradient of each core by the damped inverse of its Gram matrix before each step of an optimizer.

    The Gram matrix of a core is that of its environment, the network of the other cores: one matrix (rank, rank) for
    each branch of the network. With plain gradient descent and a damping near zero, training then does not depend on
    the bases of the bonds. For LoRA this is Riemannian preconditioned LoRA.

    Args:
        optimizer: Any torch optimizer without a closure, such as `torch.optim.SGD` or `torch.optim.AdamW`. Gradients
            are unscaled by then, as `torch.amp.GradScaler` does it.
        adapter: The adapter whose cores it trains.
        damping: What is added to the diagonal of each Gram matrix.
        relative: Whether `damping` is a multiple of each matrix's mean eigenvalue.

    Returns:
        The same optimizer, with a hook.

    Raises:
        AdaptError: An argument is not of its type, or `damping` is not above 0.

    Source: F. Zhang & M. Pilanci, Riemannian Preconditioned LoRA, ICML 2024, for pairs of matrices; V. Tong, Ma, Chi,
        Accelerating Ill-Conditioned Low-Rank Matrix Estimation via Scaled Gradient Descent, JMLR 2021.

    Examples:
        >>> import torch
        >>> from tensorfact import adapt
        >>> from tensorfact.lab import nano
        >>> from tensorfact.optim import precondition
        >>> model = nano()
        >>> adapter = adapt(model, format="matrix-batch:rank=4")
        >>> optimizer = precondition(torch.optim.SGD(adapter.parameters(), lr=0.1), adapter)
        >>> model(torch.zeros(1, 1, 28, 28)).square().sum().backward()
        >>> optimizer.step()
    """
    of_type(optimizer, Optimizer, "precondition: optimizer", AdaptError, expected="an optimizer", example="optimizer")
    owner = checked_adapter(adapter, "precondition")
    damping = checked_damping(damping, "precondition")
    flag(relative, "precondition: relative", AdaptError)
    cores = list(trained_cores(owner))

    def replace(*_: object) -> None:
        with torch.no_grad():
            # all matrices first: they are those before the step
            for core in cores:
                gradient = core.parameter.grad
                if gradient is not None:
                    inverses = [inverse(gram, damping, relative=relative) for gram in core.grams()]
                    gradient.copy_(core.multiply(inverses, gradient))

    optimizer.register_step_pre_hook(replace)
    return optimizer
