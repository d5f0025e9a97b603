"""Derive from the finished runs the cells of the table and the runs that are still missing."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence

from ..methods import search_of
from .definition import Sweep, SweepPart, SweepRow
from .results import Cell, Results, Run
from .spec import RunSpec, Stage

Candidates = Callable[[SweepPart, SweepRow, str], Sequence[RunSpec]]
"""Function from a part, a row and a task to the candidate runs."""


def grid(sweep: Sweep) -> Candidates:
    """Return the full grid of candidates: every method of a row with every scale and rate, with the first seed.

    Args:
        sweep: Gives the seeds, the settings and the stage of the runs.
    """
    stage: Stage = "released" if sweep.released else "select"

    def candidates(part: SweepPart, row: SweepRow, task: str) -> list[RunSpec]:
        seed = part.seeds_of(sweep)[0]
        rates = row.rates or (None,)
        options = itertools.product(row.candidates(task), rates)
        return [sweep.spec(part, task, method, scale, seed, stage, lr) for (method, scale), lr in options]

    return candidates


def collect(sweep: Sweep, runs: Mapping[str, Run], candidates: Candidates) -> tuple[Results, list[RunSpec]]:
    """Return the results so far, and the missing runs that can be executed now.

    Args:
        sweep: Parts, rows and tasks of the table.
        runs: Finished runs by id.
        candidates: Returns the runs among which the options of a cell are chosen.
    """
    cells: list[Cell] = []
    needed: dict[str, RunSpec] = {}
    for part in sweep.parts:
        for row in part.rows:
            for task in part.tasks:
                tried, reported = _cell(sweep, part, candidates(part, row, task), runs)
                needed |= {spec.id: spec for spec in (*tried, *reported)}
                whole = all(spec.id in runs for spec in reported)
                ids = tuple(spec.id for spec in reported) if whole else ()
                cells.append(Cell(part.name, row.label, task, tuple(spec.id for spec in tried), ids))
    known = {id: runs[id] for id in needed if id in runs}
    return Results(sweep, known, tuple(cells)), [spec for id, spec in needed.items() if id not in runs]


def _cell(
    sweep: Sweep, part: SweepPart, tried: Sequence[RunSpec], runs: Mapping[str, Run]
) -> tuple[Sequence[RunSpec], Sequence[RunSpec]]:
    """Return the candidate runs, and the reported runs; the latter are empty until the candidates are finished."""
    seeds = part.seeds_of(sweep)
    if sweep.released:
        best = _best(tried, runs)
        return tried, [dataclasses.replace(best.spec, seed=seed) for seed in seeds] if best else []
    if len(tried) == 1 and search_of(tried[0].method) is None:
        return (), [dataclasses.replace(tried[0], seed=seed, stage="final") for seed in seeds]
    best = _best(tried, runs)
    if best is None:
        return tried, []
    return tried, [
        dataclasses.replace(best.spec, method=best.outcome.method, seed=seed, stage="final") for seed in seeds
    ]


def _best(tried: Sequence[RunSpec], runs: Mapping[str, Run]) -> Run | None:
    """Return the run with the best validation accuracy; ties go to fewer parameters, then to the first run.

    None if a run is missing, or if all failed.
    """
    if not all(spec.id in runs for spec in tried):
        return None
    done = [runs[spec.id] for spec in tried if not runs[spec.id].outcome.failure]
    return max(done, key=lambda run: (run.outcome.val_accuracy or 0.0, -run.outcome.parameters), default=None)
