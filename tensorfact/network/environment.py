"""The environment of a core: the network without it, contracted with itself to a norm or to Gram matrices."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from .network import Core, Network
from .order import plan_contraction

_TWIN = "'"


@dataclasses.dataclass(frozen=True)
class Branch:
    """A part of an environment that shares no leg with the others, and its Gram matrix as a network.

    Args:
        cores: Names of the cores.
        batch: Open legs of the core that the part also has: there is one matrix for each of their coordinates.
        bonds: Legs of the core that are summed: the rows of the matrix.
        gram: The cores contracted with themselves, with the legs (batch, bonds, twins of the bonds).
        energy: The same with the trace taken, with the legs `batch`.
    """

    cores: tuple[str, ...]
    batch: tuple[str, ...]
    bonds: tuple[str, ...]
    gram: Network
    energy: Network

    def matrix(self, cores: Mapping[str, Tensor]) -> Tensor:
        """Return the Gram matrix (batch, bonds, bonds): of shape (1, bonds, bonds) without a batch.

        Args:
            cores: The cores of the network by name.
        """
        found = self._contracted(self.gram, cores)
        rows = math.prod(self.gram.shape(self.bonds))
        return found.reshape(-1, rows, rows)

    def trace(self, cores: Mapping[str, Tensor]) -> Tensor:
        """Return the trace of the Gram matrix, one dimension per leg of `batch`.

        Args:
            cores: The cores of the network by name.
        """
        return self._contracted(self.energy, cores)

    def _contracted(self, network: Network, cores: Mapping[str, Tensor]) -> Tensor:
        once = [cores[name] for name in self.cores]
        return plan_contraction(network)([*once, *once])


@dataclasses.dataclass(frozen=True)
class Environment:
    """The environment of a core: what its entries are multiplied by in the tensor, which is linear in them.

    Its Gram matrix is the Hessian of half the tensor's squared norm with respect to the core. It is a Kronecker product
    of one matrix for each part of the network that falls apart once the core is taken out.

    Args:
        core: The core.
        branches: The parts of the environment that share no leg; none if the network has no other core.
        share: Entries of the core for one row of the Gram matrices, over the number of elements of the tensor.

    Examples:
        >>> from tensorfact import TensorTrain
        >>> from tensorfact.network import Mode
        >>> modes = (Mode("layer", 12, "stack"), Mode("in", 64, "in"), Mode("out", 64, "out"))
        >>> environment = Environment.of(TensorTrain(rank=4).network(modes), "S1")
        >>> [(branch.cores, branch.bonds) for branch in environment.branches]
        [(('U',), ('_1',)), (('V',), ('_2',))]
    """

    core: Core
    branches: tuple[Branch, ...]
    share: float

    @classmethod
    def of(cls, network: Network, name: str) -> Environment:
        """Return the environment of one of a network's cores.

        Args:
            network: The network.
            name: The name of the core.
        """
        core = next(each for each in network.cores if each.name == name)
        others = [each for each in network.cores if each is not core]
        shared = {leg for other in others for leg in other.legs}
        own = [leg for leg in core.legs if leg not in shared]
        batch = tuple(leg for leg in core.legs if leg in shared and leg in network.output)
        bonds = tuple(leg for leg in core.legs if leg in shared and leg not in network.output)
        branches = tuple(_branch(network, cores, batch, bonds) for cores in _apart(others, batch))
        return cls(core, branches, math.prod(network.shape(own)) / math.prod(network.shape(network.output)))

    def multiply(self, matrices: Sequence[Tensor], values: Tensor) -> Tensor:
        """Multiply values of the core by one symmetric matrix for each part, along its bonds.

        Args:
            matrices: For each part, a matrix of the shape of its Gram matrix.
            values: A tensor in the shape of the core.
        """
        for branch, matrix in zip(self.branches, matrices, strict=True):
            first, last = ([self.core.legs.index(leg) for leg in legs] for legs in (branch.batch, branch.bonds))
            order = [*first, *(dim for dim in range(values.ndim) if dim not in {*first, *last}), *last]
            moved = values.permute(order)
            product = moved.reshape(len(matrix), -1, matrix.shape[-1]) @ matrix
            values = product.reshape(moved.shape).permute([order.index(dim) for dim in range(values.ndim)])
        return values

    def own_gram(self, at: int, matrices: Sequence[Tensor], values: Tensor) -> Tensor:
        """Return the Gram matrix of the core with all other parts of its environment, at the bonds to one part.

        The eigenvalues of its product with the Gram matrix of that part are the squared singular values of the tensor
        at these bonds, in any gauge.

        Args:
            at: The position of the part.
            matrices: The Gram matrix of each part.
            values: The core.

        Returns:
            The matrix (batch, bonds, bonds), as `Branch.matrix` arranges it.
        """
        branch = self.branches[at]
        identity = torch.eye(matrices[at].shape[-1], dtype=values.dtype, device=values.device)
        others = [identity.expand_as(matrix) if index == at else matrix for index, matrix in enumerate(matrices)]
        first = [self.core.legs.index(leg) for leg in (*branch.batch, *branch.bonds)]
        order = [*first, *(dim for dim in range(values.ndim) if dim not in first)]
        shape = (len(matrices[at]), matrices[at].shape[-1], -1)
        left, right = (each.permute(order).reshape(shape) for each in (values, self.multiply(others, values)))
        return left @ right.mT

    def rms(self, cores: Mapping[str, Tensor]) -> float:
        """Return the root mean square of the tensor when the core's entries are independent, of mean 0 and variance 1.

        Args:
            cores: The cores of the network by name.
        """
        if not self.branches:
            return math.sqrt(self.share)
        wide = {name: core.detach().double() for name, core in cores.items()}
        batch = dict.fromkeys(leg for branch in self.branches for leg in branch.batch)
        letters = {leg: index for index, leg in enumerate(batch)}
        traces = [(branch.trace(wide), [letters[leg] for leg in branch.batch]) for branch in self.branches]
        energy = float(torch.einsum(*(operand for trace in traces for operand in trace), []))
        return math.sqrt(max(energy, 0.0) * self.share)


def _apart(cores: Sequence[Core], batch: Iterable[str]) -> list[list[Core]]:
    """Group cores that are connected by a leg other than a batch leg, in their order."""
    groups: list[list[Core]] = []
    for core in cores:
        legs = set(core.legs) - set(batch)
        joined = [group for group in groups if any(legs & set(other.legs) for other in group)]
        merged = [*(other for group in joined for other in group), core]
        groups = [group for group in groups if group not in joined] + [merged]
    return groups


def _branch(network: Network, cores: Sequence[Core], batch: Sequence[str], bonds: Sequence[str]) -> Branch:
    legs = {leg for core in cores for leg in core.legs}
    own_batch, own_bonds = (tuple(leg for leg in each if leg in legs) for each in (batch, bonds))
    twins = tuple(leg + _TWIN for leg in own_bonds)
    gram = _doubled(network, cores, {*network.output}, (*own_batch, *own_bonds, *twins))
    energy = _doubled(network, cores, {*network.output, *own_bonds}, own_batch)
    return Branch(tuple(core.name for core in cores), own_batch, own_bonds, gram, energy)


def _doubled(network: Network, cores: Sequence[Core], common: set[str], output: tuple[str, ...]) -> Network:
    """Return cores and their twins as one network, in which all legs but the `common` ones are doubled."""
    plain = tuple(Core(core.name, core.legs) for core in cores)
    twins = tuple(
        Core(core.name + _TWIN, tuple(leg if leg in common else leg + _TWIN for leg in core.legs)) for core in cores
    )
    sizes = {leg: network.sizes[leg] for core in plain for leg in core.legs}
    sizes |= {leg + _TWIN: size for leg, size in sizes.items() if leg not in common}
    return Network((*plain, *twins), output, sizes)
