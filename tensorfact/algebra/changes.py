"""Results of conversion, rounding, addition and extraction: a new adapter with the error of every tensor."""

from __future__ import annotations

import dataclasses

from ..common.checks import AnyPath
from ..common.table import Table
from ..formats import Format, format_label
from ..storage import AdapterState


@dataclasses.dataclass(frozen=True)
class Change:
    """The result for one tensor of the plan.

    Args:
        tensor: The tensor's name.
        source: The label of the old format, or `dense`.
        numbers: Number of elements before.
        format: The new format, with explicit ranks.
        parameters: Number of elements of the new factors.
        error: The measured relative error in the Frobenius norm.
    """

    tensor: str
    source: str
    numbers: int
    format: Format
    parameters: int
    error: float


@dataclasses.dataclass(frozen=True, eq=False)
class Recompression:
    """A new adapter and the error of each of its tensors. It prints as a table.

    Args:
        state: The adapter, not attached to a model: call `save`, or pass it to `load_adapter`.
        changes: One entry per tensor of the plan.
    """

    state: AdapterState
    changes: tuple[Change, ...]

    def save(self, path: AnyPath) -> None:
        """Write the adapter to a file; see `AdapterState.save`.

        Args:
            path: Path of the safetensors file to write.
        """
        self.state.save(path)

    @property
    def parameters(self) -> int:
        """Number of elements of the new factors."""
        return sum(change.parameters for change in self.changes)

    @property
    def shrank(self) -> float:
        """Compression ratio: the number of elements before, divided by that of the new factors."""
        return sum(change.numbers for change in self.changes) / self.parameters

    def table(self) -> Table:
        """Return one row per tensor: the old format, the new format, and the relative error."""
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
