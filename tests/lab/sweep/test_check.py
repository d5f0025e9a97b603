"""Invalid sweeps are refused before training starts and before anything is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tensorfact.errors import DataError, SweepError, TensorfactError
from tensorfact.lab.sweep import SweepRow, narrowed, run_sweep
from tests.helpers import refused
from tests.lab.data.making import write_image
from tests.lab.sweep.tiny import TASKS, tiny
from tests.make_benchmarks import lay_out_vtab


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"methods": ["tt:rank=1000000"]}, "RankError"),
        ({"methods": ["bitfitt"]}, "SweepError"),
        ({"methods": ["lora:rnk=1"]}, "SweepError"),
        ({"tasks": ["vtab:cifar"]}, "DataError"),
        ({"tasks": ["nothing"]}, "DataError"),
    ],
)
def test_a_mistake_shows_before_anything_is_written(change: Any, error: str, root: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r".") as caught:
        run_sweep(narrowed(tiny(), **change), tmp_path / "runs", root=root)
    assert caught.type.__name__ == error
    assert not list(tmp_path.glob("runs/*.json"))


def test_damaged_images_are_found_before_anything_trains(tmp_path: Path) -> None:
    for name in TASKS:
        lay_out_vtab(tmp_path / "data", name.removeprefix("vtab:"))
    broken = next((tmp_path / "data" / "eurosat" / "images").rglob("*.jpg"))
    broken.write_bytes(b"no image")
    with refused(DataError, broken.name):
        run_sweep(tiny(), tmp_path / "runs", root=tmp_path / "data")
    assert not (tmp_path / "runs" / "runs").exists()


def test_a_task_without_test_samples_is_refused_before_anything_trains(tmp_path: Path) -> None:
    for at in range(4):
        write_image(tmp_path / "photos" / ("train", "val")[at % 2] / "cat" / f"{at}.png", str(at))
    sweep = narrowed(tiny(SweepRow("linear", ("linear",))), tasks=[f"{tmp_path}/photos"])
    with refused(DataError, f"the sweep's task {tmp_path}/photos needs test samples", "add a folder test"):
        run_sweep(sweep, tmp_path / "runs")
    assert not (tmp_path / "runs" / "runs").exists()


def test_a_sweep_takes_images_by_their_path(tmp_path: Path) -> None:
    for at in range(20):
        write_image(tmp_path / "photos" / ("cat", "dog")[at % 2] / f"{at}.png", str(at))
    sweep = narrowed(tiny(SweepRow("linear", ("linear",))), tasks=[f"{tmp_path}/photos"])
    results = run_sweep(sweep, tmp_path / "runs")
    assert all(run.outcome.sizes == {"train": 12, "val": 4, "test": 4} for run in results.runs.values())


def test_other_data_or_weights_need_another_folder(root: Path, tmp_path: Path) -> None:
    sweep = narrowed(tiny(SweepRow("linear", ("linear",))), tasks=["vtab:svhn"])
    run_sweep(sweep, tmp_path / "runs", root=root)
    lay_out_vtab(tmp_path / "more", "svhn", images=5)
    with refused(SweepError, "vtab:svhn", "another folder"):
        run_sweep(sweep, tmp_path / "runs", root=tmp_path / "more")


@pytest.mark.parametrize(
    "text", ["adapter:hidden=0", "vpt-deep:length='x'", "noah:budget=1", "noah:bogus=1", "lora:rnk=1"]
)
def test_options_are_checked_before_anything_trains(text: str, root: Path, tmp_path: Path) -> None:
    with pytest.raises(TensorfactError):
        run_sweep(narrowed(tiny(), methods=["linear", text]), tmp_path, root=root)
    assert not (tmp_path / "runs").exists()
