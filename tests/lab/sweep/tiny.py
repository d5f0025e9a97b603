"""Sweeps that train in seconds."""

from __future__ import annotations

from typing import Any

from tensorfact.lab.sweep import Settings, Sweep, SweepPart, SweepRow

TASKS = ("vtab:svhn", "vtab:eurosat")
SHORT = Settings(epochs=1, warmup_epochs=0, batch_size=4)


def tiny(*rows: SweepRow, **changes: Any) -> Sweep:
    rows = rows or (SweepRow("linear", ("linear",)), SweepRow("TT", ("tt:rank=1", "tt:rank=2"), (1.0, 10.0)))
    return Sweep("tiny", (SweepPart("nano", "nano", "nano", TASKS, rows),), (0, 1), SHORT, **changes)


SWEEP = Sweep(
    "tiny",
    (
        SweepPart(
            "nano",
            "nano",
            "nano",
            ("vtab:svhn",),
            (SweepRow("linear", ("linear",)), SweepRow("TT", ("tt:rank=1", "tt:rank=2"), (1.0, 10.0))),
        ),
    ),
    (0, 1),
    Settings(epochs=3, warmup_epochs=0, batch_size=4),
)
