"""Choose options by Optuna instead of by trying everything: its sampler proposes, its pruner stops what lags behind."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from ...common.checks import whole_number
from ...common.progress import Progress
from ...errors import SweepError
from ...storage.files import make_folder
from ..training import Epoch
from .cells import Candidates, grid
from .definition import Sweep, SweepPart, SweepRow
from .execute import Runner
from .spec import RunSpec
from .store import Store

JOURNAL = "optuna.journal"
UNPRUNED = 3
"""How many trials of a search run to their end before one can be pruned."""


def searched(sweep: Sweep, runner: Runner, trials: int, progress: Progress) -> Candidates:
    """Search every row's options on every task; a row with one candidate has nothing to search.

    The scale is drawn on a log axis between the smallest and the largest of the row. Trials are kept in a journal in
    the folder of runs: a search that was killed goes on, and proposes what it would have proposed, for a proposal
    depends on the trials before it alone.

    Args:
        sweep: The sweep.
        runner: Does the runs.
        trials: How many proposals to try for a row and a task.
        progress: Called after every trial.

    Returns:
        The runs that were not pruned, to choose among.

    Raises:
        SweepError: Optuna is not installed, or there is to be no trial.

    Source: T. Akiba et al., Optuna: A Next-generation Hyperparameter Optimization Framework, KDD 2019.
    """
    trials = whole_number(trials, "searched: trials", SweepError, example=20)
    try:
        import optuna
    except ImportError as error:
        raise SweepError("a search needs Optuna", fix="pip install 'tensorfact[optuna]'") from error
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
        self.scales = sorted({spec.scale for spec in among if spec.scale is not None})  # above 0, or they were no specs
        self.storage = JournalStorage(JournalFileBackend(str(runner.folder / JOURNAL)))

    def tried(self, trials: int, progress: Progress) -> list[RunSpec]:
        """Try so many proposals, those in the journal included, and return the runs that reached their end."""
        import optuna
        from optuna.trial import TrialState

        settings = dataclasses.asdict(self.first) | {"method": self.methods, "scale": self.scales}
        study = optuna.create_study(
            storage=self.storage,
            study_name=f"{self.name}: {settings}",  # other settings are another study
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED),
            load_if_exists=True,
        )
        for left in study.get_trials(states=(TrialState.RUNNING,)):  # by a process that was killed
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

    def _try(self, study: Any, trial: Any) -> None:
        """Run one proposal to its end, or until the pruner stops it."""
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

    def _proposed(self, trial: Any) -> RunSpec:
        method = trial.suggest_categorical("method", self.methods)
        scale = self.first.scale
        if len(self.scales) > 1:
            drawn = trial.suggest_float("scale", self.scales[0], self.scales[-1], log=True)
            scale = float(f"{drawn:.2g}")  # two digits are what a scale is worth
        return dataclasses.replace(self.first, method=method, scale=scale)


@contextlib.contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    """Keep Optuna's remarks to itself while the context lasts."""
    level = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)
    try:
        yield
    finally:
        logging.set_verbosity(level)
