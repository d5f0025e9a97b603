"""A record of finished runs: another folder, or another machine, goes on from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tensorfact.errors import SweepError
from tensorfact.lab.sweep import SweepRow, run_sweep
from tensorfact.lab.sweep.execute import Runner
from tensorfact.lab.sweep.record import Record
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
    with refused(SweepError, "limit", "seconds above 0", fix=False):
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
