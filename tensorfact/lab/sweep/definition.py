"""Definition of a sweep as plain data: methods, tasks and how options are chosen; reads and writes JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence

from ...common.checks import whole_number
from ...errors import SweepError
from .spec import GivenScale, RunSpec, Settings, Stage, fraction
from .stored import build, parse_json

RELEASED = "selected on the test split, as in the released code"
"""Caption of all numbers of a sweep whose options are chosen on the test split."""


@dataclasses.dataclass(frozen=True)
class SweepRow:
    """A row of the table: candidate methods and scales, among which one is chosen for every task.

    Args:
        label: Name of the row.
        methods: Candidate methods, such as one method at several ranks.
        scales: Candidate scales: numbers, or "auto"; None: the default of the method.
        rates: Candidate learning rates; empty: that of the settings.
        by_task: Candidate methods of some tasks, in place of `methods`.
        parameters: Published number of trained parameters; None if unpublished.
        accuracy: Published accuracy, 0 to 1; None if unpublished.
    """

    label: str
    methods: tuple[str, ...]
    scales: tuple[GivenScale, ...] = (None,)
    by_task: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    parameters: int | None = None
    accuracy: float | None = None
    rates: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.rates, tuple) or len(set(self.rates)) < len(self.rates):
            raise SweepError(
                f"rates of {self.label!r}",
                expected="a tuple of different numbers",
                got=repr(self.rates),
                fix="rates=(1e-3,)",
            )
        if self.parameters is not None:
            whole_number(self.parameters, "parameters", SweepError, least=0)
        if self.accuracy is not None:
            fraction(self.accuracy, "accuracy")

    def methods_on(self, task: str) -> tuple[str, ...]:
        """Return the candidate methods on a task."""
        return self.by_task.get(task, self.methods)

    def candidates(self, task: str) -> tuple[tuple[str, GivenScale], ...]:
        """Return every candidate method with every candidate scale.

        Raises:
            SweepError: The row has no method for the task.
        """
        if not self.methods_on(task):
            raise SweepError(
                f"the row {self.label!r} has no method for the task {task!r}",
                cause="the options of this row are published for the tasks of VTAB-1K only",
                fix="leave the row out, or pass --method vpt-deep:length=10",
            )
        return tuple((method, scale) for method in self.methods_on(task) for scale in self.scales)


@dataclasses.dataclass(frozen=True)
class SweepPart:
    """One table of a sweep: rows and tasks on one model.

    Args:
        name: Short name, for the command line.
        title: Caption of the table.
        model: Name of the model, as in `RunSpec`.
        tasks: Names of the tasks, the columns of the table.
        rows: Rows of the table.
        pretrained: Load pretrained weights.
        checkpoint: A safetensors file with the weights of the model.
        seeds: Seeds of the final runs; empty: those of the sweep.
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
    """A sweep: methods that train on tasks, and the protocol by which their options are chosen.

    Options are chosen by the accuracy on the validation split, with the first seed. The chosen options are trained on
    the training and validation splits together, with every seed, and the test split is evaluated once. With
    `released=True`, as in the released code of FacT, no data is held out: the epoch and the options are chosen on the
    test split, and this best accuracy is reported.

    Args:
        name: Name of the sweep.
        parts: Tables of the sweep.
        seeds: Seeds of the final runs.
        settings: Hyperparameters of all runs.
        released: Choose on the test split.
    """

    name: str
    parts: tuple[SweepPart, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    settings: Settings = dataclasses.field(default_factory=Settings)
    released: bool = False

    def __post_init__(self) -> None:
        _check_distinct("seeds", self.seeds)
        _check_distinct("parts", [part.name for part in self.parts])
        for part in self.parts:
            _check_distinct(f"rows of {part.name}", [row.label for row in part.rows])
            _check_distinct(f"tasks of {part.name}", part.tasks)

    @property
    def protocol(self) -> str:
        """Description of how options are chosen and which accuracy is reported, for the captions of a report."""
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

    def spec(
        self,
        part: SweepPart,
        task: str,
        method: str,
        scale: GivenScale,
        seed: int,
        stage: Stage,
        lr: float | None = None,
    ) -> RunSpec:
        """Return the spec of one run, with the settings of this sweep; `lr` replaces their learning rate."""
        settings = self.settings if lr is None else dataclasses.replace(self.settings, lr=lr)
        where = (part.pretrained, part.checkpoint)
        return RunSpec(part.model, task, method, scale, seed, stage, settings, *where)

    def to_json(self) -> str:
        """Return the sweep as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Sweep:
        """Read what `to_json` returned.

        Raises:
            SweepError: Invalid JSON, or a field is missing, unknown or of another type.
        """
        return build(cls, parse_json(text, "a sweep"))


def _check_distinct(name: str, values: Sequence[object]) -> None:
    if not values:
        raise SweepError(f"the sweep has no {name}", fix="pass at least one")
    if len(set(values)) < len(values):
        raise SweepError(f"duplicate {name}", expected="each once", got=repr(list(values)), fix="pass each once")
