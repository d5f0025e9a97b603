"""The Gram matrices of all cores of an adapter, and their damped inverses."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from ..adapters import Adapter
from ..adapters.factors import Factors
from ..common.checks import finite_number, of_type
from ..errors import AdaptError
from ..network.environment import Environment


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedCore:
    """One trained core of an adapter and its environment.

    Args:
        factors: The cores of its tensor.
        environment: Its environment in their network.
    """

    factors: Factors
    environment: Environment

    @property
    def name(self) -> str:
        """The core's name."""
        return self.environment.core.name

    @property
    def parameter(self) -> Tensor:
        """The core as it is stored now."""
        return self.factors.named_cores()[self.name]

    def grams(self) -> list[Tensor]:
        """Return the Gram matrix of each branch of the environment, in at least fp32."""
        cores = {name: wide(core.detach()) for name, core in self.factors.named_cores().items()}
        return [branch.matrix(cores) for branch in self.environment.branches]

    def multiply(self, matrices: Sequence[Tensor], values: Tensor) -> Tensor:
        """Multiply values of the core by one matrix for each branch, in at least fp32."""
        return self.environment.multiply(matrices, wide(values))


def trained_cores(adapter: Adapter) -> Iterator[TrainedCore]:
    """Yield every trained core of an adapter.

    Args:
        adapter: The adapter.
    """
    for factors in cast("Mapping[str, Factors]", adapter.factors).values():
        for core in factors.network.cores:
            if factors.named_cores()[core.name].requires_grad:
                yield TrainedCore(factors, Environment.of(factors.network, core.name))


def inverse(gram: Tensor, damping: float, *, relative: bool) -> Tensor:
    """Return the inverse of Gram matrices plus a multiple of the identity, computed in fp64.

    Args:
        gram: The matrices (batch, bonds, bonds).
        damping: The multiple.
        relative: Whether it is a multiple of the mean eigenvalue of each matrix; one of zeros counts as the identity.
    """
    wide, identity = gram.double(), torch.eye(gram.shape[-1], dtype=torch.float64, device=gram.device)
    if relative:
        mean = wide.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
        size = torch.where(mean > 0, mean, 1.0)
    else:
        size = torch.ones((), dtype=torch.float64, device=gram.device)
    factor, _ = torch.linalg.cholesky_ex(wide / size + damping * identity)
    return (torch.cholesky_inverse(factor) / size).to(gram.dtype)


def checked_damping(damping: object, function: str) -> float:
    """Check the argument `damping`, and return it as a plain float.

    Args:
        damping: The value.
        function: The function that takes it, for the message.

    Raises:
        AdaptError: It is not a number above 0.
    """
    return finite_number(
        damping, f"{function}: damping", AdaptError, fits=lambda v: v > 0, expected="a number above 0", example=1e-4
    )


def checked_adapter(adapter: object, function: str) -> Adapter:
    """Check the argument `adapter`; an adapted model stands for its adapter.

    Args:
        adapter: The value.
        function: The function that takes it, for the message.

    Raises:
        AdaptError: It is neither an adapter nor an adapted model.
    """
    if isinstance(adapter, nn.Module) and not isinstance(adapter, Adapter):
        adapter = getattr(adapter, "tensorfact", adapter)
    of_type(adapter, Adapter, f"{function}: adapter", AdaptError, expected="an adapter", example="adapter")
    return cast("Adapter", adapter)


def wide(tensor: Tensor) -> Tensor:
    """Return a tensor in at least fp32.

    Args:
        tensor: The tensor.
    """
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
