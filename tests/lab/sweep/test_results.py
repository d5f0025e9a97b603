"""Results read back, finished or not, and do not depend on the machine."""

from __future__ import annotations

import json
from pathlib import Path

from tensorfact.lab.sweep import Results, read_results


def test_results_read_back_and_a_part_of_them_too(done: tuple[Path, Results], tmp_path: Path) -> None:
    folder, results = done
    assert Results.from_json(results.to_json()).to_json() == results.to_json()
    read = read_results(folder)
    assert read.to_json() == results.to_json()
    assert all(run.measured is not None for run in read.runs.values())
    (tmp_path / "sweep.json").write_text((folder / "sweep.json").read_text())
    for path in sorted(folder.glob("runs/*"))[::2]:
        (tmp_path / "runs").mkdir(exist_ok=True)
        (tmp_path / "runs" / path.name).symlink_to(path)
    some = read_results(tmp_path)
    assert {*some.runs} < {*results.runs}
    assert len(some.cells) == len(results.cells)


def test_results_say_nothing_of_the_machine(done: tuple[Path, Results]) -> None:
    text = json.dumps(json.loads(done[1].to_json()))
    assert "seconds" not in text
    assert str(done[0]) not in text
