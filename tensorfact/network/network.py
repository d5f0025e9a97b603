"""A tensor network as data: cores, their named legs, and which legs stay open. It holds no numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

from ..errors import NetworkError, nearest
from .starts import ZERO, check_start

Side = Literal["stack", "in", "out"]


@dataclasses.dataclass(frozen=True)
class Mode:
    """One mode of a tensor.

    Args:
        name: One axis (`in`) or several merged (`(layer role)`).
        size: How many coordinates it has.
        side: `stack` if it tells parameters apart, `in` or `out` if it runs along a parameter's inputs or outputs.

    Examples:
        >>> Mode("(layer role)", 144, "stack").size
        144
    """

    name: str
    size: int
    side: Side


@dataclasses.dataclass(frozen=True)
class Core:
    """One tensor of a network.

    Args:
        name: Its name, unique in the network.
        legs: The names of its dimensions, in order. A leg that several cores share is a bond, or, if it is also an
            output, a common index.
        start: What it starts from. `normal` cores start random, the `zero` core starts at zero so that training starts
            from the base model; for the others see `tensorfact.network.starts`.
        trained: Whether it is a parameter. What is not trained is not counted, nor stored if it can be drawn again.
    """

    name: str
    legs: tuple[str, ...]
    start: str = "normal"
    trained: bool = True


@dataclasses.dataclass(frozen=True)
class Network:
    """An einsum with named legs.

    Args:
        cores: The cores, in the order of the naive left-to-right contraction.
        output: The open legs, in the order of the result's dimensions.
        sizes: The size of every leg.

    Raises:
        NetworkError: A leg without a size, an output that no core has, a name used twice, a second zero core.

    Examples:
        >>> matrix = Network(
        ...     (Core("A", ("in", "_r")), Core("B", ("_r", "out"), "zero")),
        ...     ("in", "out"),
        ...     {"in": 6, "out": 4, "_r": 2},
        ... )
        >>> print(matrix)
        A[in _r] B[_r out] -> in out
        >>> matrix.num_parameters
        20
    """

    cores: tuple[Core, ...]
    output: tuple[str, ...]
    sizes: Mapping[str, int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", dict(self.sizes))
        for problem in (*self._problems_of_legs(), *self._problems_of_starts()):
            raise NetworkError(f"network: {problem}", fix="correct the format's network()")
        for core in self.cores:
            check_start(core.start, f"core {core.name!r}")

    def _problems_of_legs(self) -> Iterator[str]:
        legs = {leg for core in self.cores for leg in core.legs}
        names = [core.name for core in self.cores]
        if not self.cores:
            yield "there is no core"
        if len(set(names)) < len(names):
            yield f"core names {names} are not unique"
        if any(len(set(core.legs)) < len(core.legs) for core in self.cores):
            yield f"a core has one leg twice in {self}"
        if len(set(self.output)) < len(self.output):
            yield f"output {self.output} has a leg twice"
        if not legs.issuperset(self.output):
            yield f"output legs {sorted(set(self.output) - legs)} belong to no core"
        if not legs <= set(self.sizes):
            yield f"legs {sorted(legs - set(self.sizes))} have no size"
        if any(size < 1 for size in self.sizes.values()):
            yield f"sizes {self.sizes} are not all at least 1"

    def _problems_of_starts(self) -> Iterator[str]:
        zeros = [core for core in self.cores if core.start == ZERO]
        if len(zeros) > 1:
            yield "more than one core starts at zero, so none would learn"
        if any(not core.trained for core in zeros):
            yield "the core that starts at zero is not trained, so none would learn"
        if not any(core.trained for core in self.cores):
            yield f"no core of {self} is trained"

    def __hash__(self) -> int:
        return hash((self.cores, self.output, tuple(sorted(self.sizes.items()))))

    def __str__(self) -> str:
        cores = " ".join(f"{core.name}[{' '.join(core.legs)}]" for core in self.cores)
        return f"{cores} -> {' '.join(self.output)}"

    def shape(self, legs: Sequence[str]) -> tuple[int, ...]:
        """Return the sizes of `legs`, in order."""
        return tuple(self.sizes[leg] for leg in legs)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every core, by name."""
        return {core.name: self.shape(core.legs) for core in self.cores}

    @property
    def num_parameters(self) -> int:
        """How many numbers the trained cores hold together."""
        return sum(math.prod(self.shape(core.legs)) for core in self.cores if core.trained)

    def started(self, starts: Mapping[str, str], frozen: Iterable[str] = ()) -> Network:
        """Return this network with other starts.

        Args:
            starts: What some cores start from, by name. If one of them is to start at zero, the core that did so
                before starts `normal`.
            frozen: The names of cores that are not trained.

        Raises:
            NetworkError: There is no such core, or no such start.

        Examples:
            >>> from tensorfact.network import Mode
            >>> from tensorfact import TensorTrain
            >>> modes = (Mode("layer", 12, "stack"), Mode("in", 64, "in"), Mode("out", 64, "out"))
            >>> network = TensorTrain(rank=4).network(modes).started({"S1": "zero"}, frozen=["U"])
            >>> [(core.start, core.trained) for core in network.cores]
            [('normal', False), ('zero', True), ('normal', True)]
        """
        names, frozen = [core.name for core in self.cores], set(frozen)
        for name in (*starts, *frozen):
            if name not in names:
                raise NetworkError(
                    f"network {self} has no core {name!r}",
                    expected=f"one of {names}",
                    got=f"{name!r}{nearest(name, names)}",
                )
        moved = {core.name: "normal" for core in self.cores if core.start == ZERO and ZERO in starts.values()}
        cores = (
            dataclasses.replace(
                core,
                start={**moved, **starts}.get(core.name, core.start),
                trained=core.trained and core.name not in frozen,
            )
            for core in self.cores
        )
        return dataclasses.replace(self, cores=tuple(cores))

    def fan_in(self, core: Core, summed: Mapping[str, int]) -> int:
        """Return how many terms `core` adds to a sum when the network meets an input.

        A bond is charged to the later of its cores, an input to the first that has it, and neither if the zero core has
        it; the product over the random cores is then the number of terms in one component of what the zero core is
        applied to.

        Args:
            core: One of the cores.
            summed: The output legs that an input is contracted with, and over how many coordinates.
        """
        zero = {leg for other in self.cores if other.start == ZERO for leg in other.legs}
        earlier = {leg for other in self.cores[: self.cores.index(core)] for leg in other.legs}
        bonds = {leg: self.sizes[leg] for leg in earlier - zero - set(self.output)}
        inputs = {leg: count for leg, count in summed.items() if leg not in earlier | zero}
        return math.prod({**bonds, **inputs}.get(leg, 1) for leg in core.legs)
