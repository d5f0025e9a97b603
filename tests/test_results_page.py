"""The tables of accuracy in README.md and docs/results.md are those of the committed runs."""

from __future__ import annotations

import csv
import json
import statistics
from collections import defaultdict

import pytest

from benchmarks.results_data import RECIPES, RUNS, TRIED, read_runs, runs_csv
from benchmarks.results_page import placed, sections
from tensorfact.recipes import RECIPES as METHODS


def test_every_section_is_what_the_committed_data_gives() -> None:
    for path, name, text in sections():
        page = path.read_text()
        assert placed(page, name, text) == page, f"{path}, {name}: run python -m benchmarks.results_page"


def test_the_runs_read_back_and_are_those_of_the_sweep() -> None:
    text = RUNS.read_text()
    assert runs_csv(read_runs(text)) == text
    with pytest.raises(ValueError, match="1 runs of the sweep are missing"):
        read_runs("".join(text.splitlines(keepends=True)[:-1]))


def test_selection_reads_the_validation_split_and_reports_read_the_test_split() -> None:
    with RUNS.open(newline="") as file:
        for line in csv.DictReader(file):
            select = line["stage"] == "select"
            assert (bool(line["val_accuracy"]), bool(line["test_accuracy"])) == (select, not select)


def test_the_table_has_the_mean_and_the_deviation_over_three_seeds() -> None:
    """Computed here from the file alone."""
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    with RUNS.open(newline="") as file:
        for line in csv.DictReader(file):
            if line["stage"] == "final":
                values[line["method"], line["task"]].append(100 * float(line["test_accuracy"]))
    found = values["bitfit", "digits"]
    (cells,) = [
        line.split("|")
        for _, name, text in sections()
        if name == "sweep"
        for line in text.splitlines()
        if line.startswith("| BitFit")
    ]
    assert len(found) == 3
    assert cells[3].split() == [f"{statistics.fmean(found):.1f}", "±", f"{statistics.stdev(found):.1f}"]


def test_the_chosen_scale_of_every_recipe_has_the_best_validation_accuracy() -> None:
    tried: dict[str, dict[str, float]] = defaultdict(dict)
    with TRIED.open(newline="") as file:
        for line in csv.DictReader(file):
            tried[line["recipe"]][line["factor"]] = float(line["val_accuracy"])
    chosen = [label.split(" x") for label in json.loads(RECIPES.read_text())["meta_info"]]
    assert {name for name, _ in chosen} == tried.keys() == METHODS.keys()
    for name, factor in chosen:
        assert tried[name][factor] == max(tried[name].values())
