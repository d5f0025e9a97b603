"""The search with Optuna: it resumes, and prunes poor trials."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tensorfact.errors import SweepError
from tensorfact.lab.sweep import SweepRow, run_sweep
from tests.helpers import refused
from tests.lab.sweep.tiny import SWEEP


@pytest.mark.slow
def test_optuna_searches_prunes_and_goes_on(svhn: Path, tmp_path: Path) -> None:
    import optuna

    found = run_sweep(SWEEP, tmp_path / "whole", root=svhn, trials=5)
    cell = found.cells[1]
    scales = {found.runs[id].spec.scale for id in cell.candidates}
    assert len(cell.runs) == 2
    assert all(1.0 <= scale <= 10.0 for scale in scales if isinstance(scale, float))
    assert len(scales) > 1
    assert not found.cells[0].candidates
    assert optuna.logging.get_verbosity() == optuna.logging.INFO  # as it was

    broken = tmp_path / "broken"
    for trials in (2, 3, 5):  # a resumed search proposes the same trials
        part = run_sweep(SWEEP, broken, root=svhn, trials=trials)
    assert part.to_json() == found.to_json()


@pytest.mark.slow
def test_the_pruner_stops_what_lags_behind(svhn: Path, tmp_path: Path) -> None:
    row = SweepRow("TT", ("tt:rank=2", "tt:rank=1"), (0.001, 100.0))
    part = dataclasses.replace(SWEEP.parts[0], rows=(row,))
    settings = dataclasses.replace(SWEEP.settings, epochs=8, lr=0.01)
    sweep = dataclasses.replace(SWEEP, parts=(part,), settings=settings, seeds=(0,))
    found = run_sweep(sweep, tmp_path, root=svhn, trials=10)
    assert 3 <= len(found.cells[0].candidates) < 10
    assert len(list(tmp_path.glob("runs/*"))) == len({*found.cells[0].candidates, *found.cells[0].runs})


def test_a_search_needs_trials(svhn: Path, tmp_path: Path) -> None:
    with refused(SweepError, "at least 1"):
        run_sweep(SWEEP, tmp_path, root=svhn, trials=-1)
