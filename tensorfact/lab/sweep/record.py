"""Finished runs of a sweep in one file, small enough to commit, from which any machine goes on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import SweepError, naming
from ...storage.writing import make_folder, write_text
from ..locks import turn
from .check import compare_inputs
from .results import Measured, Outcome, Run
from .spec import RunSpec
from .store import INPUT, Store
from .stored import build, read_json, typed


@dataclasses.dataclass(frozen=True)
class Record:
    """Finished runs, with the inputs that they used: the digests of the weights, the sizes of the splits.

    Args:
        inputs: Inputs of the runs by name.
        runs: Runs by id.
    """

    inputs: Mapping[str, object]
    runs: Mapping[str, Run]

    @classmethod
    def read(cls, path: Path) -> Record:
        """Read a record; an empty one if the file does not exist.

        Args:
            path: The file.

        Raises:
            SweepError: It is damaged, or a run is not the one of its id.
        """
        if not path.exists():
            return cls({}, {})
        with naming(path):
            data = read_json(path, **_DAMAGED)
            if not isinstance(data, dict) or data.keys() != {"inputs", "runs"} or not isinstance(data["runs"], dict):
                raise SweepError("not a record of runs", expected="the keys inputs and runs", fix="--record runs.json")
            runs = {id: _run(id, each) for id, each in data["runs"].items()}
            return cls(typed(INPUT, data["inputs"], "inputs"), runs)

    def write(self, path: Path) -> None:
        """Write the record, one run a line, so that a change is a change of few lines.

        Args:
            path: The file.

        Raises:
            CheckpointError: It cannot be written.
        """
        _write(path, self.inputs, {id: _data(run) for id, run in self.runs.items()})


@dataclasses.dataclass(frozen=True)
class Recorder:
    """Keeps a folder of runs and a record in agreement.

    Args:
        store: The folder.
        path: The record.
    """

    store: Store
    path: Path

    def begin(self, inputs: Mapping[str, object]) -> None:
        """Copy the runs of the record into the folder.

        Args:
            inputs: The inputs that the sweep found on this machine.

        Raises:
            SweepError: The record is damaged, or its runs used other inputs.
            CheckpointError: The folder or the record cannot be written.
        """
        make_folder(self.path.parent)
        with turn(self.path, SweepError):
            record = Record.read(self.path)
            merged = Record(compare_inputs(record.inputs, inputs, self.path), record.runs)
            for run in record.runs.values():
                if self.store.read(run.spec) is None:
                    self.store.begin(run.spec)
                    self.store.finish(run)
            merged.write(self.path)

    def add(self, runs: Mapping[str, Run]) -> None:
        """Add finished runs to the record, which another process may write as well.

        Args:
            runs: Runs by id.

        Raises:
            SweepError: The record is damaged.
            CheckpointError: The record cannot be written.
        """
        with turn(self.path, SweepError):
            data: Any = read_json(self.path, **_DAMAGED)  # checked when it was begun
            if runs.keys() - data["runs"].keys():
                _write(self.path, data["inputs"], {**{id: _data(run) for id, run in runs.items()}, **data["runs"]})


_DAMAGED = {"cause": "the file is damaged", "fix": "restore the file, or pass another one"}


def _write(path: Path, inputs: Mapping[str, object], runs: Mapping[str, Mapping[str, Any]]) -> None:
    def order(pair: tuple[str, Mapping[str, Any]]) -> tuple[str, ...]:
        id, run = pair
        return *(str(run["spec"][name]) for name in ("stage", "task", "method", "scale", "seed")), id

    lines = [f"{json.dumps(id)}: {json.dumps(run, sort_keys=True)}" for id, run in sorted(runs.items(), key=order)]
    found = ",\n".join(lines)
    write_text(path, f'{{"inputs": {json.dumps(inputs, indent=1, sort_keys=True)},\n"runs": {{\n{found}\n}}}}\n')


def _data(run: Run) -> dict[str, Any]:
    measured = None if run.measured is None else dataclasses.asdict(run.measured)
    return {"spec": run.spec.to_dict(), "outcome": dataclasses.asdict(run.outcome), "measured": measured}


def _run(id: str, data: object) -> Run:
    if not isinstance(data, dict) or data.keys() != {"spec", "outcome", "measured"}:
        raise SweepError(f"run {id!r} is damaged", expected="spec, outcome and measured", fix="restore the file")
    try:
        spec, outcome = RunSpec.from_dict(data["spec"]), build(Outcome, data["outcome"])
        measured = None if data["measured"] is None else build(Measured, data["measured"])
    except SweepError as error:
        raise SweepError(f"run {id!r} is damaged", got=error.problem, fix="restore the file") from error
    if id != spec.id:
        raise SweepError(f"run {id!r} holds another run", expected=spec.id, got=id, fix="restore the file")
    return Run(spec, outcome, measured)
