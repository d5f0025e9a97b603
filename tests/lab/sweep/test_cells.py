"""A sweep chooses by validation accuracy; ties go to the smallest candidate."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from tensorfact.lab.sweep import Outcome, Run, SweepRow, known_specs
from tensorfact.lab.sweep.cells import collect, grid
from tests.lab.sweep.tiny import TASKS, tiny


def outcome(accuracy: float | None, parameters: int = 1) -> Outcome:
    failure = "" if accuracy is not None else "the loss is nan"
    return Outcome(parameters, 1, accuracy, None, 0, (), {"train": 1}, "tt:rank=1", failure)


@given(st.lists(st.none() | st.sampled_from([0.1, 0.5, 0.9]), min_size=4, max_size=4))
def test_the_best_on_the_validation_split_is_reported(accuracies: list[float | None]) -> None:
    sweep = tiny(SweepRow("TT", ("tt:rank=1", "tt:rank=2"), (1.0, 10.0)))
    tried = [spec for spec in known_specs(sweep) if spec.task == TASKS[0]]
    runs = {spec.id: Run(spec, outcome(value)) for spec, value in zip(tried, accuracies, strict=True)}
    _, needed = collect(sweep, runs, grid(sweep))
    final = [spec for spec in needed if spec.stage == "final"]
    best = max((value for value in accuracies if value is not None), default=None)
    assert {spec.task for spec in final} == ({TASKS[0]} if best is not None else set())
    assert [spec.seed for spec in final] == ([0, 1] if best is not None else [])
    if best is not None:
        assert {spec.scale for spec in final} == {tried[accuracies.index(best)].scale}


def test_of_equal_candidates_the_smallest_is_taken() -> None:
    sweep = tiny(SweepRow("TT", ("tt:rank=2", "tt:rank=1")))
    tried = [spec for spec in known_specs(sweep) if spec.task == TASKS[0]]
    found = {"tt:rank=2": 20, "tt:rank=1": 10}
    runs = {
        spec.id: Run(spec, dataclasses.replace(outcome(0.5, found[spec.method]), method=spec.method)) for spec in tried
    }
    _, needed = collect(sweep, runs, grid(sweep))
    assert {spec.method for spec in needed if spec.stage == "final"} == {"tt:rank=1"}
