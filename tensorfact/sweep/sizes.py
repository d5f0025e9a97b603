"""What a sweep would train, before anything does: sizes beside the published ones, and numbers of runs."""

from __future__ import annotations

import dataclasses
import statistics

from ..data import task_info
from ..methods import num_parameters
from ..models import model_shapes
from ..table import Table
from .cells import collect, grid
from .definition import Part, Row, Sweep
from .spec import RunSpec


def known_specs(sweep: Sweep) -> list[RunSpec]:
    """Return the runs that are known before anything has been chosen.

    Args:
        sweep: The sweep.
    """
    return collect(sweep, {}, grid(sweep))[1]


def parameters(sweep: Sweep, part: Part, row: Row) -> dict[str, tuple[int, ...]]:
    """Return the numbers that each of a row's methods trains, the head apart, by task.

    Args:
        sweep: The sweep.
        part: The row's part.
        row: The row.

    Raises:
        TensorfactError: A method is unknown, or the model cannot take it.
    """
    counts: dict[str, int] = {}
    for task in part.tasks:
        for method, scale in row.candidates(task):
            if method not in counts:
                model = model_shapes(part.model)
                counts[method] = num_parameters(method, model, scale=scale, dropout=sweep.settings.dropout)
    return {task: tuple(counts[method] for method in row.methods_on(task)) for task in part.tasks}


def group_mean(values: dict[str, float]) -> float:
    """Return the mean of the groups' means, as VTAB averages.

    Args:
        values: A number for every task.
    """
    groups: dict[str, list[float]] = {}
    for task, value in values.items():
        groups.setdefault(task_info(task).group, []).append(value)
    return statistics.fmean(statistics.fmean(each) for each in groups.values())


def sizes(sweep: Sweep, part: Part) -> Table:
    """Return a part's rows: what they train, beside what was published, and how many runs they are.

    A row that chooses among sizes shows the smallest and the largest; one whose options differ from task to task, the
    mean of the groups' means.

    Args:
        sweep: The sweep.
        part: The part.

    Raises:
        TensorfactError: A method is unknown, or the model cannot take it.
    """
    rows = []
    for row in part.rows:
        alone = dataclasses.replace(sweep, parts=(dataclasses.replace(part, rows=(row,)),))
        first = known_specs(alone)
        choosing = [spec for spec in first if spec.stage != "final"]
        reported = len(part.tasks) * len(part.seeds_of(sweep)) if not sweep.released else 0
        published = "" if row.parameters is None else f"{row.parameters / 1e6:.3f}"
        counts = parameters(sweep, part, row)
        methods = list(dict.fromkeys(method for task in part.tasks for method in row.methods_on(task)))
        named = methods[0] if len(methods) == 1 else f"{methods[0]} … {methods[-1]}"
        scales = ", ".join(f"{scale:g}" for scale in row.scales if scale is not None)
        rows.append((row.label, named, scales, _span(counts), published, f"{len(choosing):,}", f"{reported:,}"))
    headers = ("row", "methods", "scales", "parameters", "published, M", "runs to choose", "runs to report")
    return Table(headers, tuple(rows))


def _span(counts: dict[str, tuple[int, ...]]) -> str:
    lowest = group_mean({task: float(min(each)) for task, each in counts.items()})
    highest = group_mean({task: float(max(each)) for task, each in counts.items()})
    return f"{lowest:,.0f}" if lowest == highest else f"{lowest:,.0f} … {highest:,.0f}"
