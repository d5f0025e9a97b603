"""Folder of runs: every run has its own folder, and every file is written atomically."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from ...errors import SweepError, naming
from ...storage.writing import make_folder, write_text
from ..locks import locked
from .definition import Sweep
from .results import Measured, Outcome, Results, Run
from .spec import RunSpec
from .stored import build, read_json, typed

SWEEP, RESULTS, INPUTS = "sweep.json", "results.json", "inputs.json"
INPUT = Mapping[str, str | Mapping[str, int]]
"""Inputs of runs by name: the fingerprint of a model, or the sizes of a task's splits and the number of its classes."""


@dataclasses.dataclass(frozen=True)
class Store:
    """Reads and writes the files of a sweep.

    `sweep.json` holds the definition of the sweep, `inputs.json` the sizes of its data and the fingerprints of its
    weights. `runs/ID/` holds the `spec.json` of a run, `training.safetensors` while it trains, and `measured.json` and
    then `result.json` once it is finished. `results.json` holds the results of all runs.

    Args:
        folder: Root folder of the sweep.
    """

    folder: Path

    def of(self, spec: RunSpec) -> Path:
        """Return the folder of a run."""
        return self.folder / "runs" / spec.id

    def begin(self, spec: RunSpec) -> Path:
        """Create the folder of a run and write its spec.

        Raises:
            CheckpointError: The folder cannot be written.
        """
        folder = self.of(spec)
        make_folder(folder)
        write_text(folder / "spec.json", spec.to_json() + "\n")
        return folder

    def finish(self, run: Run) -> None:
        """Write the result of a run, which marks it as finished.

        Raises:
            CheckpointError: The folder cannot be written.
        """
        folder = self.of(run.spec)
        write_text(folder / "measured.json", json.dumps(run.measured and dataclasses.asdict(run.measured)) + "\n")
        write_text(folder / "result.json", json.dumps(dataclasses.asdict(run.outcome)) + "\n")
        (folder / "training.safetensors").unlink(missing_ok=True)

    def forget(self, spec: RunSpec) -> None:
        """Delete the folder of an unfinished run."""
        shutil.rmtree(self.of(spec), ignore_errors=True)

    def read(self, spec: RunSpec) -> Run | None:
        """Read a run; None if it is not finished.

        Raises:
            SweepError: Its files are damaged, or belong to another spec.
        """
        folder = self.of(spec)
        result = folder / "result.json"
        if not result.exists():
            return None
        try:
            known = RunSpec.from_dict(read_json(folder / "spec.json"))
            outcome = build(Outcome, read_json(result))
        except SweepError as error:
            raise SweepError(
                f"{folder} is damaged", got=str(error), fix="delete the folder and run the sweep again"
            ) from error
        if known != spec:
            raise SweepError(f"{folder} holds another run", fix="delete the folder and run the sweep again")
        return Run(spec, outcome, self.measured(spec))

    def measured(self, spec: RunSpec) -> Measured | None:
        """Read the time and memory of a run; None if not recorded."""
        try:
            return build(Measured, read_json(self.of(spec) / "measured.json"))
        except SweepError:  # optional: results do not depend on it
            return None

    def write_sweep(self, sweep: Sweep) -> None:
        """Write the definition of the sweep.

        Raises:
            CheckpointError: The folder cannot be written.
        """
        make_folder(self.folder)
        write_text(self.folder / SWEEP, sweep.to_json() + "\n")

    def inputs(self) -> dict[str, object]:
        """Read the inputs of the runs in the folder, by name.

        Raises:
            SweepError: The file is damaged.
        """
        path = self.folder / INPUTS
        found: dict[str, object] = typed(INPUT, read_json(path), str(path)) if path.exists() else {}
        return found

    def write_inputs(self, inputs: Mapping[str, object]) -> None:
        """Write the inputs of the runs in the folder.

        Raises:
            CheckpointError: The folder cannot be written.
        """
        write_text(self.folder / INPUTS, json.dumps(inputs, indent=1, sort_keys=True) + "\n")

    def write_results(self, results: Results) -> None:
        """Write the results of all runs.

        Raises:
            CheckpointError: The folder cannot be written.
        """
        write_text(self.folder / RESULTS, results.to_json() + "\n")

    def sweep(self) -> Sweep:
        """Read the definition of the sweep.

        Raises:
            SweepError: The folder holds no sweep.
        """
        with naming(self.folder / SWEEP):
            return build(Sweep, read_json(self.folder / SWEEP))

    def results(self) -> Results | None:
        """Read the results of a finished sweep, with time and memory of its runs; None if it is not finished.

        Raises:
            SweepError: The files are damaged.
        """
        path = self.folder / RESULTS
        if not path.exists():
            return None
        with naming(path):
            stored = Results.from_data(read_json(path))
        if stored.sweep != self.sweep():  # results of an earlier sweep in this folder
            return None
        runs: Mapping[str, Run] = {
            id: dataclasses.replace(run, measured=self.measured(run.spec)) for id, run in stored.runs.items()
        }
        return dataclasses.replace(stored, runs=runs)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder against other processes inside the context; the lock of a killed process is released.

        Raises:
            SweepError: Another process holds the lock, or the folder cannot be written.
        """
        make_folder(self.folder)
        with locked(self.folder, SweepError, user="sweep", fix="--out runs/other"):
            yield
