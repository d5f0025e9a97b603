"""A format with other initial values for some cores, or with frozen cores."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Self

from torch import Tensor

from ..common.checks import quoted
from ..errors import FormatError, NetworkError
from ..network import Mode, Network
from ..network.starts import GIVEN, check_start
from .wrapper import Wrapper


@dataclasses.dataclass(frozen=True)
class Started(Wrapper):
    """Set the initialization of some cores of a format, and freeze others.

    Args:
        format: The format.
        starts: The start of some cores by name: `zero`, `normal`, `uniform`, `orthogonal`, `xavier` or
            `constant:0.1`; a number as in `normal:0.02` sets the standard deviation, bound or gain. If a core is set to
            `zero`, the core that started at zero before starts `normal`. Without a zero core, a fresh adapter changes
            the output of the model.
        frozen: The names of cores that are not trained.

    Raises:
        FormatError: An invalid start; or (once the modes are known) a core that the format does not have.

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
                raise NetworkError("start 'given' is reserved for cores whose values the format provides")
        except (TypeError, ValueError) as error:
            raise FormatError(f"Started: {error}", fix="Started(format, {'V': 'normal:0.02'})") from error
        names = self.frozen if isinstance(self.frozen, (tuple, list, set, frozenset)) else (None,)
        if not all(isinstance(name, str) for name in names):
            raise FormatError(
                "Started: frozen", expected="a list of core names", got=quoted(self.frozen), fix="frozen=['U']"
            )
        object.__setattr__(self, "starts", starts)
        object.__setattr__(self, "frozen", tuple(self.frozen))

    def network(self, modes: Sequence[Mode]) -> Network:
        """Return the format's network with these starts and frozen cores."""
        network = self.format.network(modes)
        if given := [core.name for core in network.cores if core.start == GIVEN and core.name in dict(self.starts)]:
            raise FormatError(
                f"{self}: the format provides the values of core {given[0]!r}", fix=f"remove {given[0]!r} from starts"
            )
        try:
            return network.started(dict(self.starts), self.frozen)
        except NetworkError as error:
            raise FormatError(f"{self}: {error}") from error

    def factorize(self, tensor: Tensor, modes: Sequence[Mode]) -> Mapping[str, Tensor]:
        """Decompose by the inner format."""
        return self.format.factorize(tensor, modes)

    def within(self, tensor: Tensor, modes: Sequence[Mode], tolerance: float) -> Self:
        """Lower the rank by the inner format."""
        return dataclasses.replace(self, format=self.format.within(tensor, modes, tolerance))
