"""The page of results says what the runs beside it say."""

from __future__ import annotations

import csv
import statistics
from collections import defaultdict
from pathlib import Path

from tensorfact.sweep import preset

DOCS = Path(__file__).parents[1] / "docs"


def test_the_table_is_that_of_the_runs() -> None:
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    with open(DOCS / "results" / "table.csv", newline="") as file:
        for line in csv.DictReader(file):
            values[line["row"], line["task"]].append(100 * float(line["test_accuracy"]))
    page = (DOCS / "results.md").read_text()
    rows = {cells[1].strip(): page_line for page_line in page.splitlines() if len(cells := page_line.split("|")) > 3}
    (part,) = preset("small").parts
    for row in part.rows:
        for task in part.tasks:
            found = values[row.label, task]
            assert len(found) == 3, (row.label, task)
            assert f"{statistics.fmean(found):.1f}" in rows[row.label], (row.label, task)
            assert f"{statistics.stdev(found):.1f}" in rows[row.label], (row.label, task)
