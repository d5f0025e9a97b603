"""Write a comparison or a reconstruction to a folder: JSON, Markdown and a picture."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from ...algebra import Reconstructions
from ...common.checks import AnyPath
from ...storage.writing import make_folder, write_text
from ..comparison import Comparison
from .pictures import save

MARKERS = "os^Dv"
"""Markers by tens of methods: the colours repeat after ten methods, with the next marker."""


def write_report(comparison: Comparison, folder: AnyPath) -> list[Path]:
    """Write `results.json`, `table.md` and `accuracy.png`.

    Args:
        comparison: Result of `compare`.
        folder: Output folder; created if it does not exist.

    Returns:
        Paths of the three files.

    Raises:
        CheckpointError: The folder cannot be written.
    """
    names = ("results.json", "table.md", "accuracy.png")
    return _written(folder, names, comparison.to_dict(), str(comparison), draw(comparison))


def write_reconstructions(found: Reconstructions, folder: AnyPath, title: str) -> list[Path]:
    """Write `increment.json`, `increment.md` and `increment.png`.

    Args:
        found: Result of `reconstruct`.
        folder: Output folder; created if it does not exist.
        title: Title of the picture.

    Returns:
        Paths of the three files.

    Raises:
        CheckpointError: The folder cannot be written.
    """
    names = ("increment.json", "increment.md", "increment.png")
    return _written(folder, names, found.to_dict(), str(found), draw_reconstructions(found, title))


def draw_reconstructions(found: Reconstructions, title: str) -> Figure:
    """Plot the relative error against the number of parameters (log axis), one line per format.

    Args:
        found: Result of `reconstruct`.
        title: Title of the figure.
    """
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.add_subplot()
    kinds = list(dict.fromkeys(row.label.split()[0] for row in found.rows))
    for at, kind in enumerate(kinds):
        rows = sorted((r for r in found.rows if r.label.split()[0] == kind), key=lambda row: row.parameters)
        points = [row.parameters for row in rows], [row.error for row in rows]
        axes.plot(*points, marker="o", color=f"C{at % 10}", label=kind)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("parameters")
    axes.set_ylabel("relative error of the increment")
    axes.set_title(title, fontsize=10)
    axes.grid(visible=True, which="major", alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=9, frameon=False)
    return figure


def draw(comparison: Comparison) -> Figure:
    """Plot test accuracy against the number of trained parameters (log axis), with error bars over seeds.

    A method that trains only the head is drawn as a horizontal line, since a log axis has no 0.

    Args:
        comparison: Result of `compare`.
    """
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.add_subplot()
    kinds = list(dict.fromkeys(row.label.split()[0] for row in comparison.rows))
    for row in comparison.rows:
        values = [100 * value for value in row.test_accuracy]
        mean, spread = statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0
        number = kinds.index(row.label.split()[0])
        colour, marker = f"C{number % 10}", MARKERS[number // 10 % len(MARKERS)]
        if row.parameters:
            axes.errorbar(row.parameters, mean, spread, fmt=marker, capsize=3, color=colour, label=row.label)
        else:
            axes.axhline(mean, linestyle="--", color=colour, label=row.label)
    figure.legend(loc="outside right upper", fontsize=9, frameon=False)
    axes.set_xscale("log")
    axes.margins(x=0.1, y=0.1)
    axes.set_xlabel("trained parameters, excluding the head")
    axes.set_ylabel("test accuracy, %")
    info = comparison.run_info
    seeds = len(info["settings"]["seeds"])
    axes.set_title(f"{info['model']['name']} on {info['data']['name']}, {seeds} seed(s)", fontsize=10)
    axes.grid(visible=True, which="major", alpha=0.3)
    return figure


def _written(folder: AnyPath, names: Sequence[str], data: object, table: str, figure: Figure) -> list[Path]:
    """Write JSON, Markdown and a picture, each atomically."""
    files = [Path(folder, name) for name in names]
    make_folder(folder)
    write_text(files[0], json.dumps(data, indent=2) + "\n")
    write_text(files[1], f"{table}\n")
    save(figure, files[2])
    return files
