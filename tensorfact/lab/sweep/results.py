"""Results of a sweep: the outcome of every run, and the runs of every cell of the table."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping

from ...common.checks import whole_number
from ...errors import SweepError
from .definition import Sweep
from .spec import RunSpec, fraction
from .stored import build, parse_json


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Outcome of a run, as far as its spec determines it.

    Args:
        parameters: Number of trained parameters, excluding the head.
        bytes: File size of the trained parameters, including the head.
        val_accuracy: Validation accuracy at the chosen epoch, 0 to 1; None without a validation split.
        test_accuracy: Test accuracy, 0 to 1; None for runs of the stage `select`.
        best_epoch: Epoch whose parameters are evaluated.
        epochs: For every epoch `train_loss`, `val_loss` and `val_accuracy`; the last two are None without validation.
        sizes: Number of samples in each split.
        method: Method that trained: that of the spec, or the one that its search found.
        failure: Reason why the run has no accuracy, such as a loss that is not finite; otherwise empty.
    """

    parameters: int
    bytes: int
    val_accuracy: float | None
    test_accuracy: float | None
    best_epoch: int
    epochs: tuple[Mapping[str, float | None], ...]
    sizes: Mapping[str, int]
    method: str
    failure: str = ""

    def __post_init__(self) -> None:
        for name in ("parameters", "bytes", "best_epoch"):
            whole_number(getattr(self, name), name, SweepError, least=0)
        for name in ("val_accuracy", "test_accuracy"):
            if getattr(self, name) is not None:
                fraction(getattr(self, name), name)


@dataclasses.dataclass(frozen=True)
class Measured:
    """Time and memory of a run, which differ from one execution to the next.

    Args:
        seconds: Training time of all epochs.
        step_seconds: Time of one training step; None if not measured.
        peak_bytes: Peak memory of tensors during a step; None if not measured.
        machine: Name of the GPU, or architecture and device.
    """

    seconds: float
    step_seconds: float | None
    peak_bytes: int | None
    machine: str


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run.

    Args:
        spec: Spec of the run.
        outcome: Accuracies, losses and sizes.
        measured: Time and memory; None if not recorded.
    """

    spec: RunSpec
    outcome: Outcome
    measured: Measured | None = None


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of the table: one row on one task.

    Args:
        part: Name of the part.
        row: Label of the row.
        task: Name of the task.
        candidates: Ids of the runs among which the options are chosen; empty if there is no choice.
        runs: Ids of the reported runs, one per seed; empty until all are finished.
    """

    part: str
    row: str
    task: str
    candidates: tuple[str, ...]
    runs: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Results:
    """Results of a sweep, finished or not.

    Args:
        sweep: Definition of the sweep.
        runs: Finished runs by id.
        cells: Cells of the table, in the order of the sweep.
    """

    sweep: Sweep
    runs: Mapping[str, Run]
    cells: tuple[Cell, ...]

    def to_json(self) -> str:
        """Return the results as JSON, without time and memory, so that equal sweeps give equal text."""
        runs = {
            id: {"spec": run.spec.to_dict(), "outcome": dataclasses.asdict(run.outcome)}
            for id, run in sorted(self.runs.items())
        }
        cells = [dataclasses.asdict(cell) for cell in self.cells]
        data = {"sweep": json.loads(self.sweep.to_json()), "cells": cells, "runs": runs}
        return json.dumps(data, indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Results:
        """Read what `to_json` returned.

        Raises:
            SweepError: Invalid JSON, a field is missing, unknown or of another type, or a run is not the one of its id.
        """
        return cls.from_data(parse_json(text, "results"))

    @classmethod
    def from_data(cls, data: object) -> Results:
        """Read the JSON data of what `to_json` returned.

        Args:
            data: The JSON data.

        Raises:
            SweepError: As in `from_json`.
        """
        found = build(cls, data)
        for id, run in found.runs.items():
            if id != run.spec.id:
                raise SweepError(
                    f"run {id!r} holds another run",
                    expected=f"id {run.spec.id}",
                    got=id,
                    fix="delete results.json and run the sweep again",
                )
        return found
