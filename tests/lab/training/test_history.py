"""A history is a value."""

from __future__ import annotations

import dataclasses

from tests.lab.training.runs import network, run


def test_a_history_is_a_value() -> None:
    history = run(network(), epochs=2)
    assert dataclasses.replace(history) == history
    assert history.val_accuracy == max(epoch.val_accuracy or 0.0 for epoch in history.epochs)
    assert all(epoch.seconds > 0 for epoch in history.epochs)
