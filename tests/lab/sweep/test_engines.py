"""All engines give the same results: in-process, a pool of processes, Ray."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tensorfact.errors import SweepError
from tensorfact.lab.sweep import ENGINES, Engine, pool, ray_cluster, run_sweep
from tests.helpers import refused
from tests.lab.sweep.tiny import SWEEP


@pytest.fixture(scope="module")
def results(svhn: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Results of the in-process engine."""
    return run_sweep(SWEEP, tmp_path_factory.mktemp("runs"), root=svhn).to_json()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray leaves files open
@pytest.mark.parametrize("make", [lambda: pool(2), lambda: ray_cluster(cpus=1)], ids=["pool", "ray"])
def test_an_engine_gets_the_same_results(make: Callable[[], Engine], svhn: Path, results: str, tmp_path: Path) -> None:
    assert run_sweep(SWEEP, tmp_path, root=svhn, engine=make()).to_json() == results


@pytest.mark.slow
@pytest.mark.parametrize("make", [lambda: pool(2), lambda: ray_cluster(cpus=1)], ids=["pool", "ray"])
@pytest.mark.filterwarnings("ignore")
def test_what_fails_in_a_process_is_said_here(make: Callable[[], Engine], svhn: Path, tmp_path: Path) -> None:
    def engine(job: Any, specs: Any) -> Any:
        yield from make()(job, [dataclasses.replace(spec, task="vtab:cifar") for spec in specs])

    with pytest.raises(Exception, match=r"train800\.txt"):
        run_sweep(SWEEP, tmp_path, root=svhn, engine=engine)


def test_engines_have_names_and_need_workers() -> None:
    assert list(ENGINES) == ["in-process", "pool", "ray"]
    with refused(SweepError, "at least 1"):
        pool(0)
