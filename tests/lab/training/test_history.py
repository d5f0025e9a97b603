"""A history is a value that prints and plots itself."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorfact.errors import CheckpointError, TrainingError
from tensorfact.lab import History
from tensorfact.lab.training import Epoch
from tests.helpers import refused
from tests.lab.training.runs import network, run

HISTORY = History((Epoch(2.0, 1.5, 0.5, 1.0), Epoch(1.0, 1.0, 0.75, 1.0), Epoch(0.5, 1.25, 0.7, 1.5)), 1)


def test_a_history_is_a_value() -> None:
    history = run(network(), epochs=2)
    assert dataclasses.replace(history) == history
    assert history.val_accuracy == max(epoch.val_accuracy or 0.0 for epoch in history.epochs)
    assert all(epoch.seconds > 0 for epoch in history.epochs)


losses = st.floats(0, 10)
validated = st.builds(Epoch, losses, losses, st.sampled_from((0.5, 0.75)), st.just(1.0))


@given(st.lists(validated | st.just(Epoch(1.0, None, None, 1.0)), max_size=8))
def test_the_best_epoch_has_the_highest_accuracy_and_of_these_the_lowest_loss(epochs: list[Epoch]) -> None:
    by_loss, first = History((), 0), History((), 0)
    for epoch in epochs:
        by_loss, first = by_loss.followed_by(epoch), first.followed_by(epoch, "first")
    known = [(each.val_accuracy, each.val_loss, at) for at, each in enumerate(epochs) if each.val_accuracy is not None]
    if not known:
        assert by_loss.best_epoch == first.best_epoch == max(len(epochs) - 1, 0)
        return
    assert by_loss.best_epoch == min((-a, loss, at) for a, loss, at in known if loss is not None)[2]
    assert first.best_epoch == min((-a, at) for a, _, at in known)[1]


@given(st.lists(validated, min_size=1, max_size=8), st.integers(0, 8))
def test_epochs_before_a_given_one_are_not_the_best(epochs: list[Epoch], since: int) -> None:
    whole, later = History((), 0), History((), 0)
    for index, epoch in enumerate(epochs):
        whole = whole.followed_by(epoch, since=since)
        later = later.followed_by(epoch) if index >= since else later
        assert whole.best_epoch == (later.best_epoch + since if index >= since else index)


def test_fit_keeps_the_epoch_that_the_rule_names() -> None:
    kept = {ties: run(network(), epochs=8, lr=0.3, ties=ties) for ties in ("loss", "first")}
    assert [epoch.val_loss for epoch in kept["loss"].epochs] == [epoch.val_loss for epoch in kept["first"].epochs]
    for ties, history in kept.items():
        again = History((), 0)
        for epoch in history.epochs:
            again = again.followed_by(epoch, ties)  # type: ignore[arg-type]
        assert again == history
    with refused(TrainingError, "fit: ties", "'last'"):
        run(network(), epochs=1, ties="last")


def cells(line: str) -> list[str]:
    """Return the cells of a line of a table."""
    return [cell.strip() for cell in line.split("|")[1:-1]]


def test_a_history_prints_its_best_and_its_last_epoch() -> None:
    title, header, _, best, last = str(HISTORY).splitlines()
    assert title == "3 epochs in 3.5 s"
    assert cells(header) == ["", "epoch", "train loss", "val loss", "val accuracy %", "seconds"]
    assert cells(best) == ["best", "2", "1.0000", "1.0000", "75.0", "1.0"]
    assert cells(last) == ["last", "3", "0.5000", "1.2500", "70.0", "1.5"]
    alone = str(History((Epoch(2.0, None, None, 0.25),), 0)).splitlines()
    assert alone[0] == "1 epoch in 0.2 s"
    assert cells(alone[3]) == ["best, last", "1", "2.0000", "-", "-", "0.2"]
    assert str(History((), 0)) == "0 epochs in 0.0 s"


def test_a_table_has_every_epoch() -> None:
    assert [row[:2] for row in HISTORY.table().rows] == [("", "1"), ("best", "2"), ("", "3")]


@pytest.mark.parametrize("name", ["curve.png", "curve.svg"])
def test_a_plot_is_returned_and_written(name: str, tmp_path: Path) -> None:
    figure = HISTORY.plot(tmp_path / name)
    assert len(figure.axes) == 2
    written = (tmp_path / name).read_bytes()
    HISTORY.plot(str(tmp_path / name))
    assert (tmp_path / name).read_bytes() == written
    HISTORY.plot()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_what_cannot_be_plotted_is_refused(tmp_path: Path) -> None:
    with refused(TrainingError, "History.plot: path", "got the folder '.'", 'Fix: path="curve.png"'):
        HISTORY.plot(".")
    with refused(TrainingError, "History.plot: path", ".png or .svg", "'.pdf'", 'Fix: path="curve.png"'):
        HISTORY.plot("curve.pdf")
    with refused(TrainingError, "no epoch", "fit("):
        History((), 0).plot()
    with pytest.raises(CheckpointError, match="missing"):
        HISTORY.plot(tmp_path / "missing" / "curve.png")
