"""Run a sweep: check everything first, then execute the runs that are not finished yet."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from pathlib import Path

from ...common.checks import AnyPath, callback, file_path, finite_number
from ...common.progress import Progress, silent
from ...errors import SweepError, naming
from .cells import Candidates, collect, grid
from .check import check_sweep, compare_inputs
from .counts import known_specs
from .definition import Sweep
from .engines import Engine, Job, in_process
from .execute import Runner
from .record import Recorder
from .results import Results, Run
from .search import searched
from .spec import RunSpec
from .store import Store


def run_sweep(
    sweep: Sweep,
    folder: AnyPath,
    *,
    root: AnyPath | None = None,
    device: str = "cpu",
    engine: Engine | None = None,
    workers: int = 0,
    keep: bool = False,
    tracker: str | None = None,
    check: bool = True,
    trials: int = 0,
    limit: float | None = None,
    record: AnyPath | None = None,
    progress: Progress = silent,
) -> Results:
    """Execute the unfinished runs of a sweep, and write `results.json`.

    Calling it again on the same folder resumes the sweep; an interrupted sweep ends with the same results. With a
    record, it is resumed on another machine as well.

    Args:
        sweep: Definition of the sweep.
        folder: Folder for the runs and results; created if it does not exist.
        root: Folder with the data of the benchmarks.
        device: Device to train on.
        engine: Executes the runs; default: this process.
        workers: Number of data-loading processes per run.
        keep: Keep the trained parameters of every run in its folder.
        tracker: Name of a tracker of accelerate, such as `tensorboard`; it writes into the folders of the runs.
        check: Open every image of every task before training starts.
        trials: Search the options with this many Optuna trials; 0 tries the full grid.
        limit: Seconds after which no run begins; those that have begun are finished. None: no limit.
        record: One file of finished runs: those in it are not executed again, and new ones are added as they finish.
        progress: Called after every run.

    Returns:
        Results of all runs, or of those that are finished when the time is over.

    Raises:
        TensorfactError: Invalid model, method, task or data, raised before training starts; or the folder is in use or
            cannot be written.
    """
    callback(progress, "progress", SweepError)
    store = Store(file_path(folder, "folder", SweepError))
    end, recorder = _end(limit, trials), _recorder(store, record, trials)
    runner = Runner(store.folder, root if root is None else Path(root), device, workers, keep, tracker)
    with store.locked():
        found = check_sweep(sweep, runner.root, images=check, progress=progress)
        store.write_inputs(compare_inputs(store.inputs(), found, store.folder))
        if recorder:
            recorder.begin(found)
        store.write_sweep(sweep)
        candidates = searched(sweep, runner, trials, progress) if trials else grid(sweep)
        work = _working(runner, engine, end, progress)
        results, finished = _finish(sweep, store, candidates, work, recorder, progress)
        if finished:
            store.write_results(results)
        elif end is None:
            raise SweepError("the engine did not finish all runs", fix="yield every spec after job(spec)")
    return results


def read_results(folder: AnyPath) -> Results:
    """Read the results of a sweep, finished or not.

    Args:
        folder: Folder of runs.

    Raises:
        SweepError: The folder holds no sweep, or its files are damaged.
    """
    store = Store(file_path(folder, "folder", SweepError))
    with naming(store.folder):
        if (done := store.results()) is not None:
            return done
        sweep = store.sweep()
        known = _known(store, (), known_specs(sweep))
        while True:  # chosen options determine further runs
            results, needed = collect(sweep, known, grid(sweep))
            found = _known(store, known, needed)
            if not found:
                return results
            known |= found


Work = Callable[[Sequence[RunSpec]], Iterator[RunSpec]]
"""Executes runs, and yields the spec of each that it is done with."""


@dataclasses.dataclass(frozen=True)
class Before:
    """Executes runs until a time; later ones are left out.

    Args:
        job: Executes a run.
        end: The time, in seconds since the epoch.
    """

    job: Job
    end: float

    def __call__(self, spec: RunSpec) -> None:
        """Execute a run if there is time."""
        if time.time() < self.end:
            self.job(spec)


def _end(limit: float | None, trials: int) -> float | None:
    """Return the time after which no run begins, in seconds since the epoch."""
    if limit is None:
        return None
    seconds = finite_number(
        limit, "run_sweep: limit", SweepError, fits=lambda s: s > 0, expected="seconds above 0", example=3600
    )
    _refuse_trials("limit", trials)
    return time.time() + seconds


def _recorder(store: Store, record: AnyPath | None, trials: int) -> Recorder | None:
    """Return what keeps the record, if there is one."""
    if record is None:
        return None
    path = file_path(record, "run_sweep: record", SweepError, example="runs.json")
    _refuse_trials("record", trials)
    if path.parent == store.folder:
        raise SweepError(
            f"record {path} lies in the folder of runs, whose files have names of their own", fix="--record runs.json"
        )
    return Recorder(store, path)


def _refuse_trials(option: str, trials: int) -> None:
    """Raise if options are searched: a search is kept in a journal in the folder of runs, and ends by its trials."""
    if trials:
        raise SweepError(f"run_sweep: {option} does not apply to a search", got=f"trials={trials}", fix="trials=0")


def _working(runner: Runner, engine: Engine | None, end: float | None, progress: Progress) -> Work:
    """Return a function that executes runs, and yields the specs of those that it is done with."""

    def shown(spec: RunSpec) -> None:
        runner.run(spec, progress=progress)

    job: Job = runner if engine else shown
    if end is not None:
        job = Before(job, end)
    return lambda specs: (engine or in_process)(job, specs)


def _finish(
    sweep: Sweep, store: Store, candidates: Candidates, work: Work, recorder: Recorder | None, progress: Progress
) -> tuple[Results, bool]:
    """Return the results, and whether no run is missing."""
    known: dict[str, Run] = {}
    while True:
        results, needed = collect(sweep, known, candidates)
        if not needed:
            return results, True
        found = _known(store, known, needed)
        known |= found
        waiting = [spec for spec in needed if spec.id not in known]
        if recorder:
            recorder.add(found)
        for done, spec in enumerate(work(waiting), 1):
            if (run := store.read(spec)) is not None:
                progress("runs", done, len(waiting))
                known[spec.id] = run
                if recorder:
                    recorder.add({spec.id: run})
        if any(spec.id not in known for spec in waiting):
            return collect(sweep, known, candidates)[0], False


def _known(store: Store, known: Container[str], specs: Iterable[RunSpec]) -> dict[str, Run]:
    found = {spec.id: store.read(spec) for spec in specs if spec.id not in known}
    return {id: run for id, run in found.items() if run is not None}
