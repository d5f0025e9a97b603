"""The runs behind the tables of the documentation, as files small enough to commit.

`docs/results/runs.csv` has a line for each training run of `tensorfact sweep --preset small`, both those that select
options and those that are reported. `recipes.json` and `compare.json` are what `examples/compare_recipes.py` and
`tensorfact compare` write.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from pathlib import Path

from tensorfact.lab.comparison import Comparison, ComparisonRow
from tensorfact.lab.sweep import Measured, Outcome, Results, Run, RunSpec, preset
from tensorfact.lab.sweep.cells import collect, grid

DOCS = Path(__file__).parents[1] / "docs"
RUNS, TRIED, RECIPES, COMPARE = (
    DOCS / "results" / name for name in ("runs.csv", "tried.csv", "recipes.json", "compare.json")
)
VARYING = ("stage", "task", "method", "scale", "seed")
"""The fields in which two runs of the sweep can differ."""

COLUMNS = (*VARYING, "trained", "parameters", "bytes", "best_epoch", "val_accuracy", "test_accuracy", "seconds")


def runs_csv(results: Results) -> str:
    """Return a line for each run: what was run, and its numbers without the learning curves."""
    rows: list[list[object]] = []
    for run in results.runs.values():
        spec, outcome = run.spec.to_dict(), run.outcome
        numbers = (outcome.parameters, outcome.bytes, outcome.best_epoch, outcome.val_accuracy, outcome.test_accuracy)
        seconds = round(run.measured.seconds, 1) if run.measured else None
        rows.append([*(spec[name] for name in VARYING), outcome.method, *numbers, seconds])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    rows.sort(key=lambda row: (row[0] == "final", *map(str, row)))
    writer.writerows(rows)
    return text.getvalue()


def read_runs(text: str) -> Results:
    """Return the results of `tensorfact sweep --preset small` from what `runs_csv` returned.

    Raises:
        ValueError: The lines are not the runs of this sweep.
    """
    sweep = preset("small")
    (part,) = sweep.parts
    shared = sweep.spec(part, "digits", "linear", None, 0, "final").to_dict()
    known = {}
    for line in csv.DictReader(io.StringIO(text)):
        own = {"scale": optional(line["scale"]), "seed": int(line["seed"])}
        spec = RunSpec.from_dict(shared | {name: line[name] for name in VARYING} | own)
        outcome = Outcome(
            parameters=int(line["parameters"]),
            bytes=int(line["bytes"]),
            val_accuracy=optional(line["val_accuracy"]),
            test_accuracy=optional(line["test_accuracy"]),
            best_epoch=int(line["best_epoch"]),
            epochs=(),
            sizes={},
            method=line["trained"],
        )
        known[spec.id] = Run(spec, outcome, Measured(float(line["seconds"]), None, None, "cpu"))
    results, needed = collect(sweep, known, grid(sweep))
    if needed or results.runs.keys() != known.keys():
        raise ValueError(f"{len(needed)} runs of the sweep are missing, {len(known) - len(results.runs)} are not in it")
    return results


def optional(text: str) -> float | None:
    """Return the number in a cell that may be empty."""
    return float(text) if text else None


def read_comparison(path: Path) -> Comparison:
    """Return a comparison from the `results.json` of its report."""
    data = json.loads(path.read_text())
    rows = []
    for label, sizes in data["meta_info"].items():
        row = ComparisonRow(label, **sizes, **data["train_info"][label])
        rows.append(
            dataclasses.replace(row, val_accuracy=tuple(row.val_accuracy), test_accuracy=tuple(row.test_accuracy))
        )
    return Comparison(tuple(rows), data["run_info"])
