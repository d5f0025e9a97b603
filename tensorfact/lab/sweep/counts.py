"""Size of a sweep before it runs: parameter counts beside the published ones, and numbers of runs."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Mapping

from torch import nn

from ...common.table import Table
from ..methods import num_parameters
from ..models import model_shapes
from .cells import collect, grid
from .definition import Sweep, SweepPart, SweepRow
from .means import group_means, overall_mean
from .spec import RunSpec, spelled_scale


def known_specs(sweep: Sweep) -> list[RunSpec]:
    """Return the runs that do not depend on a choice of options.

    Args:
        sweep: The sweep, of which no run is finished.
    """
    return collect(sweep, {}, grid(sweep))[1]


def parameters(sweep: Sweep, part: SweepPart, row: SweepRow, model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Count the trained parameters, excluding the head, of every method of a row, by task.

    Args:
        sweep: Gives the dropout.
        part: Gives the tasks.
        row: Gives the methods.
        model: The model of the part, on any device, `meta` included; it is restored afterwards.

    Raises:
        TensorfactError: A method is unknown, or does not apply to the model.
    """
    counts: dict[str, int] = {}
    for task in part.tasks:
        for method, scale in row.candidates(task):
            if method not in counts:
                counts[method] = num_parameters(method, model, scale=scale, dropout=sweep.settings.dropout)
    return {task: tuple(counts[method] for method in row.methods_on(task)) for task in part.tasks}


def printed_size(counts: Mapping[str, float]) -> str:
    """Return the size of a method in millions, rounded per group of tasks and then averaged, as papers print it.

    They average over the means of the tasks' groups, each rounded to 0.001 M.

    Args:
        counts: Number of trained parameters by task.

    Examples:
        >>> printed_size({"vtab:cifar": 1_680.0, "vtab:svhn": 3_648.0, "vtab:eurosat": 8_000.0})
        '0.005'
    """
    return f"{statistics.fmean(round(mean / 1e6, 3) for mean in group_means(counts).values()):.3f}"


def sizes(sweep: Sweep, part: SweepPart) -> Table:
    """Return a table of the rows of a part: parameter counts beside the published ones, and numbers of runs.

    A row whose candidates differ in size shows the smallest and the largest. Learning rates are shown if a row chooses
    among them; else they are those of the settings.

    Args:
        sweep: Gives the seeds, the settings and the protocol.
        part: The part to list.

    Raises:
        TensorfactError: A method is unknown, or does not apply to the model.
    """
    rows, model = [], model_shapes(part.model)
    for row in part.rows:
        alone = dataclasses.replace(sweep, parts=(dataclasses.replace(part, rows=(row,)),))
        first = known_specs(alone)
        choosing = [spec for spec in first if spec.stage != "final"]
        reported = len(part.tasks) * (len(part.seeds_of(sweep)) - sweep.released)
        published = "" if row.parameters is None else f"{round(row.parameters / 1e6, 3):g}"
        counts = parameters(sweep, part, row, model)
        methods = list(dict.fromkeys(method for task in part.tasks for method in row.methods_on(task)))
        named = methods[0] if len(methods) == 1 else f"{methods[0]} … {methods[-1].partition(':')[2]}"
        scales = ", ".join(spelled_scale(scale) for scale in row.scales if scale is not None)
        ends = [{task: float(end(each)) for task, each in counts.items()} for end in (min, max)]
        mean, printed = _span(f"{overall_mean(end):,.0f}" for end in ends), _span(map(printed_size, ends))
        rates = (
            {"learning rates": ", ".join(f"{rate:g}" for rate in row.rates)} if any(r.rates for r in part.rows) else {}
        )
        rows.append(
            {
                "row": row.label,
                "methods": named,
                "scales": scales,
                **rates,
                "parameters": mean,
                "M": printed,
                "published, M": published,
                "runs to choose": f"{len(choosing):,}",
                "runs to report": f"{reported:,}",
            }
        )
    return Table(tuple(rows[0]) if rows else (), tuple(tuple(row.values()) for row in rows))


def _span(ends: Iterable[str]) -> str:
    return " … ".join(dict.fromkeys(ends))
