"""Summary of a sweep for its tables, pictures and page: means, spreads over seeds, missing cells."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

from ..sweep import RELEASED, Cell, Results, Run, SweepPart, SweepRow, overall_mean, task_group
from .names import kind_of, rank_of

State = Literal["done", "failed", "unfinished"]


@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean over seeds.

    Args:
        mean: Arithmetic mean.
        spread: Standard deviation; None for a single seed.
    """

    mean: float
    spread: float | None

    @classmethod
    def over(cls, values: Sequence[float]) -> Mean:
        """Return the mean and spread of values, one per seed."""
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


@dataclasses.dataclass(frozen=True)
class CellSummary:
    """Summary of one row on one task.

    Args:
        task: Name of the task.
        runs: Finished reported runs, one per seed.
        chosen: Candidate run with the options of the reported runs; None if there was no choice.
        accuracy: Test accuracy; None unless every reported run is finished and has one.
        parameters: Mean number of trained parameters over the reported runs; None without runs.
        why: Reason why there is no accuracy; otherwise empty.
        state: `done`, `failed` or `unfinished`.
    """

    task: str
    runs: tuple[Run, ...]
    chosen: Run | None
    accuracy: Mean | None
    parameters: float | None
    why: str
    state: State

    @property
    def by_seed(self) -> dict[int, float]:
        """Test accuracy by seed."""
        found = {run.spec.seed: run.outcome.test_accuracy for run in self.runs}
        return {seed: accuracy for seed, accuracy in found.items() if accuracy is not None}

    @property
    def methods(self) -> tuple[str, ...]:
        """Methods of the reported runs, without duplicates."""
        return tuple(dict.fromkeys(run.outcome.method for run in self.runs))

    @property
    def scales(self) -> tuple[float | str | None, ...]:
        """Scales of the reported runs, without duplicates; None: the default of the method."""
        return tuple(dict.fromkeys(run.spec.scale for run in self.runs))

    @property
    def rates(self) -> tuple[float, ...]:
        """Learning rates of the reported runs, without duplicates."""
        return tuple(dict.fromkeys(run.spec.settings.lr for run in self.runs))


@dataclasses.dataclass(frozen=True)
class RankPoint:
    """Accuracy of one rank on the split that chooses options.

    Args:
        rank: The rank.
        accuracy: Mean over tasks of the accuracy at the best scale, 0 to 1.
        parameters: Mean number of trained parameters over tasks.
    """

    rank: int
    accuracy: float
    parameters: float


@dataclasses.dataclass(frozen=True)
class RowSummary:
    """Summary of one row of a table.

    Args:
        row: Definition of the row.
        style: Index of its colour and marker; rows with equal labels share it.
        kind: Kind of its first method; see `kind_of`.
        cells: One cell per task.
        groups: Mean accuracy by group of tasks; None if a cell of the group has no accuracy.
        accuracy: Mean of the group means; None if a cell has no accuracy.
        parameters: Mean number of trained parameters, averaged like the accuracy; None if a cell has none.
        ranks: Accuracy by rank; empty unless several ranks were tried.
        step_seconds: Median time of a training step, in seconds.
        peak_bytes: Median peak memory of a training step.
        seconds: Median training time of a run, in seconds.
    """

    row: SweepRow
    style: int
    kind: str
    cells: tuple[CellSummary, ...]
    groups: Mapping[str, Mean | None]
    accuracy: Mean | None
    parameters: float | None
    ranks: tuple[RankPoint, ...]
    step_seconds: float | None
    peak_bytes: float | None
    seconds: float | None


@dataclasses.dataclass(frozen=True)
class PartSummary:
    """Summary of one table.

    Args:
        part: Definition of the table.
        groups: Groups of its tasks, in order of first appearance.
        rows: Summaries of its rows.
    """

    part: SweepPart
    groups: tuple[str, ...]
    rows: tuple[RowSummary, ...]

    def tasks_of(self, group: str) -> tuple[str, ...]:
        """Return the tasks of a group, in the order of the part."""
        return tuple(task for task in self.part.tasks if task_group(task) == group)

    @property
    def tasks(self) -> tuple[str, ...]:
        """All tasks, sorted by group."""
        return tuple(task for group in self.groups for task in self.tasks_of(group))


@dataclasses.dataclass(frozen=True)
class Summary:
    """Summary of a sweep.

    Args:
        results: Results from which it was derived.
        parts: Summaries of the tables.
        protocol: Description of how options were chosen and which accuracy is reported.
    """

    results: Results
    parts: tuple[PartSummary, ...]
    protocol: str

    @property
    def note(self) -> str:
        """Warning for every caption if options were chosen on the test split; otherwise empty."""
        return RELEASED if self.results.sweep.released else ""

    def cells(self, state: State) -> list[tuple[PartSummary, RowSummary, CellSummary]]:
        """Return all cells in a state, with their parts and rows."""
        found = ((part, row, cell) for part in self.parts for row in part.rows for cell in row.cells)
        return [each for each in found if each[2].state == state]


