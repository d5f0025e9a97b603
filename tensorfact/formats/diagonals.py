"""The format with trained diagonals between frozen random cores: VeRA."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ..common.checks import finite_number
from ..errors import FormatError
from ..network import Core, Mode, Network
from ..network.starts import ZERO
from .common import mode_sizes, zero_core
from .per_slice import slice_modes
from .wrapper import Wrapper


@dataclasses.dataclass(frozen=True)
class Diagonals(Wrapper):
    """Frozen random cores of another format, shared by all slices, with a trained diagonal on every bond.

    Every slice has its own diagonals: one per bond, starting at a constant, and one on the outputs, starting at zero.

    Args:
        format: The format of one slice: `TensorTrain(256)` on inputs and outputs is VeRA.
        value: Initial value of the diagonals on the bonds.

    Raises:
        FormatError: The tensor has only stack modes, or `value` is 0 or not finite.

    Source: VeRA: D. Kopiczko et al., ICLR 2024.

    Examples:
        >>> from tensorfact.formats import Diagonals
        >>> from tensorfact.network import Mode
        >>> from tensorfact import TensorTrain
        >>> modes = (Mode("matrix", 24, "stack"), Mode("in", 768, "in"), Mode("out", 768, "out"))
        >>> print(Diagonals(TensorTrain(256)).network(modes))
        U[in _1] V[_1 out] D1[matrix _1] D[matrix out] -> matrix in out
        >>> Diagonals(TensorTrain(256)).num_parameters(modes)
        24576
    """

    value: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        meant = "a finite number that is not 0"
        value = finite_number(self.value, "Diagonals: value", FormatError, fits=bool, expected=meant, example=0.1)
        object.__setattr__(self, "value", value)

    def network(self, modes: Sequence[Mode]) -> Network:
        """Return the network of frozen cores and diagonals."""
        network = self.format.network(self.inner(modes))
        stack = tuple(mode.name for mode in modes if mode.side == "stack")
        outputs = tuple(leg for leg in zero_core(network).legs if leg in network.output)
        bonds = [leg for leg in network.sizes if leg not in network.output]
        frozen = [
            dataclasses.replace(core, start="normal" if core.start == ZERO else core.start, trained=False)
            for core in network.cores
        ]
        diagonals = [Core(f"D{leg.lstrip('_')}", (*stack, leg), f"constant:{self.value}") for leg in bonds]
        cores = (*frozen, *diagonals, Core("D", (*stack, *outputs), ZERO))
        return Network(cores, tuple(mode.name for mode in modes), {**network.sizes, **mode_sizes(modes)})

    def inner(self, modes: Sequence[Mode]) -> tuple[Mode, ...]:
        """Return the modes of a slice."""
        found = slice_modes(modes)
        if not found:
            raise FormatError(f"{self}: modes", expected="an input or output mode", got="only stack modes")
        return found
