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

    def own_grams(self, grams: Sequence[Tensor]) -> list[Tensor]:
        """Return for each branch the Gram matrix of the core with all other branches, in at least fp32.

        Args:
            grams: What `grams` returns.
        """
        core = wide(self.parameter.detach())
        return [self.environment.own_gram(at, grams, core) for at in range(len(grams))]

    def multiply(self, matrices: Sequence[Tensor], values: Tensor) -> Tensor:
        """Multiply values of the core by one matrix for each branch, in at least fp32."""
        return self.environment.multiply(matrices, wide(values))


def rounding(dtype: torch.dtype) -> float:
    """Return a damping, relative to the mean eigenvalue, that is above the rounding errors of Gram matrices.

    Args:
        dtype: The dtype in which they are contracted.
    """
    return 16 * torch.finfo(dtype).eps


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
    if relative:
        factor, size = _cholesky(gram.double(), damping)
        return (torch.cholesky_inverse(factor) / size).to(gram.dtype)
    identity = torch.eye(gram.shape[-1], dtype=torch.float64, device=gram.device)
    factor, _ = torch.linalg.cholesky_ex(gram.double() + damping * identity)
    return torch.cholesky_inverse(factor).to(gram.dtype)


def damped_inverse(gram: Tensor, own: Tensor, damping: float) -> Tensor:
    """Return the inverse of Gram matrices plus a multiple of the inverses of the core's own, computed in fp64.

    The multiple is `damping` times the mean squared singular value of the tensor at the bond. In the basis in which the
    core's own matrix is the identity, the other one is diagonal, with the squared singular values, and the multiple is
    added to each of them. So the result does not depend on the basis of the bond. Without the damping, directions in
    which the tensor is nearly zero would get steps of any length in the core.

    Args:
        gram: The Gram matrices of a part of the core's environment (batch, bonds, bonds).
        own: Those of the core with all other parts, `Environment.own_gram`.
        damping: The multiple of the mean squared singular value.
    """
    basis, size = _cholesky(own.double(), rounding(own.dtype))
    basis = basis * size.sqrt()
    factor, most = _cholesky(basis.mT @ gram.double() @ basis, damping)
    return (basis @ (torch.cholesky_inverse(factor) / most) @ basis.mT).to(gram.dtype)


def _cholesky(matrix: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """Return the Cholesky factor of a damped matrix over its mean eigenvalue, and that; one of zeros counts as zero."""
    mean = matrix.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
    size = torch.where(mean == 0, 1.0, mean)  # not of NaN, which is passed on
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    factor, failed = torch.linalg.cholesky_ex(matrix / size + damping * identity)
    return torch.where(failed[:, None, None] > 0, torch.nan, factor), size


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
    of_type(adapter, Adapter, f"{function}: adapter", AdaptError, expected="an adapter", example="model.tensorfact")
    return cast("Adapter", adapter)


def wide(tensor: Tensor) -> Tensor:
    """Return a tensor in at least fp32.

    Args:
        tensor: The tensor.
    """
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
