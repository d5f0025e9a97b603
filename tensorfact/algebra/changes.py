"""What became of the tensors of an adapter."""

from __future__ import annotations

import dataclasses

from ..common.checks import AnyPath
from ..common.table import Table
from ..formats import Format, format_label
from ..storage import AdapterState


@dataclasses.dataclass(frozen=True)
class Change:
    """What became of one of the plan's tensors.

    Args:
        tensor: Its name.
        source: What it was.
        numbers: How many numbers it took.
        format: The new format.
        parameters: How many numbers its factors hold.
        error: The relative error in the Frobenius norm, measured.
    """

    tensor: str
    source: str
    numbers: int
    format: Format
    parameters: int
    error: float


@dataclasses.dataclass(frozen=True, eq=False)
class Recompression:
    """A new adapter, and what it lost. Printed, it is a table.

    Args:
        state: The adapter, without a model: `save` it, or give it to `load_adapter`.
        changes: One for each of the plan's tensors.
    """

    state: AdapterState
    changes: tuple[Change, ...]

    def save(self, path: AnyPath) -> None:
        """Write the adapter to a file; see `AdapterState.save`.

        Args:
            path: The file.
        """
        self.state.save(path)

    @property
    def parameters(self) -> int:
        """How many numbers the new factors hold."""
        return sum(change.parameters for change in self.changes)

    @property
    def shrank(self) -> float:
        """How many times fewer numbers the new factors hold than what they were made of."""
        return sum(change.numbers for change in self.changes) / self.parameters

    def table(self) -> Table:
        """Return one row for each tensor: what it was, what it is, and the relative error."""
        rows = [
            (
                change.tensor,
                change.source,
                f"{change.numbers:,}",
                format_label(change.format),
                f"{change.parameters:,}",
                f"{change.error:.2e}",
            )
            for change in self.changes
        ]
        return Table(("tensor", "from", "numbers", "to", "parameters", "relative error"), tuple(rows))

    def __str__(self) -> str:
        return str(self.table())
