"""Write the tables and pictures of measured accuracy in README.md and docs, from the data in docs/results.

    python -m benchmarks.results_page                       # from the data that is committed
    python -m benchmarks.results_page --sweep runs/small --recipes runs/recipes --compare runs/compare

A folder that is given replaces the committed data first: that of `tensorfact sweep --preset small`, of
`examples/compare_recipes.py` and of `tensorfact compare`.
"""

from __future__ import annotations

import argparse
import inspect
import json
import shutil
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import budget, learning_rate, modes, preconditioned, real, real_limits, versions
from benchmarks.results_data import COMPARE, DOCS, RECIPES, RUNS, TRIED, read_comparison, read_runs, runs_csv
from benchmarks.runs import read
from tensorfact.common.table import Table
from tensorfact.lab.plots import save
from tensorfact.lab.report import Summary, draw, summarize, write_sweep_report
from tensorfact.lab.report.tables import with_spread
from tensorfact.lab.sweep import read_results
from tensorfact.recipes import RECIPES as METHODS
from tensorfact.storage.writing import write_text

PICTURES = ("accuracy.png", "tasks.png", "rank.png")
README = DOCS.parent / "README.md"


def chosen(summary: Summary) -> Table:
    """Return what was chosen for every row and task."""
    (part,) = summary.parts
    rows = []
    for row in part.rows:
        cells = []
        for cell in row.cells:
            scales = [f"scale {scale:g}" for scale in cell.scales if scale is not None]
            options = [method.partition(":")[2] for method in cell.methods]
            cells.append(", ".join([*options, *scales]))
        if len(row.row.candidates(part.part.tasks[0])) > 1:
            rows.append((row.row.label, *cells))
    return Table(("chosen", *part.part.tasks), tuple(rows))


def results(summary: Summary) -> Table:
    """Return every row's accuracies with their spread over seeds, the best mean first, the best of a column in bold."""
    (part,) = summary.parts
    found = [(row, [*(cell.accuracy for cell in row.cells), row.accuracy]) for row in part.rows]
    best = [
        max(round(each.mean, 3) for each in column if each)
        for column in zip(*(cells for _, cells in found), strict=True)
    ]
    rows = []
    for row, cells in sorted(found, key=lambda pair: -(pair[1][-1].mean if pair[1][-1] else 0.0)):
        texts = [
            f"**{with_spread(each)}**" if each and round(each.mean, 3) == most else with_spread(each)
            for each, most in zip(cells, best, strict=True)
        ]
        rows.append((row.row.label, f"{row.parameters:,.0f}", *texts))
    return Table(("method", "parameters", *part.part.tasks, "mean"), tuple(rows))


def sweep_section(summary: Summary) -> str:
    """Return the section of every method on three tasks."""
    settings = summary.results.sweep.settings
    runs = list(summary.results.runs.values())
    seconds = sum(run.measured.seconds for run in runs if run.measured)
    return "\n".join(
        [
            f"`make results` trained {len(runs)} runs of {settings.epochs} epochs at learning rate {settings.lr:g},",
            f"in {seconds / 3600:.1f} hours of one core each.",
            "",
            summary.protocol,
            "",
            "Test accuracy in percent; ± is the standard deviation over these seeds. Best of each column in bold.",
            "",
            str(results(summary)),
            "",
            "TT: tensor train, TK: Tucker. The number is the rank; after ≤, the highest rank to choose from.",
            "",
            "[Every run](results/runs.csv), with those that chose the options.",
            "",
            "![Test accuracy against trained parameters](results/accuracy.png)",
            "",
            "![Test accuracy on every task](results/tasks.png)",
            "",
            "What the validation split chose:",
            "",
            str(chosen(summary)),
        ]
    )


