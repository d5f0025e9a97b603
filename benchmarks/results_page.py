"""Write what a sweep came to into the documentation's page of results.

tensorfact sweep --preset small --engine pool --processes 2 --out runs/small
python -m benchmarks.results_page runs/small
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from tensorfact.common.table import Table
from tensorfact.lab.report import Summary, summarize, write_sweep_report
from tensorfact.lab.report.tables import with_spread
from tensorfact.lab.sweep import read_results
from tensorfact.storage.files import make_folder, write_text

DOCS = Path(__file__).parents[1] / "docs"
BEGIN, END = "<!-- results: begin, written by benchmarks/results_page.py -->", "<!-- results: end -->"
KEPT = ("table.csv", "accuracy.png", "tasks.png", "rank.png")


def chosen(summary: Summary) -> Table:
    """Return what was chosen for every row and task."""
    (part,) = summary.parts
    rows = []
    for row in part.rows:
        cells = []
        for cell in row.cells:
            scales = [f"scale {scale:g}" for scale in cell.scales if scale is not None]
            cells.append(
                ", ".join([*(method.split(":")[1] if ":" in method else "" for method in cell.methods), *scales])
            )
        if len(row.row.candidates(part.part.tasks[0])) > 1:
            rows.append((row.row.label, *cells))
    return Table(("chosen", *part.part.tasks), tuple(rows))


def results(summary: Summary) -> Table:
    """Return every row's accuracies with their spread over seeds."""
    (part,) = summary.parts
    rows = []
    for row in part.rows:
        accuracies = [with_spread(each) for each in (*(cell.accuracy for cell in row.cells), row.accuracy)]
        rows.append((row.row.label, f"{row.parameters:,.0f}", *accuracies))
    return Table(("method", "parameters", *part.part.tasks, "mean"), tuple(rows))


def section(summary: Summary) -> str:
    """Return the generated part of the page."""
    settings = summary.results.sweep.settings
    runs = list(summary.results.runs.values())
    seconds = sum(run.measured.seconds for run in runs if run.measured)
    return "\n".join(
        [
            BEGIN,
            "",
            "`make results`, which is `tensorfact sweep --preset small --engine pool --processes 2 --device cpu",
            "--out runs/small` and `python -m benchmarks.results_page runs/small`:",
            f"{len(runs)} runs of {settings.epochs} epochs, learning rate",
            f"{settings.lr:g}, {seconds / 3600:.1f} hours of training on one core each.",
            "",
            summary.protocol,
            "",
            str(results(summary)),
            "",
            "[The runs](results/table.csv) are a file; `runs/small/report.html` sorts and filters, and has curves,",
            "costs and every run's spec.",
            "",
            "![Test accuracy against trained parameters](results/accuracy.png)",
            "",
            "![Test accuracy on every task](results/tasks.png)",
            "",
            "What the validation split chose:",
            "",
            str(chosen(summary)),
            "",
            END,
        ]
    )


def main() -> None:
    """Write the section, the report and the pictures."""
    summary = summarize(read_results(sys.argv[1]))
    make_folder(DOCS / "results")
    with tempfile.TemporaryDirectory() as folder:
        written = {path.name: path for path in write_sweep_report(summary.results, folder)}
        for name in KEPT:
            shutil.copy(written[name], DOCS / "results" / name)
    page = DOCS / "results.md"
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    write_text(page, before + section(summary) + after)
    print(f"written: {page}")


if __name__ == "__main__":
    main()
