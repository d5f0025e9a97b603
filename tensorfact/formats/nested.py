"""A format whose cores are factored by other formats."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from ..common.checks import quoted
from ..errors import FormatError, nearest
from ..network import Core, Mode, Network
from ..network.starts import ZERO
from .base import Format
from .least_squares import least_squares
from .wrapper import Wrapper


@dataclasses.dataclass(frozen=True)
class Nested(Wrapper):
    """A format within a format: selected cores of an outer format are factored by inner formats.

    A core's legs become its modes: a bond to an earlier core is an input, a bond to a later core is an output. The
    factors of core A are named `A_U`, `A_V`, ... An inner rank is lowered where the core does not admit it.

    Args:
        format: The outer format, which also provides the rank.
        cores: The inner formats, by the name of the core that they factor.

    Raises:
        FormatError: An argument is not a format; or (once the modes are known) the outer format has no such core.

    Source: LoRETTA: Y. Yang et al., NAACL 2024, which folds LoRA's two matrices into tensor-trains.

    Examples:
        >>> from tensorfact import MatrixBatch, TensorTrain
        >>> from tensorfact.network import Mode
        >>> from tensorfact.formats import Nested
        >>> modes = (Mode("a", 8, "in"), Mode("b", 12, "in"), Mode("out", 96, "out"))
        >>> print(Nested(MatrixBatch(8), {"A": TensorTrain(5)}).network(modes))
        A_U[a _A_1] A_S1[_A_1 b _A_2] A_V[_A_2 _r] B[_r out] -> a b out
    """

    cores: Mapping[str, Format] | tuple[tuple[str, Format], ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        given: object = tuple(self.cores.items()) if isinstance(self.cores, Mapping) else self.cores
        listed = given if isinstance(given, tuple) else ()
        pairs = tuple(tuple(pair) if isinstance(pair, (tuple, list)) else () for pair in listed)
        if not pairs or not all(len(p) == 2 and isinstance(p[0], str) and isinstance(p[1], Format) for p in pairs):
            raise FormatError(
                "Nested: cores",
                expected="a dict from core names to formats",
                got=quoted(self.cores),
                fix="Nested(MatrixBatch(8), {'A': TensorTrain(5)})",
            )
        object.__setattr__(self, "cores", pairs)

    def network(self, modes: Sequence[Mode]) -> Network:
        """Return the outer network with the factored cores replaced by the inner networks."""
        outer = self.format.network(modes)
        cores, sizes = {core.name: [core] for core in outer.cores}, dict(outer.sizes)
        for core, format, own in self._inner(modes):
            inner = format.fitted(own).network(own)
            renamed = {leg: f"_{core.name}{leg}" for leg in inner.sizes if leg not in inner.output}
            sizes |= {renamed[leg]: size for leg, size in inner.sizes.items() if leg in renamed}
            renamed |= {mode.name: leg for mode, leg in zip(own, core.legs, strict=True)}
            cores[core.name] = [
                dataclasses.replace(
                    each,
                    name=f"{core.name}_{each.name}",
                    legs=tuple(renamed.get(leg, leg) for leg in each.legs),
                    start="normal" if each.start == ZERO and core.start != ZERO else each.start,
                    trained=each.trained and core.trained,
                )
                for each in inner.cores
            ]
        return Network(tuple(each for found in cores.values() for each in found), outer.output, sizes)

    def factorize(self, tensor: Tensor, modes: Sequence[Mode]) -> Mapping[str, Tensor]:
        """Decompose by the outer format, then the cores by the inner formats, then refine all by least squares."""
        found = dict(self.format.factorize(tensor, modes))
        for core, format, own in self._inner(modes):
            inner = format.fitted(own).decompose(found.pop(core.name), own).cores
            found |= {f"{core.name}_{name}": value for name, value in inner.items()}
        return least_squares(self.network(modes), tensor, self.given(modes), start=found)

    def given(self, modes: Sequence[Mode]) -> Mapping[str, Tensor]:
        """Return the fixed cores of the outer and inner formats."""
        found = dict(self.format.given(modes))
        for core, format, own in self._inner(modes):
            found |= {f"{core.name}_{name}": value for name, value in format.fitted(own).given(own).items()}
        return found

    def _inner(self, modes: Sequence[Mode]) -> Iterator[tuple[Core, Format, tuple[Mode, ...]]]:
        """Yield every factored core, its inner format, and the core's modes."""
        network, sides = self.format.network(modes), {mode.name: mode.side for mode in modes}
        names = [core.name for core in network.cores]
        for name, format in dict(self.cores).items():
            if name not in names:
                raise FormatError(
                    f"{self}: unknown core",
                    expected=f"one of {', '.join(names)}",
                    got=f"{name!r}{nearest(name, names)}",
                )
            core = network.cores[names.index(name)]
            if core.start not in ("normal", ZERO):
                raise FormatError(
                    f"{self}: core {name!r} starts {core.start!r}",
                    expected="'normal' or 'zero' for a core that is factored",
                    fix="set the starts of the factors: Started(Nested(...), {'A_U': 'normal:0.1'})",
                )
            earlier = {leg for other in network.cores[: names.index(name)] for leg in other.legs}
            own = (
                Mode(leg, network.sizes[leg], sides[leg])
                if leg in sides
                else Mode(f"({leg})", network.sizes[leg], "in" if leg in earlier else "out")  # no bond has such a name
                for leg in core.legs
            )
            yield core, format, tuple(own)
