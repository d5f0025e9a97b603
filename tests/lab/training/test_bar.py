"""The progress bar of a run: what it shows, that it ends, and that it changes no number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from tensorfact import fit
from tensorfact.errors import TrainingError
from tensorfact.lab.training.accelerated import Accelerated
from tests.helpers import refused, state_bits, untouched
from tests.lab.training.runs import EPOCHS, data, network, numbers, run, stopping_after

STEPS = 3
"""Steps of an epoch of `run`: 48 samples in batches of 16."""


def lines(text: str) -> list[str]:
    """Return the states of a bar that were drawn one over the other."""
    return [line for line in text.replace("\n", "\r").split("\r") if line.strip()]


def test_the_bar_changes_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    runs = []
    for progress in (True, False):
        model = network()
        runs.append((numbers(run(model, progress=progress)), state_bits(model)))
    assert runs[0] == runs[1]


def test_the_bar_shows_steps_loss_and_accuracy_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    history = run(network(), progress=True)
    out, err = capsys.readouterr()
    last = lines(err)[-1]
    assert not out
    assert f"epoch {EPOCHS}/{EPOCHS}" in last
    assert f"{EPOCHS * STEPS}/{EPOCHS * STEPS}" in last
    assert f"loss={history.epochs[-1].train_loss:.4f}" in last
    assert f"val_accuracy={100 * (history.epochs[-1].val_accuracy or 0.0):.1f} %" in last


def test_without_validation_there_is_no_accuracy(capsys: pytest.CaptureFixture[str]) -> None:
    fit(network(), DataLoader(data(), 16), None, epochs=2, progress=True)
    err = capsys.readouterr().err
    assert "loss=" in err
    assert "val_accuracy" not in err


@pytest.mark.parametrize("ignored", [[0], [1, 3], [0, 1, 2]])
def test_steps_without_a_sample_that_counts_advance_the_bar(
    ignored: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    x, y = data(16).tensors
    y = torch.where(torch.isin(torch.arange(16) // 4, torch.tensor(ignored)), -100, y)
    history = fit(network(), DataLoader(TensorDataset(x, y), 4), None, epochs=2, progress=True)
    last = lines(capsys.readouterr().err)[-1]
    assert "8/8" in last
    assert f"loss={history.epochs[-1].train_loss:.4f}" in last


@pytest.mark.parametrize("progress", [False, lambda task, done, total: None])
def test_no_bar_is_shown_unless_it_is_asked_for(progress: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run(network(), epochs=1, progress=progress)
    assert capsys.readouterr() == ("", "")


def test_a_run_that_resumes_goes_on_in_the_bar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(network(), checkpoint=tmp_path / "run", progress=stopping_after(2))
    run(network(), checkpoint=tmp_path / "run", progress=True)
    drawn = lines(capsys.readouterr().err)
    assert f"{2 * STEPS}/{EPOCHS * STEPS}" in drawn[0]
    assert f"{EPOCHS * STEPS}/{EPOCHS * STEPS}" in drawn[-1]


def test_the_bar_is_closed_by_an_exception(capsys: pytest.CaptureFixture[str]) -> None:
    def on_epoch(index: int, epoch: object) -> None:
        raise KeyError("enough")

    with pytest.raises(KeyError):
        run(network(), progress=True, on_epoch=on_epoch)
    err = capsys.readouterr().err
    assert err.endswith("\n"), "the line of the bar is ended"
    assert f"{STEPS}/{EPOCHS * STEPS}" in lines(err)[-1]


@pytest.mark.parametrize("wrong", [None, 1, "bar", lambda one: None])
def test_another_value_is_refused_before_training(wrong: Any) -> None:
    model = network()
    with untouched(model), refused(TrainingError, "fit: progress: expected True, False or a function of (task, done, "):
        run(model, progress=wrong)


def test_only_the_main_process_shows_the_bar(
    make: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(network(), epochs=1, progress=True, accelerator=make())
    assert "epoch 1/1" in capsys.readouterr().err
    monkeypatch.setattr(Accelerated, "main", False)  # as in the other processes
    run(network(), epochs=1, progress=True, accelerator=make())
    assert capsys.readouterr() == ("", "")
