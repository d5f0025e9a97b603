"""The files of a report: written, overwritten, and refused in a folder that is not writable."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from matplotlib.text import Text

from tensorfact.errors import CheckpointError
from tensorfact.lab.report import summarize, write_sweep_report
from tensorfact.lab.report.files import PICTURES
from tensorfact.lab.report.tables import CSV_COLUMNS, latex, markdown, table_csv
from tensorfact.lab.sweep import Results
from tests.results import example, results, sweep


@pytest.mark.slow
def test_files_are_written_and_repeat(tmp_path: Path) -> None:
    found = example()
    files = write_sweep_report(found, tmp_path / "deep" / "folder")
    texts = ["report.html", "table.md", "table.csv", "table.tex"]
    pictures = ["accuracy.png", "rank.png", "groups.png", "tasks.png"]
    assert [path.name for path in files] == texts + pictures
    assert sorted(p.name for p in files[0].parent.iterdir()) == sorted(texts + pictures)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in files[4:])
    before = [path.read_bytes() for path in files]
    assert write_sweep_report(found, files[0].parent) == files
    assert [path.read_bytes() for path in files] == before
    plain = summarize(Results.from_json(found.to_json()))  # without what was measured
    assert [write(plain).encode() for write in (markdown, table_csv, latex)] == before[1:4]


def test_nothing_finished_is_a_report_without_numbers(tmp_path: Path) -> None:
    (tmp_path / "rank.png").write_text("of an earlier report")
    files = write_sweep_report(results(sweep(), lambda spec: False), tmp_path)
    assert [path.name for path in files] == ["report.html", "table.md", "table.csv", "table.tex"]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert files[2].read_text() == ",".join(CSV_COLUMNS) + "\n"
    assert "BitFit is not finished on any task" in files[1].read_text()
    line = next(line for line in files[1].read_text().splitlines() if line.startswith("| Tucker"))
    assert set(re.split(r"[ |]+", line)) == {"", "Tucker", "–"}  # noqa: RUF001


def test_a_folder_that_cannot_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="folder"):
        write_sweep_report(example(), tmp_path / "file" / "report")


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_names_its_rows_beside_them_and_has_no_legend(name: str) -> None:
    figure = PICTURES[name](summarize(example(released=True)))
    assert figure is not None
    assert not figure.legends
    assert all(axes.get_legend() is None for axes in figure.axes)
    shown = {text.get_text() for text in figure.findobj(Text)}
    assert {"LoRA", "FacT-TT", "FacT-TK", "Tucker"} <= shown
    assert any("selected on the test split" in text for text in shown), "results of another protocol are marked"
