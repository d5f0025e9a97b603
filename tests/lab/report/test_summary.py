"""Summaries of a sweep: means as VTAB defines them, and no number for missing cells."""

from __future__ import annotations

import statistics

import pytest

from tensorfact.lab.report import summarize
from tensorfact.lab.report.summary import Summary
from tensorfact.lab.sweep import Cell, Outcome, Results, Run, Sweep, SweepPart, SweepRow, overall_mean
from tests.results import RANKS, example, rows


def finished(accuracies: dict[str, list[float]], counts: dict[str, int]) -> Results:
    """Return results of one row with given accuracies by task and seed."""
    part = SweepPart("one", "One", "nano", tuple(accuracies), (SweepRow("tt", ("tt:rank=4",)),))
    definition = Sweep("known", (part,), seeds=tuple(range(len(next(iter(accuracies.values()))))))
    runs, cells = {}, []
    for task, values in accuracies.items():
        specs = [definition.spec(part, task, "tt:rank=4", None, seed, "final") for seed in definition.seeds]
        for spec, value in zip(specs, values, strict=True):
            runs[spec.id] = Run(spec, Outcome(counts[task], 0, None, value, 0, (), {}, spec.method))
        cells.append(Cell("one", "tt", task, (), tuple(spec.id for spec in specs)))
    return Results(definition, runs, tuple(cells))


def test_means_are_those_of_groups_and_spread_over_seeds() -> None:
    accuracies = {
        "vtab:cifar": [0.5, 0.7],
        "vtab:svhn": [0.7, 0.9],
        "vtab:eurosat": [0.9, 0.8],
        "vtab:dmlab": [0.4, 0.4],
    }
    counts = {"vtab:cifar": 100, "vtab:svhn": 300, "vtab:eurosat": 500, "vtab:dmlab": 600}
    row = rows(summarize(finished(accuracies, counts)))["tt"]
    means = {group: mean and (mean.mean, mean.spread) for group, mean in row.groups.items()}
    assert means["natural"] == pytest.approx((0.7, statistics.stdev([0.6, 0.8])))
    assert means["structured"] == pytest.approx((0.4, 0.0))
    assert row.accuracy is not None
    assert row.accuracy.mean == pytest.approx((0.7 + 0.85 + 0.4) / 3)
    assert row.accuracy.spread == pytest.approx(statistics.stdev([(0.6 + 0.9 + 0.4) / 3, (0.8 + 0.8 + 0.4) / 3]))
    assert row.parameters == pytest.approx((200 + 500 + 600) / 3)


def test_what_is_missing_is_no_number(summary: Summary) -> None:
    failed, unfinished = rows(summary)["BitFit"], rows(summary)["Tucker"]
    assert [cell.state for cell in failed.cells] == ["done"] * 4 + ["failed"]
    assert failed.cells[-1].why == "seed 1: the loss is no longer finite: </script>"
    assert [failed.accuracy, failed.groups["structured"], failed.cells[-1].accuracy] == [None] * 3
    assert failed.groups["natural"] is not None
    assert failed.parameters == 102_912
    assert [cell.state for cell in unfinished.cells] == ["done"] * 3 + ["unfinished", "done"]
    assert [unfinished.accuracy, unfinished.parameters] == [None, None]
    assert [(row.row.label, cell.task) for _, row, cell in summary.cells("failed")] == [("BitFit", "vtab:kitti")]


def test_ranks_are_compared_on_the_tasks_that_have_all_of_them(summary: Summary) -> None:
    known = rows(summary)
    assert [point.rank for point in known["FacT-TT"].ranks] == list(RANKS)
    assert known["linear probe"].ranks == ()
    found = example()
    best = {}
    for cell in found.cells:
        if (cell.part, cell.row) == ("vit", "Tucker") and cell.task != "vtab:dmlab":
            runs = [found.runs[id] for id in cell.candidates]
            best[cell.task] = max(r.outcome.val_accuracy or 0 for r in runs if r.spec.method == "tucker:rank=8")
    assert known["Tucker"].ranks[2].accuracy == pytest.approx(overall_mean(best))
    task = known["FacT-TT"].cells[0]
    assert task.chosen is not None
    assert (task.chosen.spec.method,) == task.methods
    assert (task.chosen.spec.scale,) == task.scales == (1.0,)
