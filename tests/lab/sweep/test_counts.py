"""Parameter counts agree with the published ones, and shared runs count once."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest

from tensorfact.lab.models import model_shapes
from tensorfact.lab.sweep import SweepPart, SweepRow, known_specs, narrowed, parameters, preset, sizes
from tensorfact.lab.sweep.counts import printed_size
from tests.lab.sweep.tiny import tiny

shapes = functools.cache(model_shapes)


def published() -> Iterator[Any]:
    for part in preset("paper").parts:
        for row in part.rows:
            if row.parameters is not None:
                yield pytest.param(part, row, id=f"{part.name}-{row.label}")


@pytest.mark.parametrize(("part", "row"), list(published()))
def test_sizes_are_the_published_ones(part: SweepPart, row: SweepRow) -> None:
    counts = parameters(preset("paper"), part, row, shapes(part.model))
    printed = float(printed_size({task: float(each[0]) for task, each in counts.items()}))
    assert row.parameters is not None
    digits = 3 if row.parameters < 1e6 else 1  # of millions, as the paper prints them
    assert round(printed, digits) == round(row.parameters / 1e6, digits)


def test_the_papers_ranks_have_the_published_sizes() -> None:
    sweep = preset("paper")
    part = sweep.parts[0]
    rows = {row.label: row for row in part.rows}
    found = (parameters(sweep, part, rows[label], shapes(part.model)) for label in ("FacT-TT≤16", "FacT-TK≤32"))
    tt, tk = (counts["vtab:cifar"] for counts in found)
    assert tt == (1_680, 3_648, 8_448, 21_504, 61_440)
    assert tk == (3_368, 6_784, 13_952, 30_976, 86_528)


def test_a_run_that_two_rows_share_is_one_run() -> None:
    part = preset("paper").parts[0]
    sweep = narrowed(preset("paper"), parts=["vtab"], rows=["FacT-TT4", "FacT-TT≤16"])
    assert len(known_specs(sweep)) == len(part.tasks) * 5 * 5


def test_the_list_says_sizes_and_runs() -> None:
    table = sizes(preset("paper"), preset("paper").parts[2])
    assert (
        "FacT-TT16",
        "fact-tt:rank=16",
        "0.01, 0.1, 1, 10, 100",
        "135,168",
        "0.135",
        "0.135",
        "95",
        "57",
    ) in table.rows


def test_one_candidate_is_not_tried_first() -> None:
    assert {spec.stage for spec in known_specs(tiny(SweepRow("linear", ("linear",))))} == {"final"}
    assert {spec.stage for spec in known_specs(tiny(SweepRow("NOAH", ("noah:budget=100",))))} == {"select"}
