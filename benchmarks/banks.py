"""Measure banks of tasks: files, opening and switching; `python -m benchmarks mixed` measures their throughput.

    python -m benchmarks.banks               # the table of files and times
    python -m benchmarks.banks --tasks 100   # fewer tasks on disk
    python -m benchmarks.banks --joining     # the accuracy of eight adapters of the bundled model that are joined

The first table is of models with random weights.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch.utils.data import TensorDataset

from tensorfact import Tasks, adapt, bank, fit, open_bank, plan_for
from tensorfact.common.table import Table
from tensorfact.lab import digits, evaluate, nano
from tensorfact.lab.data import Splits
from tensorfact.network.cost import seconds_of

from .mixed import RANK, filled
from .peers import vit


def seconds(call: Callable[[], object]) -> float:
    """Return the time of a call on the CPU."""
    return seconds_of(call, torch.device("cpu"))


def stored(folder: Path, count: int) -> None:
    """Write a bank of many tasks on ViT-B: one is drawn, and its file copied by adding it under other names."""
    model = vit("vit_base_patch16_224")
    one = filled(
        adapt(model, plan_for(model), f"tt:rank={RANK}", tasks=Tasks(["t0"], ["U", "V"]), train_head=False, check=False)
    )
    one.save(folder)
    state = one.state("t0")
    one.remove()
    found = open_bank(model, folder)
    for at in range(1, count):
        found.add(f"t{at}", state)


def serving(folder: Path, slots: int) -> tuple[float, float, float, float, int]:
    """Return the times to open a bank, to add a task, to switch to the first and the last one, and its memory."""
    model = vit("vit_base_patch16_224")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = memory("VmRSS")
    opening = seconds(lambda: open_bank(model, folder, slots=slots))
    opened: Any = model.tensorfact
    state = opened.state("t0")
    adding = statistics.median(seconds(lambda: opened.add("t0", state)) for _ in range(9))
    names = opened.tasks
    for name in names[: slots - 2]:
        opened.use(name)
    opened.use(names[-1])
    opened.use(names[0])

    def switched(name: str, other: str) -> float:
        return statistics.median(_switch(opened, name, other) for _ in range(50))

    first, last = switched(names[0], names[-1]), switched(names[-1], names[0])
    return opening, adding, first, last, memory("VmHWM") - before


def memory(field: str) -> int:
    """Return the memory of this process in KiB: now (`VmRSS`) or at most (`VmHWM`)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def _switch(opened: Any, name: str, other: str) -> float:
    opened.use(other)
    return seconds(lambda: opened.use(name))


def disk(counts: list[int], slots: int = 64) -> Table:
    """Return what banks of some numbers of tasks take, each in a process of its own."""
    rows = []
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            stored(Path(folder), count)
            size = (Path(folder) / "tasks" / "t0.safetensors").stat().st_size
            words = [sys.executable, "-m", "benchmarks.banks", "--serve", folder, "--slots", str(slots)]
            opening, adding, first, last, peak = subprocess.check_output(words, text=True).split()
        rows.append(
            (
                f"{count:,}",
                f"{size:,}",
                f"{float(opening):.3f}",
                f"{1000 * float(adding):.1f}",
                f"{1e6 * float(first):.0f}",
                f"{1e6 * float(last):.0f}",
                f"{int(peak) / 1024:.0f}",
            )
        )
    headers = ("tasks", "bytes a task", "open, s", "add, ms", "use first, us", "use last, us", "memory, MiB")
    return Table(headers, tuple(rows))


def three_digits(data: Splits, first: int) -> dict[str, TensorDataset]:
    """Return a task of three digits: first, first + 1 and first + 2, modulo 10."""
    found = {}
    for name in ("train", "test"):
        samples: Any = getattr(data, name)
        images, labels = torch.stack([x for x, _ in samples]), torch.tensor([int(y) for _, y in samples])
        labels = (labels - first) % 10
        found[name] = TensorDataset(images[labels < 3], labels[labels < 3])
    return found


def joining(count: int = 8) -> Table:
    """Return the mean test accuracy of adapters that were trained apart, and joined with shared U and V."""
    rows = []
    for seeds in ("a seed each", "one seed"):
        states, tests, apart = {}, {}, []
        for first in range(count):
            model = nano(num_classes=3)
            parts = three_digits(digits(model), first)
            adapter = adapt(model, plan_for(model), f"tt:rank={RANK}", seed=0 if seeds == "one seed" else first)
            fit(model, parts["train"], None, epochs=10, lr=3e-3, seed=first)
            states[f"digits from {first}"], tests[f"digits from {first}"] = adapter.state, parts["test"]
            apart.append(evaluate(model, parts["test"]).accuracy)
        total = sum(state.num_parameters for state in states.values())
        rows.append((seeds, "apart", f"{total:,}", f"{100 * statistics.fmean(apart):.1f}", str(RANK), ""))
        for options in ({"tolerance": 0.1}, {"tolerance": 0.2}, {"tolerance": 0.4}, {"budget": total}):
            model = nano(num_classes=3)
            joined = bank(model, states, shared=["U", "V"], **cast("Any", options))
            accuracies = []
            for name, test in tests.items():
                joined.bank.use(name)
                accuracies.append(evaluate(model, test).accuracy)
            errors = [error for each in joined.errors.values() for error in each.values()]
            [(name, value)] = options.items()
            mean, ranks = f"{100 * statistics.fmean(accuracies):.1f}", joined.bank.formats["encoder"].own_rank
            size = f"{joined.bank.num_parameters:,}"
            rows.append((seeds, f"{name} {value:,}", size, mean, str(ranks), f"{max(errors):.2f}"))
    return Table(("start", "8 tasks", "parameters", "test accuracy %", "rank", "largest error"), tuple(rows))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.banks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=1000, help="the most tasks on disk")
    parser.add_argument("--joining", action="store_true", help="only join eight adapters of the bundled model")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--slots", type=int, default=64, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        print(*serving(options.serve, options.slots))
        return
    if options.joining:
        print(joining())
        return
    print(disk([count for count in (10, 100, 1000) if count <= options.tasks]))


if __name__ == "__main__":
    main()
