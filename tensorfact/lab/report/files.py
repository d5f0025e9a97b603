"""Write the report of a sweep to a folder."""

from __future__ import annotations

from pathlib import Path

from ...common.checks import AnyPath
from ...storage.writing import make_folder, write_text
from ..plots import save
from ..sweep import Results
from .html import page
from .pictures import draw_accuracy, draw_groups, draw_ranks, draw_tasks
from .summary import summarize
from .tables import latex, markdown, table_csv

TEXTS = {"report.html": page, "table.md": markdown, "table.csv": table_csv, "table.tex": latex}
PICTURES = {
    "accuracy.png": draw_accuracy,
    "rank.png": draw_ranks,
    "groups.png": draw_groups,
    "tasks.png": draw_tasks,
}


def write_sweep_report(results: Results, folder: AnyPath) -> list[Path]:
    """Write an HTML page, tables and pictures of a sweep.

    Every file is written atomically. A picture without data is not written, and an older version of it is deleted.

    Args:
        results: Results of the sweep; runs may be missing.
        folder: Output folder; created if it does not exist.

    Returns:
        Paths of the written files: `report.html`, `table.md`, `table.csv`, `table.tex`, and `accuracy.png`,
        `rank.png`, `groups.png`, `tasks.png` as far as they have data.

    Raises:
        CheckpointError: The folder cannot be written.
    """
    summary = summarize(results)
    texts = {Path(folder, name): write(summary) for name, write in TEXTS.items()}
    pictures = {Path(folder, name): draw(summary) for name, draw in PICTURES.items()}
    make_folder(folder)
    for path, text in texts.items():
        write_text(path, text)
    for path, figure in pictures.items():
        if figure:
            save(figure, path)
        else:
            path.unlink(missing_ok=True)
    return [*texts, *(path for path, figure in pictures.items() if figure)]
