"""Search the options of a sweep with Optuna instead of a full grid."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from ...common.checks import whole_number
from ...common.progress import Progress
from ...errors import SweepError
from ...storage.writing import make_folder
from ..training import Epoch
from .cells import Candidates, grid
from .definition import Sweep, SweepPart, SweepRow
from .execute import Runner
from .spec import RunSpec
from .store import Store

if TYPE_CHECKING:
    import optuna

JOURNAL = "optuna.journal"
UNPRUNED = 3
"""Number of trials of a search that complete before pruning starts."""


def searched(sweep: Sweep, runner: Runner, trials: int, progress: Progress) -> Candidates:
    """Search the options of every row on every task; rows with one candidate are not searched.

    The scale is sampled log-uniformly between the smallest and the largest of the row. Trials are kept in a journal in
    the folder of runs. A trial depends only on the trials before it, so that a resumed search proposes the same trials
    as an uninterrupted one.

    Args:
        sweep: Definition of the sweep.
        runner: Executes the runs.
        trials: Number of trials per row and task.
        progress: Called after every trial.

    Returns:
        Function that returns the completed trials as candidate runs.

    Raises:
        SweepError: Optuna is not installed, or `trials` is less than 1.

    Source: T. Akiba et al., Optuna: A Next-generation Hyperparameter Optimization Framework, KDD 2019.
    """
    trials = whole_number(trials, "searched: trials", SweepError, example=20)
    try:
        import optuna
    except ImportError as error:
        raise SweepError("--trials needs Optuna", fix='pip install "tensorfact[optuna]"') from error
    make_folder(runner.folder)
    choices, found = grid(sweep), {}
    with _quiet(optuna.logging):
        for part in sweep.parts:
            for row in part.rows:
                for task in part.tasks:
                    among: Sequence[RunSpec] = choices(part, row, task)
                    if len(among) > 1:
                        among = _Search(runner, among, f"{part.name}, {row.label}, {task}").tried(trials, progress)
                    found[part.name, row.label, task] = among

    def candidates(part: SweepPart, row: SweepRow, task: str) -> Sequence[RunSpec]:
        return found[part.name, row.label, task]

    return candidates


class _Search:
    """The trials of one row on one task."""

    def __init__(self, runner: Runner, among: Sequence[RunSpec], name: str) -> None:
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        self.runner, self.first, self.name = runner, among[0], name
        self.methods = list(dict.fromkeys(spec.method for spec in among))
        self.scales = sorted(
            {spec.scale for spec in among if isinstance(spec.scale, float)}
        )  # RunSpec checks that they are above 0
        self.rates = list(dict.fromkeys(spec.settings.lr for spec in among))
        self.storage = JournalStorage(JournalFileBackend(str(runner.folder / JOURNAL)))

    def tried(self, trials: int, progress: Progress) -> list[RunSpec]:
        """Run trials until the journal holds this many, and return the specs of the completed ones."""
        import optuna
        from optuna.trial import TrialState

        settings = dataclasses.asdict(self.first) | {"method": self.methods, "scale": self.scales}
        settings |= {"rates": self.rates} if len(self.rates) > 1 else {}
        study = optuna.create_study(
            storage=self.storage,
            study_name=f"{self.name}: {settings}",  # each combination of settings has its own study
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED),
            load_if_exists=True,
        )
        for left in study.get_trials(states=(TrialState.RUNNING,)):  # left by a killed process
            study.tell(left.number, state=TrialState.FAIL)
        while True:
            done = study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))
            progress(self.name, len(done), trials)
            if len(done) >= trials:
                break
            study.sampler = optuna.samplers.TPESampler(seed=len(done))
            self._try(study, study.ask())
        ended = [trial for trial in done if trial.state == TrialState.COMPLETE]
        return list(dict.fromkeys(RunSpec.from_json(trial.user_attrs["spec"]) for trial in ended))

    def _try(self, study: optuna.Study, trial: optuna.Trial) -> None:
        """Run one trial until it completes or is pruned."""
        import optuna
        from optuna.trial import TrialState

        spec = self._proposed(trial)
        trial.set_user_attr("spec", spec.to_json())

        def on_epoch(number: int, epoch: Epoch) -> None:
            if epoch.val_accuracy is not None:
                trial.report(epoch.val_accuracy, number)
                if trial.should_prune():
                    raise optuna.TrialPruned

        try:
            outcome = self.runner.run(spec, on_epoch=on_epoch).outcome
        except optuna.TrialPruned:
            Store(self.runner.folder).forget(spec)
            study.tell(trial, state=TrialState.PRUNED)
            return
        study.tell(trial, outcome.val_accuracy or 0.0)

    def _proposed(self, trial: optuna.Trial) -> RunSpec:
        method = trial.suggest_categorical("method", self.methods)
        scale = self.first.scale
        if len(self.scales) > 1:
            drawn = trial.suggest_float("scale", self.scales[0], self.scales[-1], log=True)
            scale = float(f"{drawn:.2g}")  # two digits are precise enough
        settings = self.first.settings
        if len(self.rates) > 1:
            settings = dataclasses.replace(settings, lr=trial.suggest_categorical("lr", self.rates))
        return dataclasses.replace(self.first, method=method, scale=scale, settings=settings)


@contextlib.contextmanager
def _quiet(logging: ModuleType) -> Iterator[None]:
    """Silence the log of Optuna below warnings inside the context."""
    level = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)
    try:
        yield
    finally:
        logging.set_verbosity(level)
