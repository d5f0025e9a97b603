"""The report of a sweep: means as VTAB takes them, nothing missing shown as a number, and text that stays text."""

from __future__ import annotations

import csv
import io
import json
import re
import statistics
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorfact.errors import CheckpointError
from tensorfact.lab.data import VTAB
from tensorfact.lab.report import page, summarize, write_sweep_report
from tensorfact.lab.report.html import page_data
from tensorfact.lab.report.summary import RowSummary, Summary
from tensorfact.lab.report.tables import CSV_COLUMNS, latex, markdown, table_csv
from tensorfact.lab.sweep import (
    RELEASED,
    Cell,
    Outcome,
    Part,
    Results,
    Row,
    Run,
    RunSpec,
    Sweep,
    group_means,
    overall_mean,
    task_group,
)

from .results import HOSTILE, RANKS, example, results, sweep

TASKS = st.sampled_from([*(f"vtab:{name}" for name in VTAB), "few-shot:food-101:1:0", "digits"])


@pytest.fixture(scope="module")
def summary() -> Summary:
    return summarize(example())


def rows(summary: Summary, part: int = 0) -> dict[str, RowSummary]:
    return {row.row.label: row for row in summary.parts[part].rows}


def finished(accuracies: dict[str, list[float]], counts: dict[str, int]) -> Results:
    """Return one row whose accuracies are known, by task and seed."""
    part = Part("one", "One", "nano", tuple(accuracies), (Row("tt", ("tt:rank=4",)),))
    definition = Sweep("known", (part,), seeds=tuple(range(len(next(iter(accuracies.values()))))))
    runs, cells = {}, []
    for task, values in accuracies.items():
        specs = [definition.spec(part, task, "tt:rank=4", None, seed, "final") for seed in definition.seeds]
        for spec, value in zip(specs, values, strict=True):
            runs[spec.id] = Run(spec, Outcome(counts[task], 0, None, value, 0, (), {}, spec.method))
        cells.append(Cell("one", "tt", task, (), tuple(spec.id for spec in specs)))
    return Results(definition, runs, tuple(cells))


def test_means_are_those_of_groups_and_spread_over_seeds() -> None:
    accuracies = {
        "vtab:cifar": [0.5, 0.7],
        "vtab:svhn": [0.7, 0.9],
        "vtab:eurosat": [0.9, 0.8],
        "vtab:dmlab": [0.4, 0.4],
    }
    counts = {"vtab:cifar": 100, "vtab:svhn": 300, "vtab:eurosat": 500, "vtab:dmlab": 600}
    row = rows(summarize(finished(accuracies, counts)))["tt"]
    means = {group: mean and (mean.mean, mean.spread) for group, mean in row.groups.items()}
    assert means["natural"] == pytest.approx((0.7, statistics.stdev([0.6, 0.8])))
    assert means["structured"] == pytest.approx((0.4, 0.0))
    assert row.accuracy is not None
    assert row.accuracy.mean == pytest.approx((0.7 + 0.85 + 0.4) / 3)
    assert row.accuracy.spread == pytest.approx(statistics.stdev([(0.6 + 0.9 + 0.4) / 3, (0.8 + 0.8 + 0.4) / 3]))
    assert row.parameters == pytest.approx((200 + 500 + 600) / 3)


def test_the_published_count_of_deep_prompts_is_a_mean_of_groups() -> None:
    """Lengths a task of VPT-Deep, as its authors chose them: 0.53 M."""
    lengths = [10, 10, 10, 1, 1, 50, 5, 100, 100, 10, 1, 50, 200, 100, 50, 10, 50, 200, 200]
    counts = {f"vtab:{name}": 12 * 768 * length for name, length in zip(VTAB, lengths, strict=True)}
    assert round(overall_mean(counts) / 1e6, 2) == 0.53


@given(st.dictionaries(TASKS, st.floats(0, 1), min_size=1))
def test_an_overall_mean_lies_between(values: dict[str, float]) -> None:
    groups = group_means(values)
    assert set(groups) == set(map(task_group, values))
    assert min(values.values()) - 1e-12 <= overall_mean(values) <= max(values.values()) + 1e-12
    if len(groups) == 1:
        assert overall_mean(values) == pytest.approx(statistics.fmean(values.values()))


