"""A folder of runs: each in a folder of its own, written so that nothing is ever there by half."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from filelock import FileLock, Timeout

from ...errors import SweepError
from ...storage.files import make_folder, write_text
from .definition import Sweep
from .results import Measured, Results, Run, outcome_from
from .spec import RunSpec, build, parse_json

SWEEP, RESULTS, INPUTS = "sweep.json", "results.json", "inputs.json"


@dataclasses.dataclass(frozen=True)
class Store:
    """Where a sweep's files are.

    `sweep.json` says what is to be run, `inputs.json` on which data and weights; `runs/ID/` holds a run's `spec.json`,
    while it runs its `training.safetensors`, and once it is done `measured.json` and then `result.json`; `results.json`
    holds the results of all.

    Args:
        folder: The folder.
    """

    folder: Path

    def of(self, spec: RunSpec) -> Path:
        """Return a run's folder."""
        return self.folder / "runs" / spec.id

    def begin(self, spec: RunSpec) -> Path:
        """Make a run's folder and write its spec.

        Raises:
            CheckpointError: It cannot be written.
        """
        folder = self.of(spec)
        make_folder(folder)
        write_text(folder / "spec.json", spec.to_json() + "\n")
        return folder

    def finish(self, run: Run) -> None:
        """Write a run's result: from here on it is done.

        Raises:
            CheckpointError: It cannot be written.
        """
        folder = self.of(run.spec)
        write_text(folder / "measured.json", json.dumps(run.measured and dataclasses.asdict(run.measured)) + "\n")
        write_text(folder / "result.json", json.dumps(dataclasses.asdict(run.outcome)) + "\n")
        (folder / "training.safetensors").unlink(missing_ok=True)

    def forget(self, spec: RunSpec) -> None:
        """Remove what there is of a run that is not done."""
        shutil.rmtree(self.of(spec), ignore_errors=True)

    def read(self, spec: RunSpec) -> Run | None:
        """Return a run; None while it is not done.

        Raises:
            SweepError: Its files are damaged.
        """
        folder = self.of(spec)
        result = folder / "result.json"
        if not result.exists():
            return None
        try:
            known = RunSpec.from_json(_text(folder / "spec.json"))
            outcome = outcome_from(parse_json(_text(result), str(result)))
        except SweepError as error:
            raise SweepError(
                f"{folder} is damaged", got=str(error), fix="remove it, and the run is done again"
            ) from error
        if known != spec:
            raise SweepError(f"{folder} holds another run", fix="remove the folder, and the run is done again")
        return Run(spec, outcome, self.measured(spec))

    def measured(self, spec: RunSpec) -> Measured | None:
        """Return what the machine took for a run, if it is known."""
        path = self.of(spec) / "measured.json"
        try:
            return build(Measured, json.loads(path.read_text()))
        except (OSError, ValueError):  # it is none of the result
            return None

    def write_sweep(self, sweep: Sweep) -> None:
        """Write what is to be run.

        Raises:
            CheckpointError: It cannot be written.
        """
        make_folder(self.folder)
        write_text(self.folder / SWEEP, sweep.to_json() + "\n")

    def inputs(self) -> dict[str, object]:
        """Return what the runs of the folder have read, by name.

        Raises:
            SweepError: The file is damaged.
        """
        path = self.folder / INPUTS
        found = parse_json(_text(path), str(path)) if path.exists() else {}
        return dict(found) if isinstance(found, Mapping) else {}

    def write_inputs(self, inputs: Mapping[str, object]) -> None:
        """Write what the runs of the folder read.

        Raises:
            CheckpointError: It cannot be written.
        """
        write_text(self.folder / INPUTS, json.dumps(inputs, indent=1, sort_keys=True) + "\n")

    def write_results(self, results: Results) -> None:
        """Write what came of it.

        Raises:
            CheckpointError: It cannot be written.
        """
        write_text(self.folder / RESULTS, results.to_json() + "\n")

    def sweep(self) -> Sweep:
        """Return what is to be run.

        Raises:
            SweepError: The folder holds no sweep.
        """
        return Sweep.from_json(_text(self.folder / SWEEP))

    def results(self) -> Results | None:
        """Return the results of the sweep if it is done, with what the machine took; None before.

        Raises:
            SweepError: They are damaged.
        """
        path = self.folder / RESULTS
        if not path.exists():
            return None
        stored = Results.from_json(_text(path))
        if stored.sweep != self.sweep():  # of one that was here before
            return None
        runs: Mapping[str, Run] = {
            id: dataclasses.replace(run, measured=self.measured(run.spec)) for id, run in stored.runs.items()
        }
        return dataclasses.replace(stored, runs=runs)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes' sweeps out of the folder while the context lasts; a killed one holds no lock.

        Raises:
            SweepError: Another process is at it.
        """
        make_folder(self.folder)
        lock = FileLock(self.folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise SweepError(
                f"{self.folder} is in use by another sweep", fix="wait for it, or choose another folder"
            ) from error
        except OSError as error:
            raise SweepError(f"{self.folder} cannot be written", got=str(error), fix="choose another folder") from error
        try:
            yield
        finally:
            lock.release()


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise SweepError(
            f"{path} cannot be read",
            got=str(error),
            cause="the folder holds no runs of a sweep",
            fix="pass the folder that `tensorfact sweep --out` wrote",
        ) from error
