"""Write a comparison or a reconstruction to a folder: JSON, Markdown and a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ...algebra import Reconstructions
from ...common.checks import AnyPath
from ...common.table import counted
from ...storage.writing import make_folder, write_text
from ..comparison import Comparison
from ..plots import Figure, Label, canvas, label_directly, log_axis, look, save, titled
from .pictures import Mark, draw_marks
from .summary import Mean


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
    figure, (axes,) = canvas([4.2], width=8)
    labels = []
    for at, kind in enumerate(dict.fromkeys(row.label.split()[0] for row in found.rows)):
        rows = sorted((r for r in found.rows if r.label.split()[0] == kind), key=lambda row: row.parameters)
        axes.plot([row.parameters for row in rows], [row.error for row in rows], **look(at))
        labels.append(Label(kind, rows[-1].parameters, rows[-1].error, look(at)["color"]))
    axes.set_ylim(0, 1.1 * max((row.error for row in found.rows), default=0) or 1)
    log_axis(axes, "parameters")
    axes.set_ylabel("relative error of the increment")
    titled(axes, title)
    label_directly(axes, labels, ends=True)
    return figure


def draw(comparison: Comparison) -> Figure:
    """Plot test accuracy against the number of trained parameters (log axis), with error bars over seeds.

    A method that trains only the head is drawn as a horizontal line, since a log axis has no 0.

    Args:
        comparison: Result of `compare`.
    """
    figure, (axes,) = canvas([max(4.2, 0.24 * len(comparison.rows))], width=8)
    kinds = list(dict.fromkeys(row.label.split()[0] for row in comparison.rows))
    marks = (
        Mark(row.label, row.parameters, Mean.over(row.test_accuracy), kinds.index(row.label.split()[0]))
        for row in comparison.rows
    )
    labels = draw_marks(axes, marks, "test accuracy")
    info = comparison.run_info
    seeds = counted(len(info["settings"]["seeds"]), "seed")
    titled(axes, f"{info['model']['name']} on {info['data']['name']}, {seeds}")
    label_directly(axes, labels)
    return figure


def _written(folder: AnyPath, names: Sequence[str], data: object, table: str, figure: Figure) -> list[Path]:
    """Write JSON, Markdown and a picture, each atomically."""
    files = [Path(folder, name) for name in names]
    make_folder(folder)
    write_text(files[0], json.dumps(data, indent=2) + "\n")
    write_text(files[1], f"{table}\n")
    save(figure, files[2])
    return files
