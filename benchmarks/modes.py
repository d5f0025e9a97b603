"""Whether `route="auto"` takes the faster of two narrow products and the effective weight: 40 cases, measured.

python -m benchmarks.modes              # measure, and write docs/results/modes.json: 20 minutes on two idle cores
python -m benchmarks.modes --table      # the table from that file
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import timm
import torch

from tensorfact import Format, MatrixBatch, TensorTrain, adapt, plan_for
from tensorfact.adapters.explain import Choice
from tensorfact.common.table import Table
from tensorfact.lab.report.intervals import Interval

RUNS = Path(__file__).parents[1] / "docs" / "results" / "modes.json"
MODELS = {
    "ViT-Ti/16": ("vit_tiny_patch16_224", {"depth": 2}),
    "ViT-S/16": ("vit_small_patch16_224", {"depth": 2}),
    "ViT-B/16": ("vit_base_patch16_224", {"depth": 2}),
    "ViT-L/16": ("vit_large_patch16_224", {"depth": 2}),
    "ResNet-26": ("resnet26", {}),
}
TOKENS = (256, 2048)
"""Tokens, or positions of a convolution."""
RANKS = (8, 32)
TIMES, SECONDS = 8, 10.0
"""How often at least, and how long at least, each case is measured."""
FORMATS: tuple[type[Format], ...] = (TensorTrain, MatrixBatch)


class Case(NamedTuple):
    """One case, and the times that a training step takes beyond the frozen model, in seconds for all adapted layers.

    Args:
        model: The label of the model.
        tokens: Tokens in a batch.
        format: The format.
        narrow: Median time by two narrow products.
        formed: Median time by the effective weight.
        auto: Median time by what `auto` chooses for each kind of layer.
        chosen: What it chooses.
        slower: How much longer `auto` takes than the faster single choice: the mean of paired differences.
        half: Half the width of its 95 % interval.
    """

    model: str
    tokens: int
    format: str
    narrow: float
    formed: float
    auto: float
    chosen: str
    slower: float
    half: float

    @property
    def right(self) -> bool:
        """Whether no single choice for all layers is faster than that of `auto`."""
        return self.auto <= min(self.narrow, self.formed)

    @property
    def tie(self) -> bool:
        """Whether it is longer, and not known to be: the interval of the difference has zero in it."""
        return not self.right and self.slower <= self.half


def cases() -> Iterator[tuple[str, int, Format]]:
    """Yield the 40 cases."""
    for model in MODELS:
        for tokens in TOKENS:
            for rank in RANKS:
                for format in FORMATS:
                    yield model, tokens, format(rank)  # type: ignore[call-arg]  # both take a rank


def measured(label: str, tokens: int, format: Format) -> Case:
    """Measure one case.

    Args:
        label: The label of the model.
        tokens: Tokens in a batch.
        format: The format.
    """
    name, options = MODELS[label]
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10, **options)
    plan = plan_for(model)
    adapter = adapt(model, plan, plan.resolve(model).fitted(format), check=False)
    rounds: list[list[Choice]] = []
    started = time.perf_counter()
    while len(rounds) < TIMES or time.perf_counter() < started + SECONDS:
        rounds.append([choice for choice in adapter.explain(tokens, measure=True).choices if choice.otherwise])
    narrow, formed, auto = (
        [math.fsum(_seconds(choice, route) for choice in choices) for choices in rounds]
        for route in ("activation", "formed", None)
    )
    routes = {choice.route for choice in rounds[0]}
    faster = min(narrow, formed, key=statistics.median)
    slower = Interval.of([own - other for own, other in zip(auto, faster, strict=True)])
    assert slower.half is not None
    medians = [statistics.median(times) for times in (narrow, formed, auto)]
    chosen = routes.pop() if len(routes) == 1 else "both"
    return Case(label, tokens, str(format), medians[0], medians[1], medians[2], chosen, slower.mean, slower.half)


def _seconds(choice: Choice, route: str | None) -> float:
    """Return the time that all layers of a kind take on a route; None: the chosen one."""
    assert choice.otherwise is not None
    found = choice.measured if route in (None, choice.route) else choice.otherwise.measured
    assert found is not None
    return found * len(choice.parameters)


def table(found: list[Case]) -> Table:
    """Return the table of all cases.

    Args:
        found: The measured cases.
    """
    rows = []
    for case in found:
        fastest = min(case.narrow, case.formed)
        times = (f"{1e3 * seconds:.1f} ms" for seconds in (case.narrow, case.formed, case.auto))
        extra = "" if case.right else f"{case.slower / fastest:.0%} +- {case.half / fastest:.0%}"
        rows.append((case.model, f"{case.tokens:,}", case.format, *times, case.chosen, extra))
    return Table(("model", "tokens", "format", "narrow", "formed", "auto", "auto chose", "slower by"), tuple(rows))


def read() -> list[Case]:
    """Return the committed cases."""
    return [Case(**case) for case in json.loads(RUNS.read_text())]


def section(found: list[Case]) -> str:
    """Return the section of the page of benchmarks.

    Args:
        found: The measured cases.
    """
    right, ties = (sum(getattr(case, what) for case in found) for what in ("right", "tie"))
    lost = math.fsum(case.auto for case in found) / math.fsum(min(case.narrow, case.formed) for case in found)
    return (
        f"`auto` took the faster one in {right} of {len(found)} cases ({right / len(found):.0%}). Of the others, in"
        f" {ties} the 95 % interval of the difference has zero in it. Over all cases the time of `auto` is"
        f" {lost:.2f} times that of the faster single choice of each.\n\n{table(found)}"
    )


def main() -> None:
    """Measure, or print the table of what was measured."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.modes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", action="store_true", help="measure nothing")
    if not parser.parse_args().table:
        found = []
        for case in cases():
            found.append(measured(*case))
            print(found[-1], flush=True)
        lines = ",\n".join(json.dumps(case._asdict()) for case in found)
        RUNS.write_text(f"[\n{lines}\n]\n")
    print(section(read()))


if __name__ == "__main__":
    main()