def test_what_is_missing_is_no_number(summary: Summary) -> None:
    failed, unfinished = rows(summary)["BitFit"], rows(summary)["Tucker"]
    assert [cell.state for cell in failed.cells] == ["done"] * 4 + ["failed"]
    assert failed.cells[-1].why == "seed 1: the loss is no longer finite: </script>"
    assert [failed.accuracy, failed.groups["structured"], failed.cells[-1].accuracy] == [None] * 3
    assert failed.groups["natural"] is not None
    assert failed.parameters == 102_912
    assert [cell.state for cell in unfinished.cells] == ["done"] * 3 + ["unfinished", "done"]
    assert [unfinished.accuracy, unfinished.parameters] == [None, None]
    assert [(row.row.label, cell.task) for _, row, cell in summary.cells("failed")] == [("BitFit", "vtab:kitti")]


def test_ranks_are_compared_on_the_tasks_that_have_all_of_them(summary: Summary) -> None:
    known = rows(summary)
    assert [point.rank for point in known["FacT-TT"].ranks] == list(RANKS)
    assert known["linear probe"].ranks == ()
    found = example()
    best = {}
    for cell in found.cells:
        if (cell.part, cell.row) == ("vit", "Tucker") and cell.task != "vtab:dmlab":
            runs = [found.runs[id] for id in cell.candidates]
            best[cell.task] = max(r.outcome.val_accuracy or 0 for r in runs if r.spec.method == "tucker:rank=8")
    assert known["Tucker"].ranks[2].accuracy == pytest.approx(overall_mean(best))
    task = known["FacT-TT"].cells[0]
    assert task.chosen is not None
    assert (task.chosen.spec.method,) == task.methods
    assert (task.chosen.spec.scale,) == task.scales == (1.0,)


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


@given(st.text(max_size=30), st.text(max_size=30))
def test_the_page_ends_no_script_before_its_end(label: str, name: str) -> None:
    part = Part("one", "One", "nano", ("digits",), (Row(f"{label}</script>", ("tt:rank=2",)),))
    text = page(summarize(Results(Sweep(f"{name}<!--<script>@@DATA@@", (part,)), {}, ())))
    blocks = re.findall(r"<script[^>]*>(.*?)</script>", text, re.DOTALL)
    assert len(blocks) == text.count("<script") == text.count("</script") == 2
    data = json.loads(blocks[0])
    assert data["name"] == f"{name}<!--<script>@@DATA@@"
    assert data["parts"][0]["rows"][0]["label"] == f"{label}</script>"
    assert "<!--" not in text


def test_the_page_names_no_other_file() -> None:
    text = page(summarize(example()))
    assert set(re.findall(r"""(?:src|href)=["']([^"'#])""", text)) == {"d"}  # the empty icon, data:,
    assert set(re.findall(r"https?://[^\"]+", text)) == {"http://www.w3.org/2000/svg"}
    assert not re.findall(r"url\(|@import|fetch\(|XMLHttp", text)
    assert "default-src 'none'" in text


def test_specs_on_the_page_are_those_of_the_runs(summary: Summary) -> None:
    data = json.loads(json.dumps(page_data(summary), allow_nan=False))
    found = summary.results.runs
    assert len(data["runs"]) == len(found)
    for run in data["runs"]:
        fields = {**data["shared"], **run["spec"]}
        text = "{" + ", ".join(f'"{name}": {fields[name]}' for name in sorted(fields)) + "}"
        assert text == found[run["id"]].spec.to_json()
        assert RunSpec.from_json(text).id == run["id"]


def test_everything_says_when_the_test_split_selected() -> None:
    released = summarize(example(released=True))
    for text in (markdown(released), latex(released), page(released)):
        assert re.search(RELEASED, text, re.IGNORECASE)
    assert markdown(released).count(RELEASED) == 1 + len(released.parts)
    assert RELEASED not in markdown(summarize(example()))
    tried = rows(released)["FacT-TT"].ranks
    assert [point.rank for point in tried] == list(RANKS)


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
