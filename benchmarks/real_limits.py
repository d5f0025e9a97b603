"""Why tensors lose to full fine-tuning on the location of a sprite: other rates, ranks, epochs and trained parameters.

    python -m benchmarks.real_limits            # the runs that are missing: ten minutes on two cores
    python -m benchmarks.real_limits --table    # the table of the runs so far

All runs are as those that choose options in the sweep of real tasks: 800 images to train, 200 to validate, seed 0.
Finished runs are kept in docs/results/real_limits.json; `tensorfact fetch dinov2-s` comes first.
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
from tensorfact.lab.sweep.real import SETTINGS
from tensorfact.lab.training import accelerator_for
from tensorfact.model.head import head_parameters
from tensorfact.model.parameters import base_parameters

from .runs import Found, Known, asked, complete, percent, read

RUNS = Path(__file__).parents[1] / "docs" / "results" / "real_limits.json"
MODEL, TASK = "dinov2-s(img_size=70)", "real:sprites-location"


def tensor_train(rank: int) -> Callable[[nn.Module], None]:
    """Return a function that adapts all linear layers by a tensor train."""

    def attach(model: nn.Module) -> None:
        adapt(model, plan_for(model), TensorTrain(rank), seed=0)

    return attach


def with_biases(model: nn.Module) -> None:
    """Adapt all linear layers, and train all biases and norms."""
    tensor_train(16)(model)
    for name, parameter in base_parameters(model).items():
        if name.endswith(".bias") or "norm" in name:
            parameter.requires_grad_(True)


def matrices(model: nn.Module) -> None:
    """Train the full weights that an adapter changes, and the head."""
    chosen = {*plan_for(model).resolve(model).parameters, *head_parameters(model, True)}
    for name, parameter in base_parameters(model).items():
        parameter.requires_grad_(name in chosen)


class Variant(NamedTuple):
    """A way to train.

    Args:
        label: What the table calls it.
        attach: Makes the model trainable.
        lr: The learning rate.
        epochs: The number of epochs.
    """

    label: str
    attach: Callable[[nn.Module], None]
    lr: float
    epochs: int = SETTINGS.epochs


VARIANTS = (
    Variant("tensor-train 16", tensor_train(16), 3e-3),
    Variant("tensor-train 16, three times the learning rate", tensor_train(16), 1e-2),
    Variant("tensor-train 16, twice the epochs", tensor_train(16), 3e-3, 2 * SETTINGS.epochs),
    Variant("tensor-train 48", tensor_train(48), 3e-3),
    Variant("tensor-train 16, and all biases and norms", with_biases, 3e-3),
    Variant("full weights of the adapted layers alone", matrices, 1e-4),
)


def execute(label: str) -> Found:
    """Train one variant.

    Args:
        label: Its label.
    """
    (variant,) = (each for each in VARIANTS if each.label == label)
    begin = time.process_time()
    model = load_model(MODEL, pretrained=True)
    splits = open_task(TASK, model)
    with_head(model, splits.classes, 0)
    variant.attach(model)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    history = fit(
        model,
        splits.train,
        splits.val,
        epochs=variant.epochs,
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
    """Return the validation accuracies, in percent.

    Args:
        known: The finished runs.
    """
    rows = []
    for variant in VARIANTS:
        found = known.get(variant.label, {})
        trained = found.get("trained")
        count = "" if trained is None else f"{trained:,.0f}"
        rows.append((variant.label, count, f"{variant.lr:g}", f"{variant.epochs}", percent(found.get("accuracy"))))
    return Table(("variant", "trained", "learning rate", "epochs", "validation"), tuple(rows))


def main() -> None:
    """Run what is missing, and print the table."""
    options = asked("real_limits", __doc__)
    if not options.table:
        labels = [variant.label for variant in VARIANTS]
        complete(RUNS, lambda _: labels, str, execute, processes=options.processes, limit=options.limit)
    print(table(read(RUNS)))


if __name__ == "__main__":
    main()
