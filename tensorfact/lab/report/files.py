"""Write the report of a sweep to a folder."""

from __future__ import annotations

from pathlib import Path

from ...common.checks import AnyPath
from ...storage.files import make_folder, write_text
from ..sweep import Results
from .html import page
from .pictures import draw_accuracy, draw_groups, draw_ranks, draw_tasks, save
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
    """Write a page, tables, and the pictures for which there are numbers.

    Each file appears whole or not at all. A picture for which there are no numbers is removed if it was there.

    Args:
        results: What is known of a sweep; runs may be missing.
        folder: Where to write; made if it does not exist.

    Returns:
        The files: `report.html`, `table.md`, `table.csv`, `table.tex`, and those of `accuracy.png`, `rank.png`,
        `groups.png` and `tasks.png` that apply.

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
