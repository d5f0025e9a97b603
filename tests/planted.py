"""Faults planted in formats, several for each way to go wrong: the conformance kit has to find every one of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tensorfact import Format, MatrixBatch, TensorTrain, Tucker
from tensorfact.formats import Decomposition
from tensorfact.network import Core, Mode, Network

Cores = Mapping[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Two(Format):
    """The format of the documentation, without a fault: a matrix from the inputs and one to everything else."""

    rank: int = 2

    def network(self, modes: Sequence[Mode]) -> Network:
        inputs = tuple(mode.name for mode in modes if mode.side == "in")
        rest = tuple(mode.name for mode in modes if mode.side != "in")
        cores = (Core("A", (*inputs, "_r")), Core("B", ("_r", *rest), "zero"))
        sizes = {mode.name: mode.size for mode in modes} | {"_r": self.rank}
        return Network(cores, tuple(mode.name for mode in modes), sizes)


# ------------------------------------------------------------------------------------------------------- factorization


def other_order(order: Callable[[list[int]], list[int]]) -> type[Format]:
    """Return a format that decomposes a permuted tensor wherever the sizes do not show it."""

    @dataclasses.dataclass(frozen=True)
    class Permuted(TensorTrain):
        def factorize(self, tensor: Tensor, modes: Sequence[Mode]) -> dict[str, Tensor]:
            permuted = tensor.permute(order(list(range(tensor.ndim))))
            return super().factorize(permuted if permuted.shape == tensor.shape else tensor, modes)

    return Permuted


@dataclasses.dataclass(frozen=True)
class StacksSwapped(TensorTrain):
    """Two stack modes of equal size change places."""

    def factorize(self, tensor: Tensor, modes: Sequence[Mode]) -> dict[str, Tensor]:
        first, *others = [at for at, mode in enumerate(modes) if mode.side == "stack"] or [0]
        for other in others:
            if tensor.shape[first] == tensor.shape[other]:
                tensor = tensor.transpose(first, other)
        return super().factorize(tensor, modes)


def refitted(change: Callable[[dict[str, Tensor]], Cores], base: type[Format] = TensorTrain) -> type[Format]:
    """Return a format that changes the cores of a decomposition."""

    @dataclasses.dataclass(frozen=True)
    class Refitted(base):  # type: ignore[misc, valid-type]  # the class is an argument
        def factorize(self, tensor: Tensor, modes: Sequence[Mode]) -> Cores:
            return change(dict(super().factorize(tensor, modes)))

    return Refitted


def computed(convert: Callable[[Tensor], Tensor], base: type[Format] = TensorTrain) -> type[Format]:
    """Return a format that decomposes a converted tensor, and returns the cores in the dtype of the original."""

    @dataclasses.dataclass(frozen=True)
    class Converted(base):  # type: ignore[misc, valid-type]  # the class is an argument
        def factorize(self, tensor: Tensor, modes: Sequence[Mode]) -> Cores:
            return {name: core.to(tensor) for name, core in super().factorize(convert(tensor), modes).items()}

    return Converted


def last(cores: dict[str, Tensor], change: Callable[[Tensor], Tensor]) -> Cores:
    name = list(cores)[-1]
    return {**cores, name: change(cores[name])}


def unit(cores: dict[str, Tensor]) -> Cores:
    return {name: core / core.norm() for name, core in cores.items()}


def spanned(columns: Callable[[Tensor, int], Tensor]) -> type[Format]:
    """Return a format whose first core is a function of the matrix and the rank, and whose second is fitted to it."""

    @dataclasses.dataclass(frozen=True)
    class Spanned(Two):
        def factorize(self, tensor: Tensor, modes: Sequence[Mode]) -> Cores:
            inputs = [at for at, mode in enumerate(modes) if mode.side == "in"]
            rest = [at for at, mode in enumerate(modes) if mode.side != "in"]
            sizes = [[tensor.shape[at] for at in part] for part in (inputs, rest)]
            matrix = tensor.permute(inputs + rest).flatten(0, len(inputs) - 1).flatten(1)
            left = columns(matrix, self.rank).to(tensor.dtype)
            return {"A": left.reshape(*sizes[0], self.rank), "B": (left.mT @ matrix).reshape(self.rank, *sizes[1])}

    return Spanned


def left_of(matrix: Tensor, rank: int) -> Tensor:
    left, _, _ = torch.linalg.svd(matrix, full_matrices=False)
    leading: Tensor = left[:, :rank]
    return leading


def one_turned(matrix: Tensor, rank: int) -> Tensor:
    left = left_of(matrix, rank)
    if rank > 1:
        left = torch.stack([(left[:, 0] + 0.1 * left[:, 1]) / 1.01**0.5, *torch.zeros_like(left.mT[1:])], dim=1)
    return left


@dataclasses.dataclass(frozen=True)
class OtherDevice(TensorTrain):
    """The result is on a device of its own."""

    def decompose(self, *arguments: Any, **options: Any) -> Decomposition:
        found = super().decompose(*arguments, **options)
        return dataclasses.replace(found, cores={name: core.to("meta") for name, core in found.cores.items()})


# ------------------------------------------------------------------------------------------------------ masks, starts


def holed(hole: Callable[[Tensor], Tensor]) -> type[Format]:
    """Return a format with a given core of zeros and ones, of the shape of `A`, which it masks."""

    @dataclasses.dataclass(frozen=True)
    class Masked(Two):
        def network(self, modes: Sequence[Mode]) -> Network:
            network = super().network(modes)
            mask = Core("M", network.cores[0].legs, "given", trained=False)
            return dataclasses.replace(network, cores=(network.cores[0], mask, network.cores[1]))

        def given(self, modes: Sequence[Mode]) -> Cores:
            return {"M": hole(torch.ones(self.network(modes).shapes()["M"]))}

    return Masked


def half(mask: Tensor) -> Tensor:
    mask[: max(len(mask) // 2, 1)] = 0
    return mask


def one(mask: Tensor) -> Tensor:
    mask.view(-1)[-1] = 0
    return mask


def component(mask: Tensor) -> Tensor:
    mask[..., -1] = 0
    return mask


def between(values: Callable[[int], Tensor]) -> type[Format]:
    """Return a format with a given matrix between its two cores."""

    @dataclasses.dataclass(frozen=True)
    class Between(Two):
        def network(self, modes: Sequence[Mode]) -> Network:
            first, second = super().network(modes).cores
            cores = (first, Core("M", ("_r", "_s"), "given", trained=False), second)
            cores = (*cores[:2], dataclasses.replace(second, legs=("_s", *second.legs[1:])))
            sizes = {mode.name: mode.size for mode in modes} | {"_r": self.rank, "_s": self.rank}
            return Network(cores, tuple(mode.name for mode in modes), sizes)

        def given(self, modes: Sequence[Mode]) -> Cores:
            return {"M": values(self.rank)}

    return Between


def started(starts: Callable[[Sequence[Mode], int], Mapping[str, str]]) -> type[Format]:
    """Return a format with other starts."""

    @dataclasses.dataclass(frozen=True)
    class Elsewhere(Two):
        def network(self, modes: Sequence[Mode]) -> Network:
            network, other = super().network(modes), starts(modes, self.rank)
            cores = [dataclasses.replace(core, start=other.get(core.name, core.start)) for core in network.cores]
            return dataclasses.replace(network, cores=tuple(cores))

    return Elsewhere


# --------------------------------------------------------------------------------------------------------- given, count


def giving(change: Callable[[Tensor], Any], *, name: str = "M", trained: bool = False) -> type[Format]:
    """Return a format that gives something else than what its network asks for."""

    @dataclasses.dataclass(frozen=True)
    class Gives(between(torch.eye)):  # type: ignore[misc]  # the class is made here
        def network(self, modes: Sequence[Mode]) -> Network:
            network: Network = super().network(modes)
            first, middle, second = network.cores
            return dataclasses.replace(network, cores=(first, dataclasses.replace(middle, trained=trained), second))

        def given(self, modes: Sequence[Mode]) -> Cores:
            return {name: change(torch.eye(self.rank))}

    return Gives


def counted(count: Callable[[Network, Sequence[Mode]], int]) -> type[Format]:
    """Return a format with a count of its own."""

    @dataclasses.dataclass(frozen=True)
    class Counts(Two):
        def num_parameters(self, modes: Sequence[Mode]) -> int:
            return count(self.network(modes), modes)

    return Counts


class Uncounted(Network):
    """A network that counts its cores, not their elements."""

    @property
    def num_parameters(self) -> int:
        return len(self.cores)


@dataclasses.dataclass(frozen=True)
class CountsCores(Two):
    """Its network has a count of its own."""

    def network(self, modes: Sequence[Mode]) -> Network:
        network = super().network(modes)
        return Uncounted(network.cores, network.output, network.sizes)


def kinds() -> Iterator[tuple[str, str, type[Format]]]:
    """Yield the law that a fault breaks, the fault, and the format that has it."""
    order = "sign and size"
    yield order, "square slices transposed", other_order(lambda dims: [*dims[:-2], dims[-1], dims[-2]])
    yield order, "modes of equal size reversed", other_order(lambda dims: dims[::-1])
    yield order, "first two modes of equal size swapped", other_order(lambda dims: [dims[1], dims[0], *dims[2:]])
    yield order, "stack modes of equal size swapped", StacksSwapped
    yield order, "sign lost", refitted(lambda cores: last(cores, torch.abs))
    yield order, "sign lost in a Tucker", refitted(lambda cores: last(cores, torch.neg), Tucker)
    yield order, "scale lost", refitted(unit)
    yield order, "scale lost in a matrix batch", refitted(lambda cores: last(cores, lambda core: core / 2), MatrixBatch)
    yield order, "a little too large", refitted(lambda cores: last(cores, lambda core: core * 1.1))

    learns = "every core learns"
    yield learns, "half of a core masked", holed(half)
    yield learns, "one entry masked", holed(one)
    yield learns, "one component of the rank masked", holed(component)
    yield learns, "all of a core masked", holed(torch.zeros_like)
    yield learns, "one bond closed", between(lambda rank: torch.diag(torch.arange(rank).clamp(max=1).float()))
    yield learns, "components that learn alike", started(lambda modes, rank: {"A": "constant:0.5"})

    zero = "zero start"
    yield zero, "small numbers", started(lambda modes, rank: {"B": "normal:0.001"})
    yield zero, "a small constant", started(lambda modes, rank: {"B": "constant:1e-6"})
    yield zero, "above rank 1", started(lambda modes, rank: {"B": "normal"} if rank > 1 else {})
    yield zero, "with a stack", started(lambda modes, rank: {"B": "normal"} if len(modes) > 4 else {})
    yield zero, "without a stack", started(lambda modes, rank: {"B": "xavier"} if len(modes) == 2 else {})

    precise = "dtype and device kept"
    yield precise, "computed in fp32", computed(Tensor.float)
    yield precise, "computed in bf16 steps", computed(lambda tensor: tensor.bfloat16().double(), MatrixBatch)
    yield precise, "numpy in fp32", computed(lambda t: torch.from_numpy(t.numpy().astype(np.float32)), Tucker)
    yield precise, "stored in fp32", refitted(lambda cores: last(cores, lambda core: core.float().to(core.dtype)))
    yield precise, "one core computed in fp32", spanned(lambda matrix, rank: left_of(matrix.float(), rank))
    yield precise, "another device", OtherDevice

    falls = "error falls with rank"
    yield falls, "one component, and not the best", spanned(one_turned)

    given = "given cores fit"
    yield given, "integers", giving(lambda eye: eye.long())
    yield given, "truth values", giving(lambda eye: eye.bool())
    yield given, "another device", giving(lambda eye: eye.to("meta"))
    yield given, "another shape", giving(lambda eye: eye[:1])
    yield given, "another name", giving(lambda eye: eye, name="N")
    yield given, "a trained one", giving(lambda eye: eye, trained=True)

    count = "count"
    yield count, "one too many", counted(lambda network, modes: network.num_parameters + 1)
    yield count, "of two modes only", counted(lambda network, modes: 2 * sum(mode.size for mode in modes))
    yield count, "wrong above four modes", counted(lambda network, modes: network.num_parameters + (len(modes) > 4))
    yield count, "of cores", CountsCores


PLANTED: dict[tuple[str, str], Format] = {(law, fault): kind(rank=2) for law, fault, kind in kinds()}  # type: ignore[call-arg]  # each has a rank
"""A faulty format by the law that it breaks and its fault."""
