"""Why tensor trains lose on two real tasks: other learning rates, ranks and trained parameters.

    python -m benchmarks.real_limits            # the runs that are missing: six minutes on two cores
    python -m benchmarks.real_limits --table    # the table of the runs so far

All runs are as those that choose options in the sweep of real tasks: 800 images to train, 200 to validate, seed 0.
Finished runs are kept in docs/results/real_limits.json; `tensorfact fetch dinov2-s tasks` comes first.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from torch import nn

from tensorfact import TensorTrain, adapt, fit, plan_for
from tensorfact.common.table import Table
from tensorfact.lab.data import open_task
from tensorfact.lab.models import load_model, with_head
from tensorfact.lab.report.names import task_label
from tensorfact.lab.sweep.real import ROWS, SETTINGS
from tensorfact.lab.sweep.record import Record
from tensorfact.lab.training import accelerator_for
from tensorfact.model.head import head_parameters
from tensorfact.model.parameters import base_parameters

from . import real
from .runs import Found, Known, asked, complete, percent, read

RUNS = Path(__file__).parents[1] / "docs" / "results" / "real_limits.json"
MODEL, LETTERS, LOCATION = "dinov2-s(img_size=70)", "real:letters", "real:sprites-location"


def tensor_train(rank: int) -> Callable[[nn.Module], None]:
    """Return a function that adapts all linear layers by a tensor train."""

    def attach(model: nn.Module) -> None:
        adapt(model, plan_for(model), TensorTrain(rank), seed=0)

    return attach


def matrices(model: nn.Module) -> None:
    """Train the full weights that an adapter changes, and the head."""
    chosen = {*plan_for(model).resolve(model).parameters, *head_parameters(model, True)}
    for name, parameter in base_parameters(model).items():
        parameter.requires_grad_(name in chosen)


class Variant(NamedTuple):
    """A way to train.

    Args:
        task: The task.
        label: What the table calls it.
        attach: Makes the model trainable.
        lr: The learning rate.
    """

    task: str
    label: str
    attach: Callable[[nn.Module], None]
    lr: float

    @property
    def key(self) -> str:
        """The key of its result."""
        return f"{self.task} | {self.label} | lr {self.lr:g}"


VARIANTS = (
    Variant(LETTERS, "tensor-train 16", tensor_train(16), 1e-2),
    Variant(LETTERS, "tensor-train 48", tensor_train(48), 3e-3),
    Variant(LOCATION, "tensor-train 48", tensor_train(48), 3e-3),
    Variant(LOCATION, "full weights of the adapted layers", matrices, 1e-4),
)


def execute(key: str) -> Found:
    """Train one variant.

    Args:
        key: Its key.
    """
    (variant,) = (each for each in VARIANTS if each.key == key)
    begin = time.process_time()
    model = load_model(MODEL, pretrained=True)
    splits = open_task(variant.task, model)
    with_head(model, splits.classes, 0)
    variant.attach(model)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    history = fit(
        model,
        splits.train,
        splits.val,
        epochs=SETTINGS.epochs,
        batch_size=SETTINGS.batch_size,
        lr=variant.lr,
        weight_decay=SETTINGS.weight_decay,
        warmup_epochs=SETTINGS.warmup_epochs,
        ties="first",
        seed=0,
        accelerator=accelerator_for("cpu", precision=SETTINGS.precision),
    )
    seconds = round(time.process_time() - begin, 1)
    return {"accuracy": history.val_accuracy, "trained": trained, "seconds": seconds}


def table(known: Known) -> Table:
    """Return the validation accuracies, in percent, with those of the sweep in front.

    Args:
        known: The finished runs.
    """
    rows = []
    for task in (LETTERS, LOCATION):
        for label in ("tensor-train 16", "LoRA (peft)", "full fine-tuning"):
            (method,) = next(row.methods for row in ROWS if row.label == label)
            found = [
                (run.spec.settings.lr, run.outcome.val_accuracy)
                for run in Record.read(real.RUNS).runs.values()
                if (run.spec.task, run.spec.method, run.spec.stage) == (task, method, "select")
            ]
            rows += [(task_label(task), label, f"{lr:g}", percent(accuracy)) for lr, accuracy in sorted(found)]
        for variant in VARIANTS:
            if variant.task == task:
                accuracy = known.get(variant.key, {}).get("accuracy")
                rows.append((task_label(task), variant.label, f"{variant.lr:g}", percent(accuracy)))
    return Table(("task", "trained", "learning rate", "validation"), tuple(rows))


def main() -> None:
    """Run what is missing, and print the table."""
    options = asked("real_limits", __doc__)
    if not options.table:
        keys = [variant.key for variant in VARIANTS]
        complete(RUNS, lambda _: keys, str, execute, processes=options.processes, limit=options.limit)
    print(table(read(RUNS)))


if __name__ == "__main__":
    main()
