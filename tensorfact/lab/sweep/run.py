"""Run a sweep: check everything first, then execute the runs that are not finished yet."""

from __future__ import annotations

from collections.abc import Container, Iterable
from pathlib import Path

from ...common.checks import AnyPath, callback, file_path
from ...common.progress import Progress, silent
from ...errors import SweepError, naming
from .cells import Candidates, collect, grid
from .check import check_sweep, compare_inputs
from .counts import known_specs
from .definition import Sweep
from .engines import Engine, in_process
from .execute import Runner
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
    progress: Progress = silent,
) -> Results:
    """Execute the unfinished runs of a sweep, and write `results.json`.

    Calling it again on the same folder resumes the sweep; an interrupted sweep ends with the same results.

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
        progress: Called after every run.

    Returns:
        Results of all runs.

    Raises:
        TensorfactError: Invalid model, method, task or data, raised before training starts; or the folder is in use or
            cannot be written.
    """
    callback(progress, "progress", SweepError)
    store = Store(file_path(folder, "folder", SweepError))
    runner = Runner(store.folder, root if root is None else Path(root), device, workers, keep, tracker)
    with store.locked():
        found = check_sweep(sweep, runner.root, images=check, progress=progress)
        store.write_inputs(compare_inputs(store.inputs(), found, store.folder))
        store.write_sweep(sweep)
        candidates = grid(sweep)
        if trials:
            candidates = searched(sweep, runner, trials, progress)
        results = _finish(sweep, store, runner, engine, candidates, progress)
        store.write_results(results)
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


def _finish(
    sweep: Sweep, store: Store, runner: Runner, engine: Engine | None, candidates: Candidates, progress: Progress
) -> Results:
    known: dict[str, Run] = {}

    def job(spec: RunSpec) -> None:
        runner.run(spec, progress=progress)

    while True:
        results, needed = collect(sweep, known, candidates)
        if not needed:
            return results
        known |= _known(store, known, needed)
        waiting = [spec for spec in needed if spec.id not in known]
        doing = engine(runner, waiting) if engine else in_process(job, waiting)
        for done, spec in enumerate(doing, 1):
            progress("runs", done, len(waiting))
            run = store.read(spec)
            assert run is not None
            known[spec.id] = run
        if any(spec.id not in known for spec in waiting):
            raise SweepError("the engine did not finish all runs", fix="yield every spec after job(spec)")


def _known(store: Store, known: Container[str], specs: Iterable[RunSpec]) -> dict[str, Run]:
    found = {spec.id: store.read(spec) for spec in specs if spec.id not in known}
    return {id: run for id, run in found.items() if run is not None}
