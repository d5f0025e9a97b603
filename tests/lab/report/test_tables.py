"""Tables of a sweep: Markdown, CSV and LaTeX, with special characters escaped."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
import statistics

import pytest

from tensorfact.errors import printable
from tensorfact.lab.report import page, summarize
from tensorfact.lab.report.summary import Summary
from tensorfact.lab.report.tables import CSV_COLUMNS, _cell_text, latex, markdown, table_csv
from tensorfact.lab.sweep import RELEASED
from tests.results import HOSTILE, RANKS, example, rows


def test_markdown_has_the_paper_s_form(summary: Summary) -> None:
    text = markdown(summary)
    lines = text.splitlines()
    head, bitfit, tucker = (
        next(line for line in lines if line.startswith(f"| {n} ")) for n in ("method", "BitFit", "Tucker")
    )
    columns = [cell.strip() for cell in head.split("|")[1:-1]]
    assert columns[:5] == ["method", "parameters", "published", "cifar (natural)", "svhn (natural)"]
    assert columns[-3:] == ["mean (structured)", "overall mean", "published"]
    cells = [cell.strip() for cell in bitfit.split("|")[1:-1]]
    assert cells[:3] == ["BitFit", "0.103 M", "0.103 M"]
    assert cells[-4:] == ["failed", "–", "–", "65.3"]  # noqa: RUF001
    assert tucker.count("–") == 4  # noqa: RUF001
    assert "- VTAB-1K on a ViT-B/16: Tucker is not finished on vtab:dmlab" in lines
    assert all(line.count(" | ") == head.count(" | ") for line in lines[6:15])
    assert not re.search(r"(?<!\\)<", text)


def test_csv_has_one_line_a_run(summary: Summary) -> None:
    found = list(csv.DictReader(io.StringIO(table_csv(summary))))
    assert tuple(found[0]) == CSV_COLUMNS
    done = [(row, cell) for part in summary.parts for row in part.rows for cell in row.cells]
    assert len(found) == sum(len(cell.runs) for _, cell in done)
    assert {line["row"] for line in found} >= {HOSTILE}
    (failed,) = [line for line in found if not line["test_accuracy"]]
    assert (failed["row"], failed["task"], failed["seed"]) == ("BitFit", "vtab:kitti", "1")
    tt = [float(line["test_accuracy"]) for line in found if (line["row"], line["task"]) == ("FacT-TT", "vtab:svhn")]
    mean = rows(summary)["FacT-TT"].cells[1].accuracy
    assert mean is not None
    assert statistics.fmean(tt) == mean.mean


def test_latex_is_escaped_and_as_wide_as_it_says(summary: Summary) -> None:
    text = latex(summary)
    (width,) = re.findall(r"\\begin\{tabular\}\{(l r*|lr*)\}", text)[:1]
    body = text.split("\\midrule\n")[1].split("\\bottomrule")[0].splitlines()
    assert all(len(re.findall(r"(?<!\\)&", line)) == len(width) - 1 for line in body)
    assert "\\textless{}/script\\textgreater{}" in body[-1]
    assert "100 \\% \\$\\#\\{\\}\\textasciitilde{}\\textasciicircum{}\\textbackslash{}" in body[-1]
    assert "$\\pm$" in text
    assert "failed" in body[1]


def test_everything_says_when_the_test_split_selected() -> None:
    released = summarize(example(released=True))
    for text in (markdown(released), latex(released), page(released)):
        assert re.search(RELEASED, text, re.IGNORECASE)
    assert markdown(released).count(RELEASED) == 1 + len(released.parts)
    assert RELEASED not in markdown(summarize(example()))
    tried = rows(released)["FacT-TT"].ranks
    assert [point.rank for point in tried] == list(RANKS)


FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "  =cmd|'/c calc'!A1", "\uff1d1", "\n=1"]


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_of_csv_starts_a_formula(text: str) -> None:
    """A spreadsheet shows what follows an apostrophe as text."""
    results = example()
    part = results.sweep.parts[0]
    rows = tuple(dataclasses.replace(row, label=f"{text}{row.label}") for row in part.rows)
    parts = (dataclasses.replace(part, name=text, rows=rows), *results.sweep.parts[1:])
    cells = tuple(
        dataclasses.replace(cell, part=text, row=f"{text}{cell.row}") if cell.part == part.name else cell
        for cell in results.cells
    )
    runs = {
        id: dataclasses.replace(run, outcome=dataclasses.replace(run.outcome, method=text))
        for id, run in results.runs.items()
    }
    hostile = dataclasses.replace(
        results, sweep=dataclasses.replace(results.sweep, parts=parts), cells=cells, runs=runs
    )
    found = list(csv.DictReader(io.StringIO(table_csv(summarize(hostile)), newline="")))
    shown = f"'{printable(text)}"
    assert {line["method"] for line in found} == {shown}
    assert any(line["part"] == shown and line["row"].startswith(shown) for line in found)
    for name in ("part", "row", "task", "group", "method"):
        assert not any(line[name].lstrip().startswith(tuple("=+-@")) for line in found)


@pytest.mark.parametrize("value", [-0.5, 3, 0.0, None, "-", "a=b", "lora:rank=8", "'=1"])
def test_what_is_no_formula_stays_as_it_is(value: object) -> None:
    assert _cell_text(value) == ("'-" if value == "-" else value)
