"""The page of results says what the runs beside it say."""

from __future__ import annotations

import csv
import statistics
from collections import defaultdict
from pathlib import Path

import pytest

from tensorfact.lab.sweep import preset

DOCS = Path(__file__).parents[1] / "docs"


def test_the_table_is_that_of_the_runs() -> None:
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    with open(DOCS / "results" / "table.csv", newline="") as file:
        for line in csv.DictReader(file):
            values[line["row"], line["task"]].append(100 * float(line["test_accuracy"]))
    page = (DOCS / "results.md").read_text()
    table = page.partition("What the validation split chose")[0]
    rows = {cells[1].strip(): cells[3:] for line in table.splitlines() if len(cells := line.split("|")) > 3}
    (part,) = preset("small").parts
    for row in part.rows:
        for task, cell in zip(part.tasks, rows[row.label], strict=False):
            found = values[row.label, task]
            mean, spread = map(float, cell.split("±"))
            assert len(found) == 3, (row.label, task)
            assert mean == pytest.approx(statistics.fmean(found), abs=0.051), (row.label, task)
            assert spread == pytest.approx(statistics.stdev(found), abs=0.051), (row.label, task)
