"""What came of a sweep: outcomes by run, and which runs make which cell of the table."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from .definition import Sweep
from .spec import RunSpec, build, parse_json


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run's spec determines.

    Args:
        parameters: Numbers that trained, the head apart.
        bytes: Size of the file that holds what was trained, the head included.
        val_accuracy: Accuracy on the validation split at the chosen epoch, 0 to 1; None where nothing was held out.
        test_accuracy: Accuracy on the test split, 0 to 1; None for runs that only select.
        best_epoch: The epoch whose parameters were measured.
        epochs: For every epoch `train_loss`, and `val_loss` and `val_accuracy`, None where it was not validated.
        sizes: The number of samples in each split.
        method: The method that trained; another than the spec's where that searches for one.
        failure: Why there are no numbers, as when the loss is no longer finite; empty otherwise.
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


@dataclasses.dataclass(frozen=True)
class Measured:
    """What the machine made of a run: no two runs agree on it.

    Args:
        seconds: Time of the epochs.
        step_seconds: Time of one training step; None where it was not measured.
        peak_bytes: Most memory that tensors take during a step; None where it was not measured.
        machine: What it ran on.
    """

    seconds: float
    step_seconds: float | None
    peak_bytes: int | None
    machine: str


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run.

    Args:
        spec: What was run.
        outcome: Its numbers.
        measured: What the machine took, if it is known.
    """

    spec: RunSpec
    outcome: Outcome
    measured: Measured | None = None


@dataclasses.dataclass(frozen=True)
class Cell:
    """A row of the table on one task.

    Args:
        part: The part's name.
        row: The row's label.
        task: The task.
        candidates: Ids of the runs that chose the options; empty where there was nothing to choose.
        runs: Ids of the runs that are reported, one a seed; empty while they are not finished.
    """

    part: str
    row: str
    task: str
    candidates: tuple[str, ...]
    runs: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Results:
    """Everything that is known of a sweep.

    Args:
        sweep: What was to be run.
        runs: The finished runs, by id.
        cells: The table's cells, in the sweep's order.
    """

    sweep: Sweep
    runs: Mapping[str, Run]
    cells: tuple[Cell, ...]

    def to_json(self) -> str:
        """Return what the sweep determines; what the machine took is left out."""
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
            SweepError: It is no JSON, or a field is missing or unknown.
        """
        return build(cls, parse_json(text, "results"), sweep=_sweep, runs=_runs, cells=_cells)


def _sweep(data: Any) -> Sweep:
    return Sweep.from_json(json.dumps(data))


def _runs(data: Any) -> dict[str, Run]:
    return {id: build(Run, run, spec=RunSpec.from_dict, outcome=outcome_from) for id, run in data.items()}


def outcome_from(data: Any) -> Outcome:
    """Read an outcome from plain data."""
    return build(Outcome, data, epochs=tuple)


def _cells(data: Any) -> tuple[Cell, ...]:
    return tuple(build(Cell, cell, candidates=tuple, runs=tuple) for cell in data)
