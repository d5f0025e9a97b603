"""A tensor network as data: cores, their named legs and the open legs. It holds no numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, SupportsIndex

from ..common.checks import flag, of_type, quoted
from ..errors import NetworkError, nearest
from .starts import ZERO, check_start

_SHOWN = 400
"""The most characters of a network in a message."""

Side = Literal["stack", "in", "out"]


@dataclasses.dataclass(frozen=True)
class Mode:
    """One mode of a tensor.

    Args:
        name: One axis (`in`) or several merged (`(layer role)`).
        size: Number of coordinates.
        side: `in` or `out` for a mode along the inputs or outputs of a parameter, `stack` for one across parameters.

    Examples:
        >>> Mode("(layer role)", 144, "stack").size
        144
    """

    name: str
    size: int
    side: Side


@dataclasses.dataclass(frozen=True)
class Core:
    """One factor of a network.

    Args:
        name: Name of the core, unique in the network.
        legs: Names of its dimensions, in order. A leg shared by several cores is a bond, or, if it is also an output,
            a common index.
        start: Initialisation. `normal` cores are random; the `zero` core is zero, so that training starts from the
            base model. See `tensorfact.network.starts` for the others.
        trained: Whether the core is trained. Frozen cores are not counted, and not stored if their seed is known.
    """

    name: str
    legs: tuple[str, ...]
    start: str = "normal"
    trained: bool = True

    def __post_init__(self) -> None:
        flag(self.trained, f"core {self.name!r}: trained", NetworkError)


@dataclasses.dataclass(frozen=True)
class Network:
    """An einsum with named legs.

    Args:
        cores: The cores, in the order of the naive left-to-right contraction.
        output: The open legs, in the order of the result's dimensions.
        sizes: Sizes by leg.

    Raises:
        NetworkError: A leg has no size, an output leg belongs to no core, a name is used twice, no core is trained, or
            a second core starts at zero.

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
        self._check_types()
        object.__setattr__(self, "sizes", dict(self.sizes))
        for problem, fix in (*self._problems_of_legs(), *self._problems_of_starts()):
            raise NetworkError(f"network: {problem}", fix=fix)
        for core in self.cores:
            check_start(core.start, f"core {core.name!r}")

    def _check_types(self) -> None:
        """Check that the cores, legs and sizes are what an einsum is made of."""
        for name, example in (("cores", "(Core('A', ('in', 'out')),)"), ("output", "('in', 'out')")):
            value = getattr(self, name)
            of_type(value, (tuple, list), f"network: {name}", NetworkError, expected="a tuple", example=example)
            object.__setattr__(self, name, tuple(value))
        of_type(self.sizes, Mapping, "network: sizes", NetworkError, expected="a dict", example="{'in': 6, 'out': 4}")
        for core in self.cores:
            of_type(core, Core, "network: cores", NetworkError, expected="Cores", example="(Core('A', ('in', 'out')),)")
        legs = [self.output, *(core.legs for core in self.cores)]
        if not all(isinstance(own, (tuple, list)) and all(isinstance(leg, str) for leg in own) for own in legs):
            raise NetworkError("network: legs", expected="tuples of str", got=repr(legs)[:200], fix="('in', 'out')")
        if not all(isinstance(size, SupportsIndex) for size in self.sizes.values()):
            raise NetworkError("network: sizes", expected="ints", got=repr(self.sizes)[:200], fix="{'in': 6, 'out': 4}")

    def _problems_of_legs(self) -> Iterator[tuple[str, str]]:
        """Yield every problem with names, legs and sizes, each with its fix."""
        legs = {leg for core in self.cores for leg in core.legs}
        names = [core.name for core in self.cores]
        if not self.cores:
            yield "it has no cores", "pass at least one Core"
        if len(set(names)) < len(names):
            yield f"core names {quoted(names)} are not unique", "give each core its own name"
        if any(len(set(core.legs)) < len(core.legs) for core in self.cores):
            yield f"a core of {str(self)[:_SHOWN]} has the same leg twice", "give each dimension of a core its own leg"
        if len(set(self.output)) < len(self.output):
            yield f"output {quoted(self.output)} has the same leg twice", "list each output leg once"
        if not legs.issuperset(self.output):
            absent = sorted(set(self.output) - legs)
            yield (
                f"output legs {quoted(absent)} belong to no core",
                "add each to a core, or remove it from output",
            )
        if not legs <= set(self.sizes):
            yield f"legs {quoted(sorted(legs - set(self.sizes)))} have no size", "add them to sizes"
        if any(size < 1 for size in self.sizes.values()):
            yield f"sizes {quoted(self.sizes)} are not all at least 1", "pass sizes of at least 1"

    def _problems_of_starts(self) -> Iterator[tuple[str, str]]:
        """Yield every combination of starts and frozen cores that cannot be trained, each with its fix."""
        zeros = [core for core in self.cores if core.start == ZERO]
        if len(zeros) > 1:
            yield "more than one core starts at zero, so all gradients are zero", "start='zero' for one core only"
        if any(not core.trained for core in zeros):
            yield "the zero core is frozen, so the increment stays zero", "train it, or start another core at zero"
        if not any(core.trained for core in self.cores):
            yield f"no core of {str(self)[:_SHOWN]} is trained", "train at least one core"

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

    def part(self, cores: Sequence[Core], output: tuple[str, ...]) -> Network:
        """Return the network of some of the cores, in which all of them count as trained.

        Args:
            cores: The cores.
            output: The open legs of the part.

        Examples:
            >>> cores = (Core("A", ("in", "_r"), trained=False), Core("B", ("_r", "out")))
            >>> whole = Network(cores, ("in", "out"), {"in": 6, "out": 4, "_r": 2})
            >>> print(whole.part(cores[:1], ("_r", "in")), whole.part(cores[:1], ("_r", "in")).sizes)
            A[in _r] -> _r in {'in': 6, '_r': 2}
        """
        sizes = {leg: size for leg, size in self.sizes.items() if any(leg in core.legs for core in cores)}
        return Network(tuple(dataclasses.replace(core, trained=True) for core in cores), output, sizes)

    @property
    def num_parameters(self) -> int:
        """Number of parameters in the trained cores."""
        return sum(math.prod(self.shape(core.legs)) for core in self.cores if core.trained)

    def started(self, starts: Mapping[str, str], frozen: Iterable[str] = ()) -> Network:
        """Return a copy of this network with other starts and frozen cores.

        Args:
            starts: New starts by core name. If one of them is `zero`, the present zero core becomes `normal`.
            frozen: Names of cores to freeze.

        Raises:
            NetworkError: A core or a start is unknown.

        Examples:
            >>> from tensorfact.network import Mode
            >>> from tensorfact import TensorTrain
            >>> modes = (Mode("layer", 12, "stack"), Mode("in", 64, "in"), Mode("out", 64, "out"))
            >>> network = TensorTrain(rank=4).network(modes).started({"S1": "zero"}, frozen=["U"])
            >>> [(core.start, core.trained) for core in network.cores]
            [('normal', False), ('zero', True), ('normal', True)]
        """
        names, frozen = dict.fromkeys(core.name for core in self.cores), set(frozen)
        for name in (*starts, *frozen):
            if name not in names:
                raise NetworkError(
                    f"network {str(self)[:_SHOWN]} has no core {quoted(name)}",
                    expected=f"one of {quoted(list(names))}",
                    got=f"{quoted(name)}{nearest(name, names)}",
                    fix=f"use the name {next(iter(names))!r}",
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
        """Return the fan-in of a core: the number of terms it sums over when the network is contracted with an input.

        A bond is counted for the later of its cores and an input leg for the first core that has it; legs of the zero
        core are not counted. The product over the random cores is then the number of terms in each component that the
        zero core is applied to.

        Args:
            core: One of the network's cores.
            summed: Open legs that are contracted with an input, and the number of coordinates of each in one slice.
        """
        zero = {leg for other in self.cores if other.start == ZERO for leg in other.legs}
        earlier = {leg for other in self.cores[: self.cores.index(core)] for leg in other.legs}
        bonds = {leg: self.sizes[leg] for leg in earlier - zero - set(self.output)}
        inputs = {leg: count for leg, count in summed.items() if leg not in earlier | zero}
        return math.prod({**bonds, **inputs}.get(leg, 1) for leg in core.legs)
