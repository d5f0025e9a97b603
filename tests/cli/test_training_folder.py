"""The folder of a run of `train`: one run at a time, and nothing replaced without a word."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tensorfact.cli.training_folder import held
from tensorfact.lab.training.run import TrainingRun
from tests.cli.calls import Run
from tests.cli.test_training import MODEL, draw, trained

TRAIN = ("train", MODEL, "photos", "--out", "out", "--rank", "2", "--epochs")
OTHER = ("train", MODEL.replace("depth=1", "depth=2"), *TRAIN[2:], "2")


@pytest.fixture(autouse=True)
def _photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    draw(tmp_path / "photos")


def test_a_finished_adapter_of_another_run_is_not_replaced(run: Run, refused: Callable[..., str]) -> None:
    before = trained(run, "photos", "out")
    for words in ((*TRAIN, "3"), (*TRAIN, "2", "--lr", "0.01"), (*TRAIN, "2", "--blocks", "mlp"), OTHER):
        line = refused(*words)
        assert "finished" not in line
        assert "out holds an adapter of another run" in line
        assert "Fix: --restart replaces it; or pass another folder: --out out-2" in line
    again = run(*TRAIN, "2")
    assert again.returncode == 0, again.stderr
    assert "finished before: 2 of 2 epochs" in again.stdout
    assert trained(run, "photos", "out") == before
    assert run(*TRAIN, "1", "--restart").returncode == 0
    assert len(list(Path("out").glob("training-*"))) == 1


def test_a_stopped_run_says_that_it_goes_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    epoch = TrainingRun.epoch

    def interrupted(self: TrainingRun, *data: object) -> object:
        if len(self.history.epochs) == 1:
            raise KeyboardInterrupt  # what Ctrl-C raises
        return epoch(self, *data)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "epoch", interrupted)
        stopped = run(*TRAIN, "3")
    assert stopped.returncode == 130
    assert stopped.stderr.strip().endswith("stopped at epoch 2 of 3; the same command goes on")
    assert not Path("out/adapter.safetensors").exists()
    assert "resumed at epoch 2 of 3" in run(*TRAIN, "3").stdout


def test_two_runs_do_not_share_a_folder(refused: Callable[..., str]) -> None:
    with held(Path("out")):
        assert "out is in use by another run of `tensorfact train`" in refused(*TRAIN, "1")


def test_a_run_that_failed_leaves_no_empty_folder(refused: Callable[..., str]) -> None:
    refused("train", MODEL, "photos", "--out", "new/out", "--rank", "999")
    assert not Path("new").exists()
    Path("mine").mkdir()
    refused("train", MODEL, "photos", "--out", "mine", "--rank", "999")
    assert Path("mine").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("--lr", "nan"),
        ("--scale", "nan"),
        ("--dropout", "2"),
        ("--workers", "100000"),
        ("--seed", "9" * 30),
        ("--split-seed", "9" * 30),
        ("--fractions", "0.5/0.5/0.5"),
    ],
)
def test_options_are_checked_before_a_model_is_made(refused: Callable[..., str], words: tuple[str, str]) -> None:
    line = refused("train", "no-such-model", "photos", "--out", "out", *words)
    assert words[0].lstrip("-").replace("-", "_") in line.replace("-", "_")
    assert "no-such-model" not in line
    assert not Path("out").exists()
