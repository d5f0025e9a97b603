"""A format under test, with test modes, random cores, and cached decompositions."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ..errors import FormatError
from ..formats import Decomposition, Format
from ..formats.search import capped
from ..network import Mode, Network, Side
from ..network.starts import ZERO
from .laws import BrokenError
from .strategies import allows

_LADDER: tuple[tuple[Side, ...], ...] = (
    ("stack", "in", "out"),
    ("out", "stack", "in"),
    ("in", "out"),
    ("stack", "in", "in", "out", "out"),
    ("out", "in", "stack", "out", "in"),
    ("in", "stack", "stack", "out"),
    ("stack", "in", "in", "in", "out", "out", "out"),
)
"""The sides of the modes that a format is tested on, where they suit it."""
_PERMUTED: tuple[tuple[Side, ...], ...] = (
    ("in", "out"),
    ("stack", "in", "out"),
    ("in", "stack", "stack", "out"),
    ("in", "in", "out", "out"),
    _LADDER[-1],
)
"""The sides of modes of equal size, where a permutation does not change the shape."""
_WIDE = ((("stack", "in", "out"), (2, 48, 36)), (("in", "in", "out", "out"), (8, 6, 6, 6)))
"""Sides and sizes of layers that are wide beside a rank of 2, so that an input is multiplied by two narrow matrices."""
_SIZES = ((2, 3, 4, 2, 3, 2, 3), (3, 5, 2, 3, 2, 2, 2), (4, 4, 4, 4, 4, 4, 4))
_WIDER = (1, 2, 4, 8, 16)
_EQUAL = (3, 4, 6, 8, 16)
_SMALL = 2
_FEW = 4096
"""The largest number of elements of a tensor with modes of equal size."""
_EXAMPLES = 12


@dataclasses.dataclass(frozen=True)
class FormatSubject:
    """A format under test.

    Args:
        format: The format.
        cases: The modes to test it on, the smallest tensor first.
        chosen: Whether the modes were chosen by the user, so that no others are used.
        subtract_start: Whether the format is used with `adapt(..., subtract_start=True)`, and may start anywhere.
    """

    format: Format
    cases: tuple[tuple[Mode, ...], ...]
    chosen: bool = False
    subtract_start: bool = False

    @classmethod
    def of(cls, format: Format, modes: Sequence[Mode] | None, subtract_start: bool = False) -> FormatSubject:
        """Return a format under test with its modes.

        Args:
            format: The format.
            modes: The modes to test it on; by default those of a fixed list that suit the format.
            subtract_start: Whether the format may start anywhere.

        Raises:
            FormatError: `format` is not a format, or no modes of the list suit it.
        """
        if not isinstance(format, Format):
            raise FormatError(
                "check_format: format", expected="a Format object", got=repr(format), fix="check_format(MyFormat(2))"
            )
        if modes is not None:
            return cls(format, (tuple(modes),), True, subtract_start)
        for factor in _WIDER:
            if cases := [each for each in _ladder(factor) if _takes(format, each)]:
                return cls(format, tuple(sorted(cases, key=_numbers)), False, subtract_start)
        shapes = " | ".join(" ".join(sides) for sides in _LADDER)
        raise FormatError(
            f"check_format: none of the test modes suits {format}: {shapes}",
            cause="a rank above their sizes, or a format that needs modes of other sides or names",
            fix="check_format(format, modes=[Mode('in', 8, 'in'), ...])",
        )

    @functools.cached_property
    def small(self) -> tuple[tuple[Mode, ...], ...]:
        """The smallest modes, of two different arrangements of sides; used for slow decompositions."""
        by_sides: dict[tuple[str, ...], tuple[Mode, ...]] = {}
        for case in self.cases:
            by_sides.setdefault(tuple(mode.side for mode in case), case)
        stacked = [case for sides, case in by_sides.items() if "stack" in sides]
        rest = [case for sides, case in by_sides.items() if "stack" not in sides]
        return (*stacked[:1], *rest[:1], *stacked[1:])[:_SMALL]

    @functools.cached_property
    def layers(self) -> tuple[tuple[Mode, ...], ...]:
        """Modes of layers: `small`, and wide ones, which are executed in other ways."""
        wide = () if self.chosen else tuple(_modes(*each) for each in _WIDE)
        return (*self.small, *(modes for modes in wide if _takes(self.format, modes)))

    @functools.cached_property
    def equal(self) -> tuple[tuple[Mode, ...], ...]:
        """Modes that are all of the same size, for several arrangements of sides that suit the format."""
        found: list[tuple[Mode, ...]] = []
        for sides in () if self.chosen else _PERMUTED:
            if found and len(sides) > 4:
                break
            sizes = [size for size in _EQUAL if size ** len(sides) <= _FEW]
            cases = (_modes(sides, [size] * len(sides)) for size in sizes)
            found += [case for case in cases if _takes(self.format, case)][:1]
        return tuple(found)

    def network(self, modes: Sequence[Mode]) -> Network:
        """Return the format's network."""
        return self.format.network(modes)

    def has_zero(self, modes: Sequence[Mode]) -> bool:
        """Return whether a core of the format's network starts at zero."""
        return any(core.start == ZERO for core in self.network(modes).cores)

    def cores(
        self, modes: Sequence[Mode], seed: int = 0, given: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Return cores in fp64: the given ones, and random values for the others."""
        network, known = self.network(modes), given or {}
        generator = torch.Generator().manual_seed(seed)
        drawn = {
            name: torch.randn(shape, generator=generator, dtype=torch.float64)
            for name, shape in network.shapes().items()
        }
        return {name: known[name].double() if name in known else core for name, core in drawn.items()}

    @functools.cached_property
    def tensors(self) -> dict[tuple[Mode, ...], Tensor]:
        """A tensor that the format can represent exactly, for every small case."""
        return {case: self.representable(case) for case in self.small}

    def representable(self, modes: Sequence[Mode]) -> Tensor:
        """Return a random tensor in fp64 that the format can represent exactly."""
        return evaluated(self.network(modes), self.cores(modes, given=self.format.given(modes)))

    @functools.cached_property
    def found(self) -> dict[tuple[Mode, ...], Decomposition]:
        """The decompositions of `tensors`."""
        return {case: self.format.decompose(tensor, case) for case, tensor in self.tensors.items()}

    @functools.cached_property
    def lower(self) -> dict[tuple[Mode, ...], Decomposition]:
        """The decompositions of `tensors` at rank 1, if the rank of the format is higher."""
        if self.format.own_rank is None:
            return {}
        lowest = {case: capped(self.format, 1, case) for case in self.tensors}
        return {
            case: format.decompose(self.tensors[case], case)
            for case, format in lowest.items()
            if format != self.format.explicit(case)
        }

    @functools.cached_property
    def factorized(self) -> dict[tuple[Mode, ...], Mapping[str, Tensor]]:
        """The cores that `factorize` returns for `tensors`, scaled as by `decompose`."""
        return {case: self.format.factorize(tensor / tensor.abs().max(), case) for case, tensor in self.tensors.items()}

    @functools.cached_property
    def undecomposed(self) -> str | None:
        """Why the format cannot decompose; None if it can."""
        try:
            return None if self.factorized else ""
        except FormatError as error:
            return f"the format has no decomposition: {error}"
        except Exception:  # reported by a law
            return None

    def decomposed(self) -> Iterator[tuple[tuple[Mode, ...], Tensor, Decomposition]]:
        """Yield every small case with its tensor and decomposition."""
        return ((case, tensor, self.found[case]) for case, tensor in self.tensors.items())

    def for_all(self, check: Callable[[tuple[Mode, ...], int], None]) -> None:
        """Check a property for all modes, the smallest first, with several seeds if there are few modes.

        Args:
            check: The property, as a function of modes and seed; it raises if the property does not hold.
        """
        for seed in range(max(1, _EXAMPLES // len(self.cases))):
            for modes in self.cases:
                try:
                    check(modes, seed)
                except Exception as error:
                    error.add_note(f"Failing modes: {modes}, seed {seed}")
                    raise


def evaluated(network: Network, cores: Mapping[str, Tensor]) -> Tensor:
    """Evaluate a network by one plain `torch.einsum`, independent of the library's contraction planner.

    Args:
        network: The network.
        cores: The cores by name.
    """
    letters = {leg: chr(ord("a") + k) if k < 26 else chr(ord("A") + k - 26) for k, leg in enumerate(network.sizes)}
    terms = ",".join("".join(letters[leg] for leg in core.legs) for core in network.cores)
    result = "".join(letters[leg] for leg in network.output)
    return torch.einsum(f"{terms}->{result}", *(cores[core.name] for core in network.cores))


def distance(found: Tensor, expected: Tensor) -> float:
    """Return the largest absolute difference, relative to the largest expected value.

    Args:
        found: The tensor under test.
        expected: The expected tensor.

    Raises:
        BrokenError: The shapes differ.
    """
    if found.shape != expected.shape:
        shapes = tuple(expected.shape), tuple(found.shape)
        raise BrokenError(f"shape {shapes[0]}", shapes[1], "modes or dimensions in another order")
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).abs().max()) / max(float(expected.abs().max()), 1e-30)


def _ladder(factor: int) -> Iterator[tuple[Mode, ...]]:
    for sizes in _SIZES:
        for sides in _LADDER:
            if factor == 1 or len(sides) < 7:
                yield _modes(sides, [size * factor for size in sizes[: len(sides)]])


def _modes(sides: Sequence[Side], sizes: Sequence[int]) -> tuple[Mode, ...]:
    return tuple(Mode(f"{side}{k}", size, side) for k, (side, size) in enumerate(zip(sides, sizes, strict=True)))


def _takes(format: Format, modes: Sequence[Mode]) -> bool:
    try:
        return allows(format, modes)
    except Exception:  # the code under test may raise anything; a law reports it
        return True


def _numbers(modes: Sequence[Mode]) -> int:
    return math.prod(mode.size for mode in modes)
