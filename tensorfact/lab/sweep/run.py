"""Run a sweep: everything is checked first, and what is done is never done again."""

from __future__ import annotations

from collections.abc import Container, Iterable
from pathlib import Path

from ...common.checks import AnyPath
from ...common.progress import Progress, silent
from ...errors import SweepError
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
    """Do a sweep's runs, those that are not done yet, and write `results.json`.

    Re-running the same command resumes the sweep, which ends with the same results whenever it was killed.

    Args:
        sweep: What to run.
        folder: Where its files are; made if it does not exist.
        root: Where the data is.
        device: What to train on.
        engine: What executes the runs; this process by default.
        workers: Processes that load data for a run.
        keep: Leave what every run trained in its folder.
        tracker: A tracker that accelerate knows; it writes into the runs' folders.
        check: Open every image of every task before anything trains.
        trials: Search the options with this many Optuna trials; 0 tries the full grid.
        progress: Called after every run.

    Returns:
        The results.

    Raises:
        TensorfactError: A model, a method, a task or its data is not what it should be, found before anything trains;
            or the folder is in use, or cannot be written.
    """
    store = Store(Path(folder))
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
    """Return a sweep's results, as far as they go.

    Args:
        folder: The folder of runs.

    Raises:
        SweepError: It holds no sweep, or its files are damaged.
    """
    store = Store(Path(folder))
    done = store.results()
    if done is not None:
        return done
    sweep = store.sweep()
    known = _known(store, (), known_specs(sweep))
    while True:  # what has been chosen makes further runs known
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
            raise SweepError("the engine left runs undone", fix="yield every spec, once it is done")


def _known(store: Store, known: Container[str], specs: Iterable[RunSpec]) -> dict[str, Run]:
    found = {spec.id: store.read(spec) for spec in specs if spec.id not in known}
    return {id: run for id, run in found.items() if run is not None}
