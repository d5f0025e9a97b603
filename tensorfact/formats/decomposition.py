"""What a decomposition found: a format with its ranks, the cores, and the error they leave."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from ..network import Mode, Network, dense_of

if TYPE_CHECKING:
    from .base import Format


@dataclasses.dataclass(frozen=True, eq=False)
class Decomposition:
    """Cores that stand for a tensor.

    Args:
        format: The format; its ranks are those that were found.
        modes: The tensor's modes.
        cores: The cores by name, in the shapes of the format's network.
        error: The relative error in the Frobenius norm, measured: |tensor - dense()| / |tensor|; 0 for a zero tensor.
    """

    format: Format
    modes: tuple[Mode, ...]
    cores: Mapping[str, Tensor]
    error: float

    @property
    def network(self) -> Network:
        """The network of the cores."""
        return self.format.network(self.modes)

    @property
    def num_parameters(self) -> int:
        """How many numbers the cores hold."""
        return sum(core.numel() for core in self.cores.values())

    def dense(self) -> Tensor:
        """Return the tensor that the cores stand for, one dimension a mode."""
        return dense_of(self.network, self.cores)

    def __str__(self) -> str:
        return f"{self.format}: {self.num_parameters:,} numbers, relative error {self.error:.3g}"
