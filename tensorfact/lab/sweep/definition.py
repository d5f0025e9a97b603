"""What a sweep is: methods on tasks, and how their options are chosen. Plain data, JSON both ways."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from ...errors import SweepError
from .spec import RunSpec, Settings, Stage, build, parse_json

RELEASED = "selected on the test split, as in the released code"
"""What every number says that was not chosen on a validation split."""


@dataclasses.dataclass(frozen=True)
class SweepRow:
    """A row of the table: a method whose options, if there are several, are chosen for every task.

    Args:
        label: The row's name.
        methods: What to choose among, such as one method at several ranks.
        scales: Scales to choose among; None for the method's own.
        by_task: Methods for some tasks, in place of `methods`.
        parameters: The published number of trained parameters; None if there is none.
        accuracy: The published accuracy, 0 to 1.
    """

    label: str
    methods: tuple[str, ...]
    scales: tuple[float | None, ...] = (None,)
    by_task: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    parameters: int | None = None
    accuracy: float | None = None

    def methods_on(self, task: str) -> tuple[str, ...]:
        """Return what there is to choose among on a task."""
        return self.by_task.get(task, self.methods)

    def candidates(self, task: str) -> tuple[tuple[str, float | None], ...]:
        """Return every method with every scale.

        Raises:
            SweepError: There is none for the task.
        """
        if not self.methods_on(task):
            raise SweepError(
                f"the row {self.label!r} has no method for the task {task!r}",
                cause="its options are published for other tasks alone",
                fix="leave the row out, or write one of your own: vpt-deep:length=10",
            )
        return tuple((method, scale) for method in self.methods_on(task) for scale in self.scales)


@dataclasses.dataclass(frozen=True)
class SweepPart:
    """Rows that one model's table holds.

    Args:
        name: A short name.
        title: What it is.
        model: The model.
        tasks: The tasks.
        rows: The methods.
        pretrained: Load pretrained weights.
        checkpoint: A safetensors file with the model's weights.
        seeds: One final run each; none for the sweep's.
    """

    name: str
    title: str
    model: str
    tasks: tuple[str, ...]
    rows: tuple[SweepRow, ...]
    pretrained: bool = False
    checkpoint: str | None = None
    seeds: tuple[int, ...] = ()

    def seeds_of(self, sweep: Sweep) -> tuple[int, ...]:
        """Return the seeds of the final runs."""
        return self.seeds or sweep.seeds


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Everything that is to be run.

    Options are chosen by the validation split, with the first seed; the chosen ones are trained on the training and
    validation split together, with every seed, and the test split is read once. Where `released`, as in the released
    code of FacT: nothing is held out, the epoch and the options are chosen on the test split, and that best is what
    is reported.

    Args:
        name: What it is called.
        parts: The tables.
        seeds: One final run each.
        settings: The training's numbers.
        released: Choose on the test split.
    """

    name: str
    parts: tuple[SweepPart, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    settings: Settings = dataclasses.field(default_factory=Settings)
    released: bool = False

    def __post_init__(self) -> None:
        lists: dict[str, list[Any]] = {"seeds": list(self.seeds), "parts": [part.name for part in self.parts]}
        for part in self.parts:
            lists[f"rows of {part.name}"] = [row.label for row in part.rows]
            lists[f"tasks of {part.name}"] = list(part.tasks)
        for name, found in lists.items():
            if not found or len(set(found)) < len(found):
                raise SweepError(
                    f"the {name}", expected="at least one, and none twice", got=repr(found), fix="leave the second out"
                )

    @property
    def protocol(self) -> str:
        """How options are chosen and what is reported, in words."""
        seeds = f"seed {self.seeds[0]}" if len(self.seeds) == 1 else f"seeds {', '.join(map(str, self.seeds))}"
        if self.released:
            return (
                f"Everything is {RELEASED}: nothing is held out, the epoch and the options are chosen by the accuracy "
                f"on the test split, and that best accuracy is what is reported, for {seeds}. Such "
                "numbers are optimistic."
            )
        return (
            f"Options are chosen on the validation split, with seed {self.seeds[0]}. The chosen ones are trained on "
            f"the training and validation splits together, with {seeds}, and the test split is read once, at the end."
        )

    def spec(self, part: SweepPart, task: str, method: str, scale: float | None, seed: int, stage: Stage) -> RunSpec:
        """Return the spec of one run of this sweep."""
        where = (part.pretrained, part.checkpoint)
        return RunSpec(part.model, task, method, scale, seed, stage, self.settings, *where)

    def to_json(self) -> str:
        """Return the sweep as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Sweep:
        """Read what `to_json` returned.

        Raises:
            SweepError: It is no JSON, or a field is missing or unknown.
        """
        return build(cls, parse_json(text, "a sweep"), parts=_parts, seeds=tuple, settings=_settings)


def _settings(data: Any) -> Any:
    return build(Settings, data)


def _parts(data: Any) -> tuple[SweepPart, ...]:
    return tuple(build(SweepPart, part, tasks=tuple, rows=_rows, seeds=tuple) for part in data)


def _rows(data: Any) -> tuple[SweepRow, ...]:
    return tuple(build(SweepRow, row, methods=tuple, scales=tuple, by_task=_by_task) for row in data)


def _by_task(data: Any) -> dict[str, tuple[str, ...]]:
    return {task: tuple(methods) for task, methods in data.items()}
