"""Rank formats by how well they approximate a given weight increment, without training."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping

from torch import nn

from ..common.aliases import JsonObject
from ..common.checks import callback
from ..common.progress import Progress, silent
from ..common.table import Table
from ..errors import TrainingError
from ..formats import FormatLike
from ..formats.registry import labelled
from ..plan import TensorizationPlan
from .extraction import Increments, Weights


@dataclasses.dataclass(frozen=True)
class Reconstruction:
    """The error of one format.

    Args:
        label: The label of the row, by default the format with its options.
        parameters: Number of elements of its factors.
        error: The relative error over all tensors in the Frobenius norm.
        errors: The relative error of every tensor, by name.
    """

    label: str
    parameters: int
    error: float
    errors: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Reconstructions:
    """The errors of several formats on one increment. It prints as a table, the smallest format first.

    Args:
        rows: One entry per format.
        numbers: Number of elements of the dense increment.
    """

    rows: tuple[Reconstruction, ...]
    numbers: int

    def is_best(self, row: Reconstruction) -> bool:
        """Return whether no format with as few or fewer parameters has a smaller error.

        Args:
            row: One of `rows`.
        """
        return not any(
            other.parameters <= row.parameters and other.error < row.error for other in self.rows if other is not row
        )

    def table(self) -> Table:
        """Return one row per format, the smallest first; the best at their size are marked."""
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

    def to_dict(self) -> JsonObject:
        """Return all rows as a JSON object."""
        return {"numbers": self.numbers, "rows": [dataclasses.asdict(row) for row in self.rows]}

    def __str__(self) -> str:
        return str(self.table())


def reconstruct(
    base: Weights,
    tuned: Weights,
    formats: Mapping[str, FormatLike | Mapping[str, FormatLike]] | Iterable[FormatLike],
    *,
    plan: TensorizationPlan,
    model: nn.Module | None = None,
    progress: Progress = silent,
) -> Reconstructions:
    """Decompose the increment of a fine-tuned model in several formats and compare their errors.

    Args:
        base: The weights before fine-tuning: a model, a state dict, or a safetensors file.
        tuned: The weights after fine-tuning.
        formats: An iterable of formats, or a dict from row labels to formats or to dicts from group names to formats.
        plan: The plan that folds weights into tensors.
        model: A model to resolve the plan on, as in `extract`.
        progress: Called after each decomposition.

    Returns:
        One row per format.

    Raises:
        DataError: A tensor is missing, has another shape, or contains NaN or infinity.
        RankError: A tensor does not admit the rank; checked before anything is decomposed.
        TrainingError: There is no format, or a format occurs twice.

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
    callback(progress, "reconstruct: progress", TrainingError)
    increments = Increments(base, tuned, plan, model)
    tensors = increments.resolved.tensors
    given = labelled(formats, "reconstruct")
    if not given:
        raise TrainingError("reconstruct: formats", expected="one or more", got="none")
    chosen = {label: increments.resolved.formats(format) for label, format in given.items()}
    counts = {label: increments.resolved.num_parameters(each) for label, each in chosen.items()}
    losses: dict[str, dict[str, float]] = {label: {} for label in given}
    energies = {}
    for tensor in tensors:
        dense = increments.dense(tensor)
        energies[tensor.name] = float(dense.double().square().sum())
        for at, (label, each) in enumerate(chosen.items(), 1):
            losses[label][tensor.name] = each[tensor.name].decompose(dense, tensor.modes).error
            progress(f"decomposing {tensor.name}", at, len(chosen))
    rows = [Reconstruction(label, counts[label], _total(losses[label], energies), losses[label]) for label in given]
    return Reconstructions(tuple(rows), sum(math.prod(tensor.shape) for tensor in tensors))


def _total(errors: Mapping[str, float], energies: Mapping[str, float]) -> float:
    """Return the relative error over all tensors."""
    whole = sum(energies.values())
    lost = sum(errors[name] ** 2 * energy for name, energy in energies.items())
    return math.sqrt(lost / whole) if whole else 0.0
