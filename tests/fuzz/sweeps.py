"""Folders of sweeps, with any of their JSON files damaged, and read as a report reads them."""

from __future__ import annotations

import dataclasses
import functools
import json
import tempfile
from pathlib import Path
from random import Random

from tensorfact.lab.report import summarize, terminal_tables
from tensorfact.lab.sweep import Settings, Sweep, SweepPart, SweepRow, known_specs, read_results
from tensorfact.lab.sweep.results import Measured, Outcome, Run
from tensorfact.lab.sweep.spec import RunSpec
from tensorfact.lab.sweep.store import Store
from tests.fuzz.case import Case
from tests.fuzz.values import dumped, garbled, mutated

ROWS = (SweepRow("linear", ("linear",)), SweepRow("TT", ("tt:rank=1", "tt:rank=2"), (1.0, 10.0), parameters=100))
SWEEP = Sweep("small", (SweepPart("nano", "Nano", "nano", ("digits", "vtab:svhn"), ROWS),), (0, 1), Settings(epochs=2))
EPOCH = {"train_loss": 1.0, "val_loss": 0.5, "val_accuracy": 0.5}


@functools.cache
def files(*, finished: bool) -> dict[str, str]:
    """Return the files of a folder of runs by their relative paths."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        store.write_sweep(SWEEP)
        store.write_inputs({"task digits": {"train": 10, "val": 5, "test": 5, "classes": 10}})
        waiting, results = list(known_specs(SWEEP)), None
        while waiting:
            for spec in waiting:
                store.begin(spec)
                store.finish(_run(spec))
            results = read_results(folder)
            finals = [
                dataclasses.replace(run.spec, stage="final", seed=seed)
                for run in results.runs.values()
                for seed in (0, 1)
            ]
            waiting = [] if not finished else [spec for spec in finals if store.read(spec) is None]
        if finished and results is not None:
            store.write_results(read_results(folder))
        root = Path(folder)
        return {path.relative_to(root).as_posix(): path.read_text() for path in root.rglob("*") if path.is_file()}


def sweep_case(rng: Random, folder: Path) -> Case:
    """Read a damaged folder of runs."""
    root, texts = folder / "runs", dict(files(finished=rng.random() < 0.5))
    names = sorted(texts)
    for _ in range(rng.choice((1, 1, 1, 2))):
        name = rng.choice([*names, *(name for name in names if "/" not in name)])
        texts[name] = dumped(mutated(rng, json.loads(texts[name]), rng.choice((1, 1, 2))))
    raw = {path: text.encode() for path, text in texts.items()}
    if rng.random() < 0.15:
        raw[name] = garbled(rng, raw[name])
    for path, content in raw.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    if rng.random() < 0.05:
        (root / name).unlink()
        if rng.random() < 0.5:
            (root / name).mkdir()
    if name == "inputs.json":
        return Case(name, Store(root).inputs, root)
    return Case(name, lambda: terminal_tables(summarize(read_results(root))), root)


def _run(spec: RunSpec) -> Run:
    accuracy = {"select": (0.5, None), "final": (None, 0.6), "released": (None, 0.6)}[spec.stage]
    outcome = Outcome(96, 1000, *accuracy, 1, (EPOCH, EPOCH), {"train": 10, "val": 5, "test": 5}, spec.method)
    return Run(spec, outcome, Measured(1.0, 0.1, 1000, "cpu"))