def recipes_section() -> str:
    """Return the table of published methods on one model."""
    comparison = read_comparison(RECIPES)
    rows = []
    for row in sorted(comparison.rows, key=lambda row: row.parameters):
        name, _, factor = row.label.partition(" x")
        title = (inspect.getdoc(METHODS[name]) or "").partition(":")[0]
        sizes = (f"{row.parameters:,}", f"{row.bytes / 1024:,.0f} KiB")
        accuracies = (percent(each) for each in (row.val_accuracy, row.test_accuracy))
        rows.append((title, f"`{name}`", f"x {factor}", *sizes, *accuracies))
    headers = ("method", "recipe", "scale", "parameters", "file", "validation %", "test %")
    return str(Table(headers, tuple(rows)))


def percent(values: Sequence[float]) -> str:
    """Return the mean over seeds with its standard deviation, in percent."""
    return f"{100 * statistics.fmean(values):.1f} ± {100 * statistics.stdev(values):.1f}"


def sections() -> Iterator[tuple[Path, str, str]]:
    """Yield every generated section: its file, its name there, and its text."""
    yield DOCS / "results.md", "sweep", sweep_section(summarize(read_runs(RUNS.read_text())))
    yield DOCS / "results.md", "recipes", recipes_section()
    yield README, "compare", str(read_comparison(COMPARE))
    rates, steps = read(learning_rate.RUNS), read(preconditioned.RUNS)
    for name, part in learning_rate.PARTS.items():
        yield DOCS / "learning-rate.md", name, str(learning_rate.table(part, rates))
        yield DOCS / "learning-rate.md", f"preconditioned-{name}", str(preconditioned.table(name, steps))
    yield DOCS / "learning-rate.md", "preconditioned-times", str(preconditioned.times(steps))
    yield DOCS / "learning-rate.md", "budget", str(budget.table(read(budget.RUNS)))
    yield DOCS / "how-to" / "data.md", "real-tasks", str(real.tasks())
    for name, text in real.sections():
        yield DOCS / "real.md", name, text
        if name == "real":
            yield README, name, text
    yield DOCS / "real.md", "real-limits", str(real_limits.table(read(real_limits.RUNS)))
    yield DOCS / "benchmarks.md", "modes", modes.section(modes.read())
    yield DOCS / "benchmarks.md", "versions", str(versions.table(json.loads(versions.RUNS.read_text())))


def placed(page: str, name: str, text: str) -> str:
    """Return a page with a section in place of the one that it has."""
    begin, end = f"<!-- {name}: written by benchmarks/results_page.py -->", f"<!-- {name}: end -->"
    before, found, rest = page.partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise ValueError(f"no section between {begin} and {end}")
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


def take(sweep: Path | None, recipes: Path | None, compare: Path | None) -> None:
    """Replace the committed data."""
    if sweep:
        write_text(RUNS, runs_csv(read_results(sweep)))
    if recipes:
        shutil.copy(recipes / "results.json", RECIPES)
        shutil.copy(recipes / "tried.csv", TRIED)
    if compare:
        shutil.copy(compare / "results.json", COMPARE)


def draw_pictures() -> None:
    """Draw the pictures of the committed data."""
    with tempfile.TemporaryDirectory() as folder:
        written = {path.name: path for path in write_sweep_report(read_runs(RUNS.read_text()), folder)}
        for name in PICTURES:
            shutil.copy(written[name], RUNS.parent / name)
    for name, data in (("recipes.png", RECIPES), ("compare.png", COMPARE)):
        save(draw(read_comparison(data)), DOCS / "images" / name)
    real.draw()


def main() -> None:
    """Take new data where it is given, draw every picture, and write every section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("sweep", "recipes", "compare"):
        parser.add_argument(f"--{name}", type=Path, help=f"the folder of new runs that replace the data of {name}")
    options = parser.parse_args()
    take(options.sweep, options.recipes, options.compare)
    draw_pictures()
    for path, name, text in sections():
        write_text(path, placed(path.read_text(), name, text))
        print(f"written: {path}, {name}")


if __name__ == "__main__":
    main()
