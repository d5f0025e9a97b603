"""The page of the sweep of real tasks: tables and a picture from its committed runs.

    tensorfact fetch dinov2-s tasks
    tensorfact sweep --preset real --engine pool --record docs/results/real.json --out runs/real
    python -m benchmarks.results_page

`docs/results/real.json` holds every finished run; the second command goes on from it on any machine.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path

from tensorfact.common.table import Table
from tensorfact.lab.data.real import REAL
from tensorfact.lab.plots import canvas, label_directly, save, titled
from tensorfact.lab.report import Summary, summarize
from tensorfact.lab.report.intervals import Interval, accuracy, difference
from tensorfact.lab.report.names import task_label
from tensorfact.lab.report.pictures import Mark, draw_marks
from tensorfact.lab.report.summary import Mean, RowSummary
from tensorfact.lab.sweep import Results, preset
from tensorfact.lab.sweep.cells import collect, grid
from tensorfact.lab.sweep.record import Record

DOCS = Path(__file__).parents[1] / "docs"
RUNS, PICTURE = DOCS / "results" / "real.json", DOCS / "results" / "real.png"
OURS, PEERS = ("tensor-train 16", "Tucker 28", "CP 52"), ("LoRA (peft)", "full fine-tuning")
"""The methods of at most 50,000 numbers, and those that they are compared with."""


def results() -> Results:
    """Return the committed runs as the results of the sweep of the size `cpu`, finished or not."""
    sweep = preset("real", "cpu")
    return collect(sweep, Record.read(RUNS).runs, grid(sweep))[0]


def points(interval: Interval | None, *, signed: bool = False, failed: bool = False) -> str:
    """Return an interval in percent or percentage points; without one, whether a run failed, or nothing."""
    if interval is None:
        return "failed" * failed
    half = "" if interval.half is None else f" ± {100 * interval.half:.1f}"
    return f"{100 * interval.mean:{'+' * signed}.1f}{half}"


def table(summary: Summary) -> Table:
    """Return every method with its accuracies, sizes, time and memory; the best mean first."""
    (part,) = summary.parts
    rows = []
    for row in sorted(part.rows, key=lambda row: -(found.mean if (found := accuracy(row)) else 0.0)):
        tasks = (points(accuracy(row, cell.task), failed=cell.state == "failed") for cell in row.cells)
        rows.append((row.row.label, count(row.parameters), kibibytes(row), *tasks, points(accuracy(row)), *cost(row)))
    names = map(task_label, part.tasks)
    return Table(("method", "parameters", "file, KiB", *names, "mean", "step, ms", "peak, MiB"), tuple(rows))


def count(parameters: float | None) -> str:
    """Return a number of parameters, or nothing."""
    return "" if parameters is None else f"{parameters:,.0f}"


def kibibytes(row: RowSummary) -> str:
    """Return the median size of what a run writes, with its head, or nothing."""
    sizes = [run.outcome.bytes for cell in row.cells for run in cell.runs]
    return f"{statistics.median(sizes) / 1024:,.0f}" if sizes else ""


def cost(row: RowSummary) -> tuple[str, str]:
    """Return the median time of a training step and the median peak of memory, or nothing."""
    step, peak = row.step_seconds, row.peak_bytes
    return "" if step is None else f"{1000 * step:,.0f}", "" if peak is None else f"{peak / 2**20:,.0f}"


def differences(summary: Summary) -> Table:
    """Return how our methods differ from each peer: points of test accuracy, paired by seed."""
    (part,) = summary.parts
    rows = {row.row.label: row for row in part.rows}
    lines = []
    for ours in OURS:
        for peer in PEERS:
            tasks = (points(difference(rows[ours], rows[peer], task), signed=True) for task in part.tasks)
            mean = points(difference(rows[ours], rows[peer]), signed=True)
            lines.append((ours, peer, *tasks, mean))
    return Table(("method", "minus", *map(task_label, part.tasks), "mean"), tuple(lines))


def tasks() -> Table:
    """Return the real tasks: what they classify, where the images come from, and their licence."""
    rows = tuple((f"`real:{name}`", f"{len(task.classes)}", task.origin, task.licence) for name, task in REAL.items())
    return Table(("task", "classes", "images", "licence"), rows)


def draw() -> None:
    """Draw mean test accuracy against trained parameters, with intervals, beside the runs."""
    (part,) = summarize(results()).parts
    found = [(row, interval) for row in part.rows if (interval := accuracy(row))]
    marks = [Mark(row.row.label, row.parameters or 0, Mean(i.mean, i.half), row.style) for row, i in found]
    figure, (axes,) = canvas([4.4])
    labels = draw_marks(axes, marks, "mean test accuracy")
    titled(axes, "DINOv2 ViT-S/14, three real tasks", "95 % intervals over seeds")
    label_directly(axes, labels)
    save(figure, PICTURE)


def sections() -> Iterator[tuple[str, str]]:
    """Yield every generated section of the page: its name there, and its text."""
    summary = summarize(results())
    runs = summary.results.runs.values()
    hours = sum(run.measured.seconds for run in runs if run.measured) / 3600
    yield "real-runs", f"{len(runs)} finished runs, {hours:.1f} hours of one core in all. {summary.protocol}"
    yield "real", str(table(summary))
    yield "real-differences", str(differences(summary))
    yield "real-chosen", str(chosen(summary))


def chosen(summary: Summary) -> Table:
    """Return the learning rate that the validation split chose for every row and task."""
    (part,) = summary.parts
    rows = [
        (row.row.label, *(", ".join(f"{rate:g}" for rate in cell.rates) for cell in row.cells)) for row in part.rows
    ]
    return Table(("learning rate", *map(task_label, part.tasks)), tuple(rows))
