"""How well formats hold a given increment, without training."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from ..common.progress import Progress, silent
from ..common.table import Table
from ..errors import TrainingError
from ..formats import Format, format_label
from ..plan import TensorizationPlan
from .extraction import Increments, Weights


@dataclasses.dataclass(frozen=True)
class Reconstruction:
    """What one format makes of the increment.

    Args:
        label: The format.
        parameters: How many numbers its factors hold.
        error: The relative error over all tensors in the Frobenius norm.
        errors: The relative error of every tensor, by name.
    """

    label: str
    parameters: int
    error: float
    errors: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Reconstructions:
    """Formats by how well they hold an increment. Printed, it is a table, the smallest format first.

    Args:
        rows: One for each format.
        numbers: How many numbers the increment holds.
    """

    rows: tuple[Reconstruction, ...]
    numbers: int

    def is_best(self, row: Reconstruction) -> bool:
        """Return whether no other format has a smaller error with as few numbers.

        Args:
            row: The format.
        """
        return not any(
            other.parameters <= row.parameters and other.error < row.error for other in self.rows if other is not row
        )

    def table(self) -> Table:
        """Return one row a format, the smallest first; those that no other of their size betters are marked."""
        rows = tuple(
            (
                row.label,
                f"{row.parameters:,}",
                f"{row.parameters / self.numbers:.3%}",
                f"{row.error:.3g}",
                "best" if self.is_best(row) else "",
            )
            for row in sorted(self.rows, key=lambda row: (row.parameters, row.error))
        )
        return Table(("format", "parameters", "of dense", "relative error", "at its size"), rows)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON data."""
        return {"numbers": self.numbers, "rows": [dataclasses.asdict(row) for row in self.rows]}

    def __str__(self) -> str:
        return str(self.table())


def reconstruct(
    base: Weights,
    tuned: Weights,
    formats: Mapping[str, Format | Mapping[str, Format]] | Iterable[Format],
    *,
    plan: TensorizationPlan,
    model: nn.Module | None = None,
    progress: Progress = silent,
) -> Reconstructions:
    """Decompose the increment of a fine-tuned model in many formats, and measure what each loses.

    Args:
        base: The weights before fine-tuning: a model, a state dict, or a safetensors file.
        tuned: The weights after it.
        formats: Formats, or formats (or one for each group) by the row's label.
        plan: Which weights fold into which tensors.
        model: As in `extract`.
        progress: Called after each decomposition.

    Returns:
        One row for each format.

    Raises:
        DataError: A tensor is missing, of another shape, or holds NaN or infinity; or nothing was tuned.
        RankError: A tensor does not admit this rank; found before anything is decomposed.
        TrainingError: A format is there twice.

    Examples:
        >>> import torch
        >>> from tensorfact import CP, Tucker, plan_for
        >>> from tensorfact.algebra import reconstruct
        >>> from tensorfact.lab import nano
        >>> base, tuned = nano(), nano()
        >>> with torch.no_grad():
        ...     _ = tuned.blocks[0].attn.proj.weight.add_(0.01)
        >>> found = reconstruct(base, tuned, [CP(1), Tucker(2)], plan=plan_for(base))
        >>> [(row.label, row.parameters) for row in found.rows]
        [('cp rank=1', 264), ('tucker rank=2', 536)]
    """
    increments = Increments(base, tuned, plan, model)
    tensors = increments.resolved.tensors
    given = list(formats.items() if isinstance(formats, Mapping) else ((format_label(f), f) for f in formats))
    labels = [label for label, _ in given]
    if not given or len(set(labels)) < len(labels):
        raise TrainingError("reconstruct: formats", expected="at least one, each once", got=", ".join(labels) or "none")
    chosen = {label: increments.resolved.formats(format) for label, format in given}
    counts = {label: increments.resolved.num_parameters(each) for label, each in chosen.items()}
    losses: dict[str, dict[str, float]] = {label: {} for label in labels}
    energies = {}
    for tensor in tensors:
        dense = increments.dense(tensor)
        energies[tensor.name] = float(dense.double().square().sum())
        for at, (label, each) in enumerate(chosen.items(), 1):
            losses[label][tensor.name] = each[tensor.name].decompose(dense, tensor.modes).error
            progress(f"decomposing {tensor.name}", at, len(chosen))
    rows = [Reconstruction(label, counts[label], _total(losses[label], energies), losses[label]) for label in labels]
    return Reconstructions(tuple(rows), sum(math.prod(tensor.shape) for tensor in tensors))


def _total(errors: Mapping[str, float], energies: Mapping[str, float]) -> float:
    """Return the relative error of all tensors together."""
    whole = sum(energies.values())
    lost = sum(errors[name] ** 2 * energy for name, energy in energies.items())
    return math.sqrt(lost / whole) if whole else 0.0
