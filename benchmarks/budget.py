"""Compare one run with fit(budget=...) with the best of 30 runs whose ranks are fixed.

    python -m benchmarks.budget            # all runs that are missing, then the tables
    python -m benchmarks.budget --table    # only the tables of the runs so far

The model's blocks have a tensor each, in the tensor-train format. The grid consists of ten ways to spread the budget
over the bonds of all tensors, the even split and nine at random, times three learning rates. The best on the validation
split is trained with every seed on the training and validation splits, and tested. So is the run with a budget, which
chooses nothing. Finished runs are kept in docs/results/budget.json; `tensorfact fetch mnist dinov2-s` comes first.
"""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch

from tensorfact import Format, Group, TensorizationPlan, TensorTrain, adapt, fit, plan_for
from tensorfact.common.table import Table
from tensorfact.errors import DivergedError
from tensorfact.formats.rank import first_that
from tensorfact.lab.data import open_task
from tensorfact.lab.models import load_model, with_head
from tensorfact.lab.training import accelerator_for, evaluate
from tensorfact.network import Mode

from .learning_rate import ONE_RATE, PARTS, RATES
from .runs import Found, Known, asked, chosen, complete, mean, percent, read

RUNS = Path(__file__).parents[1] / "docs" / "results" / "budget.json"
BUDGETS = {"nano-digits": 16_000, "nano-sprites": 16_000, "dinov2-mnist": 40_000}
"""The number of parameters of the adapter, by part."""
SEEDS = {"nano-digits": tuple(range(6)), "nano-sprites": tuple(range(6)), "dinov2-mnist": (0,)}
"""The seeds of the reported runs, by part; the first one chooses."""
SPREADS = tuple(range(10))
"""Ways to spread the budget: 0 is the even split, the others are seeds."""


@dataclasses.dataclass(frozen=True)
class Training:
    """One training run.

    Args:
        part: The model and the task, by their name in `PARTS`.
        spread: The way to spread the budget; None for ranks that move.
        lr: The learning rate.
        seed: The seed.
        test: Whether it trains on the training and validation splits, and is tested.
    """

    part: str
    spread: int | None
    lr: float
    seed: int
    test: bool

    @property
    def key(self) -> str:
        """The key of its result."""
        spread = "moving" if self.spread is None else f"spread {self.spread}"
        return f"{self.part} | {spread} | lr {self.lr:g} | seed {self.seed} | {'test' if self.test else 'validation'}"


def grid(part: str) -> list[Training]:
    """Return the 30 runs that choose."""
    return [Training(part, spread, lr, SEEDS[part][0], test=False) for spread in SPREADS for lr in RATES]


def tested(part: str, spread: int | None, lr: float) -> list[Training]:
    """Return the runs whose test accuracy is reported."""
    return [Training(part, spread, lr, seed, test=True) for seed in SEEDS[part]]


def best(part: str, known: Known) -> Training | None:
    """Return the run of the grid with the highest validation accuracy, at a tie with the lowest loss."""
    runs = grid(part)
    if any(run.key not in known for run in runs):
        return None

    def quality(run: Training) -> tuple[float, float]:
        found = known[run.key]
        return found.get("accuracy") or 0.0, -(found.get("loss") or float("inf"))

    return max(runs, key=quality)


def wanted(parts: Sequence[str], known: Known) -> Iterator[Training]:
    """Yield the runs of some parts that are missing and can be executed now."""
    for part in parts:
        yield from tested(part, 0, ONE_RATE)
        yield from grid(part)
        if (top := best(part, known)) is not None:
            yield from tested(part, top.spread, top.lr)
        yield from tested(part, None, ONE_RATE)


def key(run: Training) -> str:
    """Return the key of a run."""
    return run.key


def by_block(model: torch.nn.Module) -> TensorizationPlan:
    """Return the plan of a ViT with a tensor for each block."""
    (group,) = plan_for(model).groups
    return TensorizationPlan((Group(group.name, "role in out", group.rules, partition="layer"),))


def spread_ranks(modes: Sequence[Sequence[Mode]], budget: int, seed: int) -> list[Format]:
    """Return formats whose ranks fill a budget: the even split for seed 0, else of relative sizes between 1 and 4."""
    draw = random.Random(seed)
    weights = [tuple(2.0 ** draw.uniform(-1, 1) if seed else 1.0 for _ in range(2)) for _ in modes]

    def formats(size: int) -> list[Format]:
        ranks = (tuple(max(1, int(size * each / 100)) for each in pair) for pair in weights)
        return [TensorTrain(rank).fitted(each) for rank, each in zip(ranks, modes, strict=True)]

    def over(size: int) -> bool:
        return sum(f.num_parameters(m) for f, m in zip(formats(size), modes, strict=True)) > budget

    return formats(first_that(over, 100_000) - 1)


def execute(run: Training, device: str) -> Found:
    """Execute a run on a device."""
    torch.set_num_threads(1)
    part, budget, begin = PARTS[run.part], BUDGETS[run.part], time.process_time()
    model = load_model(part.model, pretrained="dinov2" in part.model)
    data = open_task(part.task, model)
    model = with_head(model, data.classes, run.seed)
    plan = by_block(model)
    tensors = plan.resolve(model).tensors
    ranks = spread_ranks([tensor.modes for tensor in tensors], budget, run.spread or 0)
    formats = {tensor.name: format for tensor, format in zip(tensors, ranks, strict=True)}
    adapt(model.to(device), plan, formats, seed=run.seed, check=False)
    try:
        history = fit(
            model,
            data.final if run.test else data.train,
            None if run.test else data.val,
            epochs=part.settings.epochs,
            lr=run.lr,
            seed=run.seed,
            budget=budget if run.spread is None else None,
            accelerator=accelerator_for(device, precision=part.settings.precision),
        )
    except DivergedError:
        return {}
    found: Found = {"seconds": round(time.process_time() - begin, 1)}
    if not run.test:
        epoch = history.epochs[history.best_epoch]
        return {**found, "accuracy": epoch.val_accuracy, "loss": epoch.val_loss}
    return {**found, "accuracy": evaluate(model, data.test).accuracy}


def table(known: Known) -> Table:
    """Return the mean test accuracy over the seeds, in percent, and the time of the run with moving ranks."""

    def over_seeds(part: str, spread: int | None, lr: float, of: str = "accuracy") -> float | None:
        return mean(known, [run.key for run in tested(part, spread, lr)], of)

    rows = []
    for part, budget in BUDGETS.items():
        moving, even = (over_seeds(part, spread, ONE_RATE) for spread in (None, 0))
        chosen = best(part, known)
        most = None if chosen is None else over_seeds(part, chosen.spread, chosen.lr)
        gap = None if moving is None or most is None else moving - most
        took = [over_seeds(part, spread, ONE_RATE, "seconds") for spread in (None, 0)]
        ratio = f"{took[0] / took[1]:.2f}" if took[0] and took[1] else ""
        rows.append((part, f"{budget:,}", *map(percent, (moving, most, gap, even)), ratio))
    headers = ("model, task", "budget", "ranks that move", "best of 30", "difference", "even split", "time")
    return Table(headers, tuple(rows))


def main() -> None:
    """Run what is missing, and print the table."""
    options = asked("budget", __doc__)
    if not options.table:
        runs = partial(wanted, chosen(PARTS, options))
        run = partial(execute, device=options.device)
        complete(RUNS, runs, key, run, processes=options.processes, limit=options.limit)
    print(table(read(RUNS)))


if __name__ == "__main__":
    main()
