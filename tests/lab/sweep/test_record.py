"""A record of finished runs: another folder, or another machine, goes on from it."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from tensorfact.errors import SweepError, TrainingError
from tensorfact.lab.sweep import SweepRow, run_sweep
from tensorfact.lab.sweep.execute import Runner
from tensorfact.lab.sweep.record import Record, Recorder
from tensorfact.lab.sweep.store import Store
from tests.helpers import refused
from tests.lab.sweep.tiny import tiny

SWEEP = tiny(SweepRow("linear", ("linear",), rates=(1e-3, 1e-2)))


def test_a_sweep_goes_on_in_another_folder_from_the_record(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = tmp_path / "runs.json"
    whole = run_sweep(SWEEP, tmp_path / "first", root=root, record=record)
    assert Record.read(record).runs.keys() == whole.runs.keys()
    assert {run.spec.settings.lr for run in whole.runs.values()} == {1e-3, 1e-2}
    monkeypatch.setattr(Runner, "_run", None)  # nothing may be executed
    again = run_sweep(SWEEP, tmp_path / "second", root=root, record=record)
    assert again.to_json() == whole.to_json()
    lines = record.read_text().splitlines()
    assert sum('"spec"' in line for line in lines) == len(whole.runs)  # one run a line


def test_a_limit_ends_the_sweep_between_runs_and_it_goes_on_later(root: Path, tmp_path: Path) -> None:
    record, folder = tmp_path / "runs.json", tmp_path / "runs"
    with refused(SweepError, "limit", "seconds above 0"):
        run_sweep(SWEEP, folder, root=root, limit=0)
    part = run_sweep(SWEEP, folder, root=root, record=record, limit=1e-9)
    assert not part.runs
    assert not Record.read(record).runs
    assert not (folder / "results.json").exists()
    whole = run_sweep(SWEEP, folder, root=root, record=record, limit=600)
    assert Record.read(record).runs.keys() == whole.runs.keys()
    assert (folder / "results.json").exists()


def test_a_damaged_record_and_one_of_other_data_are_refused(root: Path, tmp_path: Path) -> None:
    record = tmp_path / "runs.json"
    run_sweep(SWEEP, tmp_path / "runs", root=root, record=record)
    text = record.read_text()
    data = json.loads(text)
    first, second = list(data["runs"])[:2]
    damaged = {
        "swapped": {**data, "runs": {first: data["runs"][second]}},
        "incomplete": {**data, "runs": {first: {"spec": data["runs"][first]["spec"]}}},
        "other": {"runs": []},
        "list": [],
    }
    for number, each in enumerate(damaged.values()):
        record.write_text(json.dumps(each))
        with refused(SweepError, str(record)):
            run_sweep(SWEEP, tmp_path / f"other{number}", root=root, record=record)
    record.write_text(text[:-5])
    with refused(SweepError, str(record)):
        run_sweep(SWEEP, tmp_path / "cut", root=root, record=record)
    name = next(iter(data["inputs"]))
    record.write_text(json.dumps({**data, "inputs": {**data["inputs"], name: "another digest"}}))
    with refused(SweepError, name, "another digest"):
        run_sweep(SWEEP, tmp_path / "inputs", root=root, record=record)


def test_two_sweeps_may_add_to_one_record_at_once(root: Path, tmp_path: Path) -> None:
    record = tmp_path / "of" / "runs.json"
    whole = run_sweep(SWEEP, tmp_path / "runs", root=root)
    recorders = [Recorder(Store(tmp_path / name), record) for name in ("first", "second")]
    for recorder in recorders:
        recorder.begin({})
    runs = list(whole.runs.items())
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda at: recorders[at % 2].add(dict([runs[at]])), range(len(runs))))
    assert Record.read(record).runs.keys() == whole.runs.keys()


def test_other_images_of_the_same_number_are_noticed(root: Path, tmp_path: Path) -> None:
    record, other = tmp_path / "runs.json", tmp_path / "data"
    run_sweep(SWEEP, tmp_path / "runs", root=root, record=record)
    shutil.copytree(root, other)
    for path in other.rglob("images/**/*.*"):
        Image.new("RGB", (8, 8), "red").save(path)
    with refused(SweepError, "images of vtab:", "the data or the weights have changed"):
        run_sweep(SWEEP, tmp_path / "other", root=other, record=record)


def test_a_search_takes_neither_a_record_nor_a_limit(root: Path, tmp_path: Path) -> None:
    for options in ({"record": tmp_path / "runs.json"}, {"limit": 60.0}):
        with refused(SweepError, next(iter(options)), "trials=3"):
            run_sweep(SWEEP, tmp_path / "runs", root=root, trials=3, **options)
    with refused(SweepError, "lies in the folder of runs"):
        run_sweep(SWEEP, tmp_path / "runs", root=root, record=tmp_path / "runs" / "results.json")


def test_rates_are_checked_before_anything_trains(root: Path, tmp_path: Path) -> None:
    for rate in (0.0, 1e9):
        with refused(TrainingError, "lr"):
            run_sweep(tiny(SweepRow("linear", ("linear",), rates=(1e-3, rate))), tmp_path / "runs", root=root)
    assert not (tmp_path / "runs" / "runs").exists()
    with refused(SweepError, "rates of 'linear'", "rates=(1e-3,)"):
        SweepRow("linear", ("linear",), rates=1e-3)  # type: ignore[arg-type]
