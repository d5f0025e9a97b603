"""Results of a sweep that never ran: two parts, four groups, ranks to choose among, a failure, an unfinished cell."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

from tensorfact.lab.report.summary import RowSummary, Summary
from tensorfact.lab.sweep import Cell, Measured, Outcome, Results, Run, RunSpec, Settings, Sweep, SweepPart, SweepRow
from tensorfact.lab.sweep.spec import Stage

VTAB_TASKS = ("vtab:cifar", "vtab:svhn", "vtab:eurosat", "vtab:dmlab", "vtab:kitti")
SHOTS = ("few-shot:food-101:1:0", "few-shot:food-101:16:0", "digits")
RANKS = (2, 4, 8, 16)
HOSTILE = """</script><b a="x">'|` & _x_ <!-- 100 % $#{}~^\\ *y* [z](w)"""
"""A label that means something to every language that a report is written in."""

ROWS = (
    SweepRow("linear probe", ("linear",), accuracy=0.5255, parameters=0),
    SweepRow("BitFit", ("bitfit",), accuracy=0.6529, parameters=102_912),
    SweepRow("VPT-Deep", ("vpt-deep:length=10",), by_task={"vtab:dmlab": ("vpt-deep:length=100",)}),
    SweepRow("LoRA", tuple(f"lora:rank={rank}" for rank in RANKS), parameters=294_912, accuracy=0.7425),
    SweepRow(
        "FacT-TT", tuple(f"fact-tt:rank={rank}" for rank in RANKS), (0.1, 1.0, 10.0), parameters=42_496, accuracy=0.75
    ),
    SweepRow("FacT-TK", tuple(f"fact-tk:rank={rank}" for rank in RANKS), (0.1, 1.0, 10.0), accuracy=0.756),
    SweepRow("Tucker", tuple(f"tucker:rank={rank}" for rank in RANKS)),
    SweepRow(HOSTILE, ("tt:rank=4",)),
)


def sweep(*, released: bool = False, tasks: tuple[str, ...] = VTAB_TASKS, rows: tuple[SweepRow, ...] = ROWS) -> Sweep:
    parts = (
        SweepPart("vit", "VTAB-1K on a ViT-B/16", "vit_base_patch16_224", tasks, rows, checkpoint="vit.safetensors"),
        SweepPart("swin", "A few shots on a Swin-B", "swin_base_patch4_window7_224", SHOTS, (rows[0], *rows[-3:])),
    )
    return Sweep("formats", parts, (0, 1, 2), Settings(epochs=12), released)


def unit(*what: object) -> float:
    """Return a number from 0 to 1 that looks like chance, and is always the same."""
    return int(hashlib.sha256(repr(what).encode()).hexdigest()[:8], 16) / 2**32


def train(spec: RunSpec) -> Run:
    """Return what might have come of a run."""
    name, _, options = spec.method.partition(":")
    size = int(options.rpartition("=")[2] or 0)
    gain = (
        0.0 if name == "linear" else 0.08 + 0.02 * math.log2(1 + size) - 0.03 * abs(math.log10(float(spec.scale or 1)))
    )
    level = 0.4 + 0.35 * unit(spec.task) + gain + 0.08 * unit(name) + 0.02 * unit(spec.to_json())
    failed = spec.method == "bitfit" and spec.task == "vtab:kitti" and spec.seed == 1
    select = spec.stage == "select"
    epochs = tuple(
        {
            "train_loss": None if failed and epoch > 3 else round(2.5 * math.exp(-0.3 * epoch) + 1 - level, 4),
            "val_loss": None,
            "val_accuracy": None if spec.stage == "final" or epoch % 2 else round(level - 0.4 * math.exp(-epoch), 4),
        }
        for epoch in range(spec.settings.epochs)
    )
    count = 0 if name == "linear" else 102_912 if name == "bitfit" else 1_000 + (500 + int(9000 * unit(name))) * size
    outcome = Outcome(
        count,
        4 * count + 4096,
        round(level, 4) if select else None,
        None if select or failed else round(level, 4),
        11,
        epochs,
        {"train": 800, "val": 200, "test": 1000},
        spec.method,
        "the loss is no longer finite: </script>" if failed else "",
    )
    return Run(spec, outcome, Measured(30 + size, 0.01 + 0.001 * size, 2**20 * (200 + 3 * size), "a machine"))


def results(definition: Sweep, finished: Callable[[RunSpec], bool] = lambda spec: True) -> Results:
    """Return what a sweep may have come to.

    Args:
        definition: The sweep.
        finished: Which runs are there.
    """
    runs: dict[str, Run] = {}
    cells = []

    def run(spec: RunSpec) -> Run | None:
        return runs.setdefault(spec.id, train(spec)) if finished(spec) else None

    final: Stage = "released" if definition.released else "final"
    choose: Stage = "released" if definition.released else "select"
    for part in definition.parts:
        for row in part.rows:
            for task in part.tasks:
                options = row.candidates(task)
                specs = [definition.spec(part, task, *option, definition.seeds[0], choose) for option in options]
                tried = [run(spec) for spec in specs] if len(specs) > 1 else []
                scores = [
                    (each.outcome.val_accuracy or each.outcome.test_accuracy or 0.0) if each else 0.0 for each in tried
                ]
                best = options[scores.index(max(scores))] if tried else options[0]
                last = [definition.spec(part, task, *best, seed, final) for seed in definition.seeds]
                done = None not in tried and None not in [run(spec) for spec in last]
                ids = tuple(spec.id for spec in last) if done else ()
                cells.append(Cell(part.name, row.label, task, tuple(s.id for s in specs) if tried else (), ids))
    return Results(definition, runs, tuple(cells))


def example(*, released: bool = False) -> Results:
    """Return a sweep with one failure (BitFit on kitti) and one unfinished cell (Tucker on dmlab)."""
    return results(sweep(released=released), lambda spec: (spec.method[:6], spec.task) != ("tucker", "vtab:dmlab"))


def rows(summary: Summary, part: int = 0) -> dict[str, RowSummary]:
    return {row.row.label: row for row in summary.parts[part].rows}
