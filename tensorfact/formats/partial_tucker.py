"""Partial Tucker: factors for input and output modes only."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ..errors import FormatError
from ..network import Mode
from .tucker import Tucker


@dataclasses.dataclass(frozen=True)
class PartialTucker(Tucker):
    """Tucker-2: factors for inputs and outputs only; the core C keeps the stack modes at full size.

    Args:
        rank: One rank for all factors, or one per factor in the tensor's order; a fraction of the dense size; or
            'full'.

    Raises:
        RankError: A rank below 1, or (once the modes are known) above the mode's size.
        FormatError: The tensor has only stack modes.

    Source: L. Tucker, Psychometrika 1966; LoTR: Bershatsky et al., 2024.

    Examples:
        >>> from tensorfact.network import Mode
        >>> from tensorfact.formats import PartialTucker
        >>> modes = (Mode("layer", 12, "stack"), Mode("in", 64, "in"), Mode("out", 64, "out"))
        >>> print(PartialTucker(rank=4).network(modes))
        U1[in _in] C[layer _in _out] U2[out _out] -> layer in out
    """

    def _factored(self, modes: Sequence[Mode]) -> tuple[Mode, ...]:
        found = tuple(mode for mode in modes if mode.side != "stack")
        if not found:
            raise FormatError(f"{self}: modes", expected="an input or output mode", got="only stack modes")
        return found