def summarize(results: Results) -> Summary:
    """Summarize the results of a sweep.

    Args:
        results: Results of the sweep; runs may be missing.
    """
    sweep = results.sweep
    labels = list(dict.fromkeys(row.label for part in sweep.parts for row in part.rows))
    cells = {(cell.part, cell.row, cell.task): cell for cell in results.cells}

    def row_of(part: SweepPart, row: SweepRow, tasks: Iterable[str]) -> RowSummary:
        own = [cells.get((part.name, row.label, task), Cell(part.name, row.label, task, (), ())) for task in tasks]
        return _row(results, row, labels.index(row.label), own)

    parts = []
    for part in sweep.parts:
        empty = PartSummary(part, tuple(dict.fromkeys(map(task_group, part.tasks))), ())
        rows = tuple(row_of(part, row, empty.tasks) for row in part.rows)
        parts.append(dataclasses.replace(empty, rows=rows))
    return Summary(results, tuple(parts), sweep.protocol)


def _row(results: Results, row: SweepRow, style: int, own: Sequence[Cell]) -> RowSummary:
    cells = tuple(_cell(results, cell) for cell in own)
    groups = list(dict.fromkeys(task_group(cell.task) for cell in cells))
    in_group = {group: [cell for cell in cells if task_group(cell.task) == group] for group in groups}
    counts = {cell.task: cell.parameters for cell in cells if cell.parameters is not None}
    measured = [run.measured for cell in cells for run in cell.runs if run.measured]
    return RowSummary(
        row,
        style,
        kind_of(next(iter(row.methods or row.methods_on(cells[0].task if cells else "")), "")),
        cells,
        {group: _mean(each) for group, each in in_group.items()},
        _mean(cells),
        overall_mean(counts) if counts and len(counts) == len(cells) else None,
        _ranks(results, own),
        _median(each.step_seconds for each in measured),
        _median(each.peak_bytes for each in measured),
        _median(each.seconds for each in measured),
    )


def _cell(results: Results, cell: Cell) -> CellSummary:
    runs = tuple(results.runs[id] for id in cell.runs if id in results.runs)
    candidates = [results.runs[id] for id in cell.candidates if id in results.runs]
    options = {_options(run) for run in runs}
    chosen = next((run for run in candidates if _options(run) in options), None)
    values = [run.outcome.test_accuracy for run in runs if not run.outcome.failure]
    accuracies = [value for value in values if value is not None]
    failures = [f"seed {run.spec.seed}: {run.outcome.failure}" for run in runs if run.outcome.failure]
    if not runs and candidates and len(candidates) == len(cell.candidates):
        failed = [run.outcome.failure for run in candidates]
        failures = [f"every candidate: {failed[0]}"] if all(failed) else []
    finished = bool(runs) and len(accuracies) == len(cell.runs)
    state: State = "failed" if failures else "done" if finished else "unfinished"
    return CellSummary(
        cell.task,
        runs,
        chosen,
        Mean.over(accuracies) if state == "done" else None,
        statistics.fmean(run.outcome.parameters for run in runs) if runs else None,
        "; ".join(failures) or ("" if finished else "not finished"),
        state,
    )


def _options(run: Run) -> tuple[str, float | str | None, float]:
    """Return what a row chooses among: the method, the scale and the learning rate."""
    return run.spec.method, run.spec.scale, run.spec.settings.lr


def _mean(cells: Sequence[CellSummary]) -> Mean | None:
    """Return the mean of group means, with the spread over the seeds that all cells share."""
    means = {cell.task: cell.accuracy.mean for cell in cells if cell.accuracy}
    if not means or len(means) < len(cells):
        return None
    seeds = [seed for seed in cells[0].by_seed if all(seed in cell.by_seed for cell in cells)]
    by_seed = [overall_mean({cell.task: cell.by_seed[seed] for cell in cells}) for seed in seeds]
    return Mean(overall_mean(means), Mean.over(by_seed).spread if by_seed else None)


def _ranks(results: Results, cells: Sequence[Cell]) -> tuple[RankPoint, ...]:
    """Return the accuracy by rank, over the tasks whose candidates are finished at every rank."""
    best = {cell.task: _best_by_rank(results, cell) for cell in cells}
    ranks = sorted({rank for found in best.values() for rank in found})
    whole = {task: found for task, found in best.items() if ranks and found.keys() == set(ranks)}
    if len(ranks) < 2 or not whole:
        return ()

    def mean(rank: int, number: Callable[[Run], float]) -> float:
        return overall_mean({task: number(found[rank]) for task, found in whole.items()})

    score = _score(results)
    return tuple(
        RankPoint(rank, mean(rank, lambda run: score(run) or 0.0), mean(rank, lambda run: run.outcome.parameters))
        for rank in ranks
    )


def _best_by_rank(results: Results, cell: Cell) -> dict[int, Run]:
    """Return the best candidate of each rank; empty if a candidate is missing, which might be better."""
    best: dict[int, Run] = {}
    score = _score(results)
    for id in cell.candidates:
        if id not in results.runs:
            return {}
        run = results.runs[id]
        rank, value = rank_of(run.spec.method), score(run)
        if rank is None or value is None or run.outcome.failure:
            continue
        held = score(best[rank]) if rank in best else None
        if held is None or value > held:
            best[rank] = run
    return best


def _score(results: Results) -> Callable[[Run], float | None]:
    """Return the function that gives the accuracy by which options are chosen."""
    if results.sweep.released:
        return lambda run: run.outcome.test_accuracy
    return lambda run: run.outcome.val_accuracy


def _median(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return statistics.median(found) if found else None
