"""Train with AdamW, and with PreconditionedAdamW for three fifths of the epochs; measure the time of a step.

    python -m benchmarks.preconditioned            # all runs that are missing, then the tables
    python -m benchmarks.preconditioned --table    # only the tables of the runs so far

Finished runs are kept in docs/results/preconditioned.json; `tensorfact fetch mnist dinov2-s` comes first. With --time,
only the time of a step is measured.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import cast

import torch
from torch.utils.data import DataLoader

from tensorfact import Adapter, adapt, fit, plan_for
from tensorfact.common.table import Table
from tensorfact.errors import DivergedError
from tensorfact.lab.data import Splits, open_task
from tensorfact.lab.measure import TrainingStep, step_ratios
from tensorfact.lab.models import load_model, with_head
from tensorfact.lab.training import accelerator_for
from tensorfact.lab.training.schedule import OptimizerName
from tensorfact.optim import PreconditionedAdamW

from .learning_rate import PARTS, Part
from .runs import Found, Known, complete, read

RUNS = Path(__file__).parents[1] / "docs" / "results" / "preconditioned.json"
METHODS = ("tt:rank=8", "tucker:rank=16", "cp:rank=32", "matrix-batch:rank=4")
SHARE = 0.6
"""The share of the epochs of the shorter runs."""

CASES: dict[str, tuple[OptimizerName, float, float]] = {
    "AdamW": ("adamw", 3e-3, 1.0),
    "AdamW, 0.6 of the epochs": ("adamw", 3e-3, SHARE),
    "AdamW, 0.6 of the epochs, lr 0.01": ("adamw", 1e-2, SHARE),
    "preconditioned, 0.6 of the epochs": ("preconditioned", 1e-2, SHARE),
}
"""The optimizer, its learning rate and the share of the epochs, by name."""


@dataclasses.dataclass(frozen=True)
class Training:
    """One training run.

    Args:
        part: The model and the task, by their name in `PARTS`.
        method: The format.
        case: The name of a case.
        seed: The seed.
    """

    part: str
    method: str
    case: str
    seed: int

    @property
    def key(self) -> str:
        """The key of its result."""
        return f"{self.part} | {self.method} | {self.case} | {self.seed}"


def wanted(known: Known) -> Iterable[Training]:
    """Yield all runs."""
    for name, part in PARTS.items():
        for seed in part.seeds:
            for method in METHODS:
                for case in CASES:
                    yield Training(name, method, case, seed)


def made(part: Part, method: str, seed: int) -> tuple[torch.nn.Module, Splits]:
    """Return an adapted model and its data."""
    model = load_model(part.model, pretrained="dinov2" in part.model)
    data = open_task(part.task, model)
    model = with_head(model, data.classes, seed)
    adapt(model, plan_for(model), method, seed=seed, check=False)
    return model, data


def execute(run: Training) -> Found:
    """Execute a run: the accuracy and the loss on the validation split after the last epoch."""
    torch.set_num_threads(1)
    part, (optimizer, lr, share) = PARTS[run.part], CASES[run.case]
    model, data = made(part, run.method, run.seed)
    epochs = round(share * part.settings.epochs)
    accelerator = accelerator_for("cpu", precision=part.settings.precision)
    try:
        history = fit(
            model,
            data.train,
            data.val,
            epochs=epochs,
            lr=lr,
            seed=run.seed,
            validate_every=epochs,
            optimizer=optimizer,
            accelerator=accelerator,
        )
    except DivergedError:
        return {}
    last = history.epochs[-1]
    return {"val_accuracy": last.val_accuracy, "val_loss": last.val_loss}


def key(run: Training) -> str:
    """Return the key of a run."""
    return run.key


def table(name: str, known: Known) -> Table:
    """Return the validation accuracy in percent, and the loss, of every case: the mean over formats and seeds."""
    rows = []
    for case in CASES:
        runs = [Training(name, method, case, seed).key for method in METHODS for seed in PARTS[name].seeds]
        found = [known[each] for each in runs if each in known]
        accuracy, loss = (_mean(found, of) for of in ("val_accuracy", "val_loss"))
        each = [
            _mean([known[run] for run in runs if f"| {method} |" in run and run in known], "val_accuracy")
            for method in METHODS
        ]
        rows.append(
            (case, _percent(accuracy), "" if loss is None else f"{loss:.3f}", *map(_percent, each), str(len(found)))
        )
    return Table(("optimizer", "accuracy", "loss", *METHODS, "runs"), tuple(rows))


def _mean(found: list[Found], of: str) -> float | None:
    values = [each.get(of) or 0.0 for each in found]
    return statistics.fmean(values) if values else None


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def ratios() -> Iterator[tuple[str, str, float]]:
    """Yield the time of a step of PreconditionedAdamW as a multiple of that of AdamW, by part and format."""
    for name in ("nano-digits", "dinov2-mnist"):
        for method in METHODS:
            steps = []
            for preconditioned in (False, True):
                model, data = made(PARTS[name], method, 0)
                x, y = next(iter(DataLoader(data.train, 64)))
                step = TrainingStep(model, x, y)
                if preconditioned:
                    step.optimizer = PreconditionedAdamW(cast("Adapter", model.tensorfact))
                steps.append(step)
            yield name, method, step_ratios(steps[0], {"": steps[1]})[""]


def main() -> None:
    """Run what is missing, and print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.preconditioned",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--limit", type=float, default=float("inf"), help="seconds after which no run begins")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--time", action="store_true", help="only measure the time of a step")
    options = parser.parse_args()
    if options.time:
        for name, method, ratio in ratios():
            print(f"{name}, {method}: {ratio:.3f} of a step of AdamW")
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    known = read(RUNS)
    if not options.table:
        known = complete(RUNS, wanted, key, execute, processes=options.processes, limit=options.limit)
    for name in PARTS:
        print(f"\n{name}\n{table(name, known)}")


if __name__ == "__main__":
    main()
