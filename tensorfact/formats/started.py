"""A format whose cores start, or stay, otherwise."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Self

from torch import Tensor

from ..errors import FormatError, NetworkError
from ..network import Mode, Network
from ..network.starts import GIVEN, check_start
from .wrapper import Wrapper


@dataclasses.dataclass(frozen=True)
class Started(Wrapper):
    """A format with other starts, or with cores that are not trained.

    Args:
        format: The format.
        starts: What some cores start from, by name: `zero`, `normal`, `uniform`, `orthogonal`, `xavier`, or
            `constant:0.1`; with a number as in `normal:0.02`, that deviation, bound or gain. If one is to start at
            zero, the one that did so before starts `normal`. If none is left, a fresh adapter changes the output.
        frozen: The names of cores that keep what they start from.

    Raises:
        FormatError: A start that is none; or (once the modes are known) a core that the format does not have.

    Examples:
        >>> from tensorfact.network import Mode
        >>> from tensorfact.formats import Started
        >>> from tensorfact import TensorTrain
        >>> modes = (Mode("layer", 12, "stack"), Mode("in", 64, "in"), Mode("out", 64, "out"))
        >>> Started(TensorTrain(4), {"S1": "zero"}, frozen=["U"]).num_parameters(modes)
        448
    """

    starts: Mapping[str, str] | tuple[tuple[str, str], ...] = ()
    frozen: Sequence[str] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        given = self.starts.items() if isinstance(self.starts, Mapping) else self.starts
        try:
            starts = tuple((str(name), check_start(start, f"core {name!r}")) for name, start in given)
            if GIVEN in dict(starts).values():
                raise NetworkError("a core starts 'given' only in a format's own network")
        except (TypeError, ValueError) as error:
            raise FormatError(f"Started: {error}", fix="Started(format, {'V': 'normal:0.02'})") from error
        if isinstance(self.frozen, str) or not all(isinstance(name, str) for name in self.frozen):
            raise FormatError("Started: frozen", expected="a list of core names", got=repr(self.frozen))
        object.__setattr__(self, "starts", starts)
        object.__setattr__(self, "frozen", tuple(self.frozen))

    def network(self, modes: Sequence[Mode]) -> Network:
        """State the format's network with these starts."""
        network = self.format.network(modes)
        if given := [core.name for core in network.cores if core.start == GIVEN and core.name in dict(self.starts)]:
            raise FormatError(f"{self}: core {given[0]!r} is given by {self.format}", fix="leave it out")
        try:
            return network.started(dict(self.starts), self.frozen)
        except NetworkError as error:
            raise FormatError(f"{self}: {error}") from error

    def factorize(self, tensor: Tensor, modes: Sequence[Mode]) -> Mapping[str, Tensor]:
        """Decompose as the format does."""
        return self.format.factorize(tensor, modes)

    def within(self, tensor: Tensor, modes: Sequence[Mode], tolerance: float) -> Self:
        """Lower the rank as the format does."""
        return dataclasses.replace(self, format=self.format.within(tensor, modes, tolerance))
