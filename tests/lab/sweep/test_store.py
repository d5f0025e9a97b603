"""A sweep resumes after it is killed or the disk is full; a folder that is in use or damaged is refused."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tensorfact.errors import SweepError
from tensorfact.lab.sweep import RunSpec, SweepRow, in_process, run_sweep
from tests.helpers import refused
from tests.lab.sweep.tiny import tiny
from tests.make_benchmarks import lay_out_vtab


def test_a_folder_in_use_is_refused(root: Path, tmp_path: Path) -> None:
    def engine(job: Any, specs: Any) -> Iterator[RunSpec]:
        with refused(SweepError, "in use"):
            run_sweep(tiny(), tmp_path, root=root)
        yield from in_process(job, specs)

    run_sweep(tiny(SweepRow("linear", ("linear",))), tmp_path, root=root, engine=engine)


def test_a_damaged_result_is_named(root: Path, tmp_path: Path) -> None:
    sweep = tiny(SweepRow("linear", ("linear",)))
    run_sweep(sweep, tmp_path, root=root)
    path = next(tmp_path.glob("runs/*/result.json"))
    path.write_text(path.read_text()[:40])
    with refused(SweepError, path.parent.name):
        run_sweep(sweep, tmp_path, root=root)


ARGUMENTS = ("--task", "vtab:svhn", "--task", "vtab:eurosat", "--seeds", "2", "--epochs", "6", "--device", "cpu")
METHODS = ("--method", "tt:rank=2", "--method", "bitfit", "--scale", "1", "--scale", "10")
ENGINES = {"in-process": (), "pool": ("--engine", "pool", "--processes", "2")}
KILLS = {"in-process": 10, "pool": 4}

LIMITED = """
import resource, sys
from tensorfact.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
main(sys.argv[2:])
"""
"""Run the command line with a limit on the size of written files, as on a full disk."""


def arguments(data: Path, out: Path, *more: str) -> list[str]:
    return ["sweep", *ARGUMENTS, *METHODS, "--data-root", str(data), "--out", str(out), *more]


def start(words: list[str], *program: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": ""}
    command = [sys.executable, *(program or ("-m", "tensorfact")), *words]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(words: list[str]) -> None:
    process = start(words)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("svhn", "eurosat"):
        lay_out_vtab(tmp_path / "data", name, images=6)
    return tmp_path / "data"


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_killed_again_and_again_it_ends_with_the_same_results(engine: str, data: Path, tmp_path: Path) -> None:
    finish(arguments(data, tmp_path / "undisturbed"))
    words = arguments(data, tmp_path / "killed", *ENGINES[engine])
    chance, kills = random.Random(0), 0
    while kills < KILLS[engine]:
        process = start(words)
        runs = tmp_path / "killed" / "runs"
        deadline, before = time.monotonic() + 60, len(list(runs.glob("*/*"))) if runs.exists() else 0
        # wait until it writes something and a moment longer, so that most kills hit a run in progress
        while time.monotonic() < deadline and process.poll() is None:
            if runs.exists() and len(list(runs.glob("*/*"))) != before:
                break
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.4))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += 1
        if (tmp_path / "killed" / "results.json").exists():
            break
    finish(words)
    same = [(tmp_path / name / "results.json").read_bytes() for name in ("undisturbed", "killed")]
    assert same[0] == same[1]
    assert not list((tmp_path / "killed").rglob("training.safetensors"))


@pytest.mark.slow
def test_a_full_disk_leaves_a_sweep_that_goes_on(data: Path, tmp_path: Path) -> None:
    words = arguments(data, tmp_path / "full")
    program = tmp_path / "limited.py"
    program.write_text(LIMITED)
    process = start(["10000", *words], str(program))  # specs fit, checkpoints do not
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 2
    assert "cannot write" in said
    assert not list((tmp_path / "full").rglob("result.json"))
    assert not list((tmp_path / "full").rglob("*.tmp"))
    finish(words)
    assert (tmp_path / "full" / "results.json").exists()
