"""A sweep fills its table, executes no run twice, and never chooses a run that diverged."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tensorfact.errors import SweepError
from tensorfact.lab.sweep import Results, RunSpec, SweepRow, narrowed, read_results, run_sweep
from tests.helpers import refused
from tests.lab.sweep.tiny import SHORT, TASKS, tiny


@pytest.mark.slow
def test_a_sweep_fills_its_table(done: tuple[Path, Results]) -> None:
    _, results = done
    assert [(cell.row, cell.task) for cell in results.cells] == list(itertools.product(["linear", "TT"], TASKS))
    for cell in results.cells:
        runs = [results.runs[id] for id in cell.runs]
        assert [run.spec.seed for run in runs] == [0, 1]
        for run in runs:
            assert run.outcome.test_accuracy is not None
            assert run.outcome.val_accuracy is None
            assert run.outcome.sizes == {"train": 3, "val": 3, "test": 3}
        for tried in (results.runs[id].outcome for id in cell.candidates):
            assert tried.test_accuracy is None


def test_what_is_done_is_not_done_again(done: tuple[Path, Results], root: Path) -> None:
    folder, results = done
    written = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/*")}
    again = run_sweep(tiny(), folder, root=root)
    assert again.to_json() == results.to_json()
    assert {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/*")} == written
    assert {path.name for path in written} == {"spec.json", "result.json", "measured.json"}


def test_a_run_that_diverges_is_never_chosen(root: Path, tmp_path: Path) -> None:
    sweep = narrowed(tiny(SweepRow("TT", ("tt:rank=1",), (1.0, 3e38))), tasks=["vtab:svhn"])
    sweep = dataclasses.replace(sweep, settings=dataclasses.replace(SHORT, epochs=3, batch_size=2, lr=1.0), seeds=(0,))
    results = run_sweep(sweep, tmp_path, root=root)
    failed = {run.spec.scale: run.outcome.failure for run in results.runs.values() if run.spec.stage == "select"}
    assert failed[1.0] == ""
    assert "no longer finite" in failed[3e38]
    assert {results.runs[id].spec.scale for cell in results.cells for id in cell.runs} == {1.0}


def test_a_report_is_not_of_the_sweep_before(root: Path, tmp_path: Path) -> None:
    def stopped(job: Any, specs: Any) -> Iterator[RunSpec]:
        job(specs[0])
        yield specs[0]
        raise KeyboardInterrupt

    run_sweep(tiny(SweepRow("linear", ("linear",))), tmp_path, root=root)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(tiny(SweepRow("BitFit", ("bitfit",))), tmp_path, root=root, engine=stopped)
    found = read_results(tmp_path)
    assert {cell.row for cell in found.cells} == {"BitFit"}
    assert not any(cell.runs for cell in found.cells)
    with refused(SweepError, "did not finish all runs"):
        run_sweep(tiny(SweepRow("BitFit", ("bitfit",))), tmp_path, root=root, engine=lambda job, specs: iter(()))
