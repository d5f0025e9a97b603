"""Train with AdamW, and with PreconditionedAdamW for three fifths of the epochs; measure the time of a step.

    python -m benchmarks.preconditioned            # all runs that are missing, then the tables
    python -m benchmarks.preconditioned --table    # only the tables of the runs so far

Finished runs are kept in docs/results/preconditioned.json; `tensorfact fetch mnist dinov2-s` comes first. With --time,
only the time of a step is measured, and kept there too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
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
from .runs import Found, Known, asked, chosen, complete, mean, percent, read, write

RUNS = Path(__file__).parents[1] / "docs" / "results" / "preconditioned.json"
METHODS = ("tt:rank=8", "tucker:rank=16", "cp:rank=32", "matrix-batch:rank=4")
SHARE = 0.6
"""The share of the epochs of the shorter runs."""

CASES: dict[str, tuple[OptimizerName, float, float]] = {
    "AdamW": ("adamw", 3e-3, 1.0),
    "AdamW, 0.6 of the epochs": ("adamw", 3e-3, SHARE),
    "AdamW, 0.6 of the epochs, lr 0.01": ("adamw", 1e-2, SHARE),
    "preconditioned, 0.6 of the epochs, lr 0.007": ("preconditioned", 7e-3, SHARE),
    "preconditioned, 0.6 of the epochs, lr 0.01": ("preconditioned", 1e-2, SHARE),
}
"""The optimizer, its learning rate and the share of the epochs, by name."""
TIMED = ("nano-digits", "dinov2-mnist")
"""The parts at which a step is timed."""


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


def wanted(names: Sequence[str], known: Known) -> Iterator[Training]:
    """Yield all runs of some parts."""
    for name in names:
        for seed in PARTS[name].seeds:
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


def execute(run: Training, device: str) -> Found:
    """Execute a run on a device: the accuracy and the loss on the validation split after the last epoch."""
    torch.set_num_threads(1)
    part, (optimizer, lr, share) = PARTS[run.part], CASES[run.case]
    model, data = made(part, run.method, run.seed)
    model.to(device)
    epochs = round(share * part.settings.epochs)
    accelerator = accelerator_for(device, precision=part.settings.precision)
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
        by_method = [[Training(name, method, case, seed).key for seed in PARTS[name].seeds] for method in METHODS]
        every = [run for runs in by_method for run in runs]
        accuracy, loss = (mean(known, every, of) for of in ("val_accuracy", "val_loss"))
        each = [percent(mean(known, runs, "val_accuracy")) for runs in by_method]
        rows.append((case, percent(accuracy), "" if loss is None else f"{loss:.3f}", *each))
    return Table(("optimizer", "accuracy", "loss", *METHODS), tuple(rows))


def timing(name: str, method: str) -> str:
    """Return the key of the time of a step."""
    return f"time of a step | {name} | {method}"


def times(known: Known) -> Table:
    """Return the time of a step with PreconditionedAdamW over that with AdamW."""
    found = [[mean(known, [timing(name, method)], "ratio") for method in METHODS] for name in TIMED]
    cells = [["" if ratio is None else f"{ratio:.2f}" for ratio in row] for row in found]
    return Table(("model", *METHODS), tuple((name, *row) for name, row in zip(TIMED, cells, strict=True)))


def ratios() -> Iterator[tuple[str, str, float]]:
    """Yield the time of a step of PreconditionedAdamW as a multiple of that of AdamW, by part and format."""
    for name in TIMED:
        for method in METHODS:
            steps = []
            for preconditioned in (False, True):
                model, data = made(PARTS[name], method, 0)
                x, y = next(iter(DataLoader(data.train, 64)))
                step = TrainingStep(model, x, y)
                if preconditioned:
                    step.optimizer = PreconditionedAdamW(cast("Adapter", model.tensorfact))
                steps.append(step)
            yield name, method, step_ratios(steps[0], {"": steps[1]}, rounds=31)[""]


def main() -> None:
    """Run what is missing, and print the tables."""
    options = asked("preconditioned", __doc__, ("--time", "only measure the time of a step"))
    names = chosen(PARTS, options)
    if options.time:
        write(RUNS, read(RUNS) | {timing(*case): {"ratio": ratio} for *case, ratio in ratios()})
    elif not options.table:
        run = partial(execute, device=options.device)
        complete(RUNS, partial(wanted, names), key, run, processes=options.processes, limit=options.limit)
    known = read(RUNS)
    for name in names:
        print(f"\n{name}\n{table(name, known)}")
    print(f"\ntime of a step\n{times(known)}")


if __name__ == "__main__":
    main()
