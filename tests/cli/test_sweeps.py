"""`tensorfact sweep`, `run` and `report`: what they print, what they write, and the paper's table on a small scale."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tensorfact.cli import main
from tensorfact.lab.sweep import RunSpec, preset, read_results
from tests.make_benchmarks import lay_out_vtab, write_benchmarks

VIT = "vit_tiny_patch16_224(img_size=32,embed_dim=48,depth=3,num_heads=2)"
SWIN = "swin_tiny_patch4_window7_224(img_size=64,embed_dim=24,depths=(1,1,1,1),num_heads=(1,1,2,2),window_size=2)"


def said(capfd: pytest.CaptureFixture[str], *words: object) -> str:
    """Run the command line in this process, and return what it prints."""
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    assert not stop.value.code
    return capfd.readouterr().out


def refusal(capfd: pytest.CaptureFixture[str], *words: object) -> str:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    assert stop.value.code == 2
    lines = capfd.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


@pytest.mark.slow
def test_the_paper_is_listed_with_its_sizes(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    shown = said(capfd, "sweep", "--preset", "paper", "--data-root", tmp_path, "--dry-run", "--out", tmp_path / "runs")
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in shown.splitlines() if line.startswith("|")]
    compared = [(row[0], row[4], row[5]) for row in cells if row[5][:1].isdigit()]
    assert len(compared) == 11 + 5 + 6
    for label, ours, published in compared:
        places = 3 if float(published) < 1 else 1
        assert round(float(ours), places) == float(published), label
    assert "chosen on the validation split" in shown
    assert not (tmp_path / "runs").exists()


def test_specs_are_runs(capfd: pytest.CaptureFixture[str]) -> None:
    lines = said(capfd, "sweep", "--preset", "paper", "--part", "swin", "--specs").splitlines()
    assert len({RunSpec.from_json(line) for line in lines}) == len(lines) == 19 * (5 * 3 + 5)


def test_a_sweep_a_run_and_a_report(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    lay_out_vtab(tmp_path / "data", "svhn")
    words: tuple[object, ...] = (
        "--task",
        "vtab:svhn",
        "--data-root",
        tmp_path / "data",
        "--seeds",
        1,
        "--epochs",
        1,
        "--device",
        "cpu",
    )
    words = (*words, "--method", "tt:rank=1", "--method", "bitfit", "--scale", 1, "--scale", 2)
    first = said(capfd, "sweep", *words, "--specs").splitlines()[0]
    (tmp_path / "spec.json").write_text(first)
    one = (
        "run",
        tmp_path / "spec.json",
        "--data-root",
        tmp_path / "data",
        "--out",
        tmp_path / "runs",
        "--device",
        "cpu",
    )
    result = json.loads(said(capfd, *one, "--keep"))
    assert result["run"] == RunSpec.from_json(first).id
    folder = tmp_path / "runs" / "runs" / result["run"]
    assert {path.name for path in folder.iterdir()} >= {"result.json", "trained.safetensors"}
    before = (folder / "result.json").stat().st_mtime_ns

    shown = said(capfd, "sweep", *words, "--out", tmp_path / "runs")
    assert (folder / "result.json").stat().st_mtime_ns == before
    assert all(word in shown for word in ("tt:rank=1", "bitfit", "written:"))
    again = said(capfd, "report", tmp_path / "runs", "--out", tmp_path / "again")
    assert again.splitlines()[:5] == shown.splitlines()[:5]
    for name in ("report.html", "table.md", "table.csv", "table.tex"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "runs" / name).read_bytes()


def test_a_mistake_is_one_line(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "did you mean 'paper'" in refusal(capfd, "sweep", "--preset", "papr")
    assert "as-released" in refusal(capfd, "sweep", "--protocol", "released")
    assert "'ray'" in refusal(capfd, "sweep", "--engine", "rai", "--out", tmp_path)
    assert "root" in refusal(
        capfd, "sweep", "--preset", "paper", "--part", "vtab", "--model", "nano", "--out", tmp_path
    )
    assert "holds no sweep" in refusal(capfd, "report", tmp_path / "none")
    assert "cannot read" in refusal(capfd, "run", tmp_path / "none.json")


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["validated", "as-released"])
def test_the_papers_table_from_one_command(protocol: str, tmp_path: Path) -> None:
    write_benchmarks(tmp_path / "data", images=2, size=24)
    command = ["sweep", "--preset", "paper", "--data-root", str(tmp_path / "data"), "--out", str(tmp_path / "runs")]
    models = {"vtab": VIT, "few-shot": VIT, "swin": SWIN} if protocol == "validated" else {"swin": SWIN}
    for part, model in models.items():
        command += ["--part", part, "--model", f"{part}={model}"]
    command += ["--engine", "pool", "--processes", "2", "--device", "cpu", "--no-pretrained"]
    command += ["--epochs", "1", "--batch-size", "2", "--seeds", "1", "--scale", "1", "--protocol", protocol]
    done = subprocess.run(
        [sys.executable, "-m", "tensorfact", *command], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    results = read_results(tmp_path / "runs")
    assert len(results.cells) == sum(len(part.rows) * len(part.tasks) for part in results.sweep.parts)
    for cell in results.cells:
        assert len(cell.runs) == 1, cell
        assert results.runs[cell.runs[0]].outcome.test_accuracy is not None, cell
    assert [part.name for part in results.sweep.parts] == list(models)
    page, table = ((tmp_path / "runs" / name).read_text() for name in ("report.html", "table.md"))
    assert all(row.label in table for part in results.sweep.parts for row in part.rows)
    assert ("selected on the test split" in page) == (protocol == "as-released")


@pytest.mark.slow
def test_processes_of_a_launcher_do_a_run_together(tmp_path: Path) -> None:
    lay_out_vtab(tmp_path / "data", "svhn", images=5)
    spec = preset("small").spec(preset("small").parts[0], "vtab:svhn", "tt:rank=2", 1.0, 0, "select")
    data = {**spec.to_dict(), "settings": {"epochs": 2, "batch_size": 4, "warmup_epochs": 0}}
    (tmp_path / "spec.json").write_text(json.dumps(data))
    words = ["tensorfact", "run", str(tmp_path / "spec.json"), "--data-root", str(tmp_path / "data"), "--device", "cpu"]
    outcomes = {}
    for name, launcher in {
        "one": ["-m"],
        "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"],
        "accelerate": ["-m", "accelerate.commands.launch", "--num_processes", "1", "--cpu", "--module"],
    }.items():
        out = ["--out", str(tmp_path / name), *(["--tracker", "tensorboard"] if name != "one" else [])]
        done = subprocess.run(
            [sys.executable, *launcher, *words, *out], env=environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        (result,) = (tmp_path / name).glob("runs/*/result.json")
        outcomes[name] = json.loads(result.read_text())
        assert bool(list((tmp_path / name).rglob("events.out.*"))) == (name != "one")
    losses = {name: [epoch["train_loss"] for epoch in found["epochs"]] for name, found in outcomes.items()}
    for name in ("torchrun", "accelerate"):
        assert losses[name] == pytest.approx(losses["one"], rel=1e-4)
        assert outcomes[name]["parameters"] == outcomes["one"]["parameters"]
