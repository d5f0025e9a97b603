"""Engines that others wrote do the same runs: a pool of processes, Ray, Optuna's search."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tensorfact.errors import SweepError
from tensorfact.lab.sweep import ENGINES, Engine, Part, Row, Settings, Sweep, pool, ray_cluster, run_sweep

from .helpers import refused
from .make_benchmarks import lay_out_vtab

SWEEP = Sweep(
    "tiny",
    (
        Part(
            "nano",
            "nano",
            "nano",
            ("vtab:svhn",),
            (Row("linear", ("linear",)), Row("TT", ("tt:rank=1", "tt:rank=2"), (1.0, 10.0))),
        ),
    ),
    (0, 1),
    Settings(epochs=3, warmup_epochs=0, batch_size=4),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lay_out_vtab(tmp_path_factory.mktemp("vtab"), "svhn", images=6)


@pytest.fixture(scope="module")
def results(root: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What this process gets."""
    return run_sweep(SWEEP, tmp_path_factory.mktemp("runs"), root=root).to_json()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of what Ray does with its own files
@pytest.mark.parametrize("make", [lambda: pool(2), lambda: ray_cluster(cpus=1)], ids=["pool", "ray"])
def test_an_engine_gets_the_same_results(make: Callable[[], Engine], root: Path, results: str, tmp_path: Path) -> None:
    assert run_sweep(SWEEP, tmp_path, root=root, engine=make()).to_json() == results


@pytest.mark.slow
@pytest.mark.parametrize("make", [lambda: pool(2), lambda: ray_cluster(cpus=1)], ids=["pool", "ray"])
@pytest.mark.filterwarnings("ignore")
def test_what_fails_in_a_process_is_said_here(make: Callable[[], Engine], root: Path, tmp_path: Path) -> None:
    def engine(job: Any, specs: Any) -> Any:
        yield from make()(job, [dataclasses.replace(spec, task="vtab:cifar") for spec in specs])

    with pytest.raises(Exception, match=r"train800\.txt"):
        run_sweep(SWEEP, tmp_path, root=root, engine=engine)


def test_engines_have_names_and_need_workers() -> None:
    assert list(ENGINES) == ["in-process", "pool", "ray"]
    with refused(SweepError, "at least 1"):
        pool(0)


@pytest.mark.slow
def test_optuna_searches_prunes_and_goes_on(root: Path, tmp_path: Path) -> None:
    import optuna

    found = run_sweep(SWEEP, tmp_path / "whole", root=root, trials=5)
    cell = found.cells[1]
    scales = {found.runs[id].spec.scale for id in cell.candidates}
    assert len(cell.runs) == 2
    assert all(1.0 <= scale <= 10.0 for scale in scales if scale is not None)
    assert len(scales) > 1
    assert not found.cells[0].candidates
    assert optuna.logging.get_verbosity() == optuna.logging.INFO  # as it was

    broken = tmp_path / "broken"
    for trials in (2, 3, 5):  # a search that is gone on with proposes what it would have proposed
        part = run_sweep(SWEEP, broken, root=root, trials=trials)
    assert part.to_json() == found.to_json()


@pytest.mark.slow
def test_the_pruner_stops_what_lags_behind(root: Path, tmp_path: Path) -> None:
    row = Row("TT", ("tt:rank=2", "tt:rank=1"), (0.001, 100.0))
    part = dataclasses.replace(SWEEP.parts[0], rows=(row,))
    settings = dataclasses.replace(SWEEP.settings, epochs=8, lr=0.01)
    sweep = dataclasses.replace(SWEEP, parts=(part,), settings=settings, seeds=(0,))
    found = run_sweep(sweep, tmp_path, root=root, trials=10)
    assert 3 <= len(found.cells[0].candidates) < 10
    assert len(list(tmp_path.glob("runs/*"))) == len({*found.cells[0].candidates, *found.cells[0].runs})


def test_a_search_needs_trials(root: Path, tmp_path: Path) -> None:
    with refused(SweepError, "at least 1"):
        run_sweep(SWEEP, tmp_path, root=root, trials=-1)
