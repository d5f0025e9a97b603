"""The sweep of real tasks: every method has as many trials as every other, and the sizes are those that are stated."""

from __future__ import annotations

import pytest

from tensorfact.errors import SweepError
from tensorfact.lab.models import model_shapes
from tensorfact.lab.sweep import known_specs, preset
from tensorfact.lab.sweep.counts import parameters
from tensorfact.lab.sweep.real import IN_MINUTES, ON_CPU, ROWS
from tests.helpers import refused

LORA = 589_824


@pytest.mark.parametrize(("size", "trials", "runs"), [("smoke", 1, 8), ("cpu", 2, 48), ("full", 4, 704)])
def test_every_method_has_as_many_trials(size: str, trials: int, runs: int) -> None:
    sweep = preset("real", size)
    (part,) = sweep.parts
    for row in part.rows:
        for task in part.tasks:
            assert len(row.candidates(task)) * len(row.rates) == trials
    assert len(known_specs(sweep)) == runs  # those that choose, or the reported ones where there is no choice


def test_the_size_cpu_has_120_runs_and_tensors_of_at_most_50_000_numbers() -> None:
    sweep = preset("real")
    (part,) = sweep.parts
    assert sweep.name == "real, cpu"
    assert 48 + len(part.rows) * len(part.tasks) * len(sweep.seeds) == 120
    model = model_shapes(part.model)
    counts = {row.label: parameters(sweep, part, row, model)[part.tasks[0]] for row in part.rows}
    assert counts["LoRA (peft)"] == (LORA,)
    for label in ("tensor-train 16", "Tucker 28", "CP 52"):
        assert 40_000 <= counts[label][0] <= min(50_000, LORA // 10)


def test_the_rows_of_the_small_sizes_are_rows() -> None:
    assert {*ON_CPU, *IN_MINUTES} <= {row.label for row in ROWS}


def test_an_unknown_size_is_refused() -> None:
    with refused(SweepError, "'huge'", "smoke", fix=False):
        preset("real", "huge")
    with refused(SweepError, "'small' has one size"):
        preset("small", "cpu")
