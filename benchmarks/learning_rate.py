"""Compare scale="auto" at one learning rate with the best of a grid of scales and rates, for seven formats.

    python -m benchmarks.learning_rate                            # all runs that are missing, in two processes
    python -m benchmarks.learning_rate --part nano --limit 3600   # those of one part, for at most an hour
    python -m benchmarks.learning_rate --table                    # only the table of the runs so far

Finished runs are kept in docs/results/learning_rate.json, so that any machine goes on from them. `mnist` and `dinov2-s`
need `tensorfact fetch mnist dinov2-s`.
"""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from tensorfact.common.table import Table
from tensorfact.lab.sweep import Runner, RunSpec
from tensorfact.lab.sweep.spec import Settings, Stage

from .runs import Found, Known, asked, chosen, complete, mean, percent, read

RUNS = Path(__file__).parents[1] / "docs" / "results" / "learning_rate.json"
SCALES, RATES = (0.01, 0.1, 1.0, 10.0, 100.0), (3e-4, 1e-3, 3e-3)
"""The grid: the scales of the FacT paper, and three learning rates."""
ONE_RATE = 3e-3
"""The learning rate of scale="auto" for every format, model and task."""

FORMATS: dict[str, tuple[str, ...]] = {
    "tensor-train": tuple(f"tt:rank={rank}" for rank in (4, 8, 16)),
    "Tucker": tuple(f"tucker:rank={rank}" for rank in (8, 16, 32)),
    "CP": tuple(f"cp:rank={rank}" for rank in (8, 32, 64)),
    "matrix-batch": tuple(f"matrix-batch:rank={rank}" for rank in (1, 4, 16)),
    "tensor ring": tuple(f"tensor-ring:rank={rank}" for rank in (2, 4, 8)),
    "block term": tuple(f"block-term:rank={rank},blocks=4" for rank in (2, 4, 8)),
    "Kronecker": tuple(f"lokr:rank={rank}" for rank in (2, 4, 8)),
}


@dataclasses.dataclass(frozen=True)
class Part:
    """A model and a task.

    Args:
        model: The model, as in `RunSpec`.
        task: The task.
        settings: Hyperparameters of all runs but the learning rate.
        seeds: Seeds of the reported runs; the first one chooses.
    """

    model: str
    task: str
    settings: Settings
    seeds: tuple[int, ...]

    def spec(self, method: str, scale: float | str, lr: float, stage: Stage, seed: int) -> RunSpec:
        """Return the spec of one run."""
        settings = dataclasses.replace(self.settings, lr=lr)
        return RunSpec(self.model, self.task, method, scale, seed, stage, settings, pretrained="dinov2" in self.model)


PARTS = {
    "nano-digits": Part("nano", "digits", Settings(epochs=10, warmup_epochs=1), (0, 1, 2)),
    "nano-sprites": Part("nano", "sprites-location", Settings(epochs=10, warmup_epochs=1), (0, 1, 2)),
    "dinov2-mnist": Part(
        "dinov2-s(img_size=70)", "mnist", Settings(epochs=5, warmup_epochs=0.5, precision="bf16"), (0,)
    ),
}


def methods() -> Iterator[tuple[str, str]]:
    """Yield every format and its method at each rank, the ranks first, so that all formats advance together."""
    for at in range(3):
        for format, ranks in FORMATS.items():
            yield format, ranks[at]


def derived(part: Part, method: str) -> list[RunSpec]:
    """Return the runs of scale="auto" that choose nothing: each learning rate, on the validation split."""
    return [part.spec(method, "auto", lr, "select", part.seeds[0]) for lr in RATES]


def grid(part: Part, method: str) -> list[RunSpec]:
    """Return the runs of the grid, on the validation split."""
    chosen = itertools.product(SCALES, RATES)
    return [part.spec(method, scale, lr, "select", part.seeds[0]) for scale, lr in chosen]


def reported(part: Part, method: str, scale: float | str, lr: float) -> list[RunSpec]:
    """Return the runs whose test accuracy is reported."""
    return [part.spec(method, scale, lr, "final", seed) for seed in part.seeds]


def best(part: Part, method: str, known: Known) -> tuple[float, float] | None:
    """Return the scale and the rate of the grid with the highest validation accuracy, once all runs are there."""
    runs = grid(part, method)
    if any(run.id not in known for run in runs):
        return None
    top = max(runs, key=lambda run: known[run.id].get("val") or 0.0)
    assert isinstance(top.scale, float)
    return top.scale, top.settings.lr


def wanted(parts: Sequence[Part], known: Known) -> Iterator[RunSpec]:
    """Yield the runs that are missing and can be executed now, those of scale="auto" at high rates first."""
    for at in reversed(range(len(RATES))):
        for part in parts:
            yield from (derived(part, method)[at] for _, method in methods())
    for part in parts:
        for _, method in methods():
            yield from reported(part, method, "auto", ONE_RATE)
    for part in parts:
        for _, method in methods():
            yield from reported(part, method, 1.0, 1e-3)
            yield from grid(part, method)
            if (top := best(part, method, known)) is not None:
                yield from reported(part, method, *top)


def identity(spec: RunSpec) -> str:
    """Return the key of a run."""
    return spec.id


def execute(spec: RunSpec, device: str) -> Found:
    """Execute a run on a device."""
    with tempfile.TemporaryDirectory() as folder:
        outcome = Runner(Path(folder), device=device).run(spec).outcome
    digits = {"val": outcome.val_accuracy, "test": outcome.test_accuracy}
    return {name: round(value, 5) for name, value in digits.items() if value is not None}


def table(part: Part, known: Known) -> Table:
    """Return the table of one part: mean test accuracy over ranks and seeds, in percent."""
    rows = []
    for format, ranks in FORMATS.items():
        one = mean(known, [spec.id for method in ranks for spec in reported(part, method, "auto", ONE_RATE)], "test")
        default = mean(known, [spec.id for method in ranks for spec in reported(part, method, 1.0, 1e-3)], "test")
        tops = [best(part, method, known) for method in ranks]
        specs = [spec for method, top in zip(ranks, tops, strict=True) if top for spec in reported(part, method, *top)]
        top = mean(known, [spec.id for spec in specs], "test") if all(tops) else None
        rates = [mean(known, [derived(part, m)[at].id for m in ranks], "val") for at in range(len(RATES))]
        lowest = [known[spec.id].get("val") or 0.0 for m in ranks for spec in derived(part, m) if spec.id in known]
        gap = None if one is None or top is None else one - top
        low = f"{100 * min(lowest):.1f}" if lowest else ""
        rows.append((format, *map(percent, (one, top, gap, default, *rates)), low))
    by_rate = [f"auto, validation, lr {lr:g}" for lr in RATES]
    headers = ("format", f"auto, lr {ONE_RATE:g}", "best of the grid", "difference", "scale 1, lr 0.001")
    return Table((*headers, *by_rate, "lowest"), tuple(rows))


def main() -> None:
    """Run what is missing, and print the tables."""
    options = asked("learning_rate", __doc__)
    names = chosen(PARTS, options)
    if not options.table:
        parts = [PARTS[name] for name in names]
        complete(
            RUNS,
            lambda known: wanted(parts, known),
            identity,
            partial(execute, device=options.device),
            processes=options.processes,
            limit=options.limit,
        )
    known = read(RUNS)
    for name in names:
        print(f"\n{name}\n{table(PARTS[name], known)}")


if __name__ == "__main__":
    main()
