"""Intervals over seeds: known values, and differences paired by seed."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tensorfact.lab.report import summarize
from tensorfact.lab.report.intervals import Interval, accuracy, difference
from tests.results import example, rows

ACCURACIES = st.lists(st.floats(0, 1), min_size=2, max_size=6)


@given(ACCURACIES)
def test_the_interval_is_that_of_students_t_test(values: list[float]) -> None:
    found = Interval.of(values)
    low, high = stats.t.interval(0.95, len(values) - 1, statistics.fmean(values), max(stats.sem(values), 1e-300))
    assert found.mean - (found.half or 0) == pytest.approx(low, abs=1e-9)
    assert found.mean + (found.half or 0) == pytest.approx(high, abs=1e-9)


def test_one_value_has_no_interval() -> None:
    assert Interval.of([0.5]) == Interval(0.5, None)


def test_a_difference_is_paired_by_seed_and_a_row_differs_from_itself_by_nothing() -> None:
    found = rows(summarize(example()))
    labels = [label for label, row in found.items() if accuracy(row) is not None]
    assert len(labels) >= 2
    first, second = (found[label] for label in labels[:2])
    assert difference(first, first) == Interval(0.0, 0.0)
    task = first.cells[0].task
    by_seed = [first.cells[0].by_seed[seed] - second.cells[0].by_seed[seed] for seed in first.cells[0].by_seed]
    assert difference(first, second, task) == Interval.of(by_seed)
    forward, back = difference(first, second), difference(second, first)
    assert forward is not None
    assert back is not None
    assert forward.mean == pytest.approx(-back.mean)
    assert forward.half == pytest.approx(back.half)


def test_a_row_with_a_missing_or_failed_run_has_none() -> None:
    for row in rows(summarize(example())).values():
        if any(cell.state != "done" for cell in row.cells):
            assert accuracy(row) is None
            assert difference(row, row) is None
