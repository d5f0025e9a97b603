"""Write a comparison to a folder: JSON, Markdown, and a picture."""

from __future__ import annotations

import json
import os
import statistics
from pathlib import Path

from matplotlib.figure import Figure

from .compare import Comparison
from .errors import CheckpointError
from .files import make_folder, write_text


def write_report(comparison: Comparison, folder: str | Path) -> list[Path]:
    """Write `results.json`, `table.md` and `accuracy.png`.

    Args:
        comparison: What `compare` returned.
        folder: Where to write; made if it does not exist.

    Returns:
        The files.

    Raises:
        CheckpointError: The folder cannot be written.
    """
    folder = Path(folder)
    files = [folder / name for name in ("results.json", "table.md", "accuracy.png")]
    make_folder(folder)
    try:
        write_text(files[0], json.dumps(comparison.to_dict(), indent=2) + "\n")
        write_text(files[1], f"{comparison}\n")
        temporary = files[2].with_name(f".{files[2].name}.tmp")
        draw(comparison).savefig(temporary, dpi=160, format="png")
        os.replace(temporary, files[2])
    except OSError as error:
        raise CheckpointError(f"cannot write to {folder}", got=str(error), fix="choose another folder") from error
    return files


def draw(comparison: Comparison) -> Figure:
    """Draw test accuracy against the number of trained parameters (log axis), the spread over seeds as bars.

    A method that trains the head alone has no place on the axis and is drawn as a line.

    Args:
        comparison: What `compare` returned.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.add_subplot()
    kinds = list(dict.fromkeys(row.label.split()[0] for row in comparison.rows))
    for row in comparison.rows:
        values = [100 * value for value in row.test_accuracy]
        mean, spread = statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0
        colour = f"C{kinds.index(row.label.split()[0]) % 10}"
        if row.parameters:
            axes.errorbar(row.parameters, mean, spread, fmt="o", capsize=3, color=colour, label=row.label)
        else:
            axes.axhline(mean, linestyle="--", color=colour, label=row.label)
    figure.legend(loc="outside right upper", fontsize=9, frameon=False)
    axes.set_xscale("log")
    axes.margins(x=0.1, y=0.1)
    axes.set_xlabel("trained parameters, the head apart")
    axes.set_ylabel("test accuracy, %")
    info = comparison.run_info
    seeds = len(info["settings"]["seeds"])
    axes.set_title(f"{info['model']['name']} on {info['data']['name']}, {seeds} seed(s)", fontsize=10)
    axes.grid(visible=True, which="major", alpha=0.3)
    return figure
