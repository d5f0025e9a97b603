"""Execute one run described by a RunSpec and return its outcome."""

from __future__ import annotations

import contextlib
import dataclasses
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from ...common.progress import Progress, silent
from ...errors import DivergedError
from ...network.cost import seconds_of
from ..baselines import Trained
from ..data import Splits, open_task
from ..measure import TrainingStep, peak_bytes
from ..methods import method_of, search_of
from ..models import load_model, seeded, with_head
from ..training import Epoch, History, accelerator_for, evaluate, fit
from .results import Measured, Outcome, Run
from .spec import RunSpec
from .store import Store

OnEpoch = Callable[[int, Epoch], object]
TIMED_STEPS = 3


@dataclasses.dataclass(frozen=True)
class Runner:
    """Does runs, each in its folder. A run that is done already is left as it is.

    Args:
        folder: The folder of runs.
        root: Where the data is.
        device: What to train on.
        workers: Processes that load data.
        keep: Leave what was trained beside the result, as `trained.safetensors`.
        tracker: A tracker that accelerate knows; it writes into the runs' folders.
    """

    folder: Path
    root: Path | None = None
    device: str = "cpu"
    workers: int = 0
    keep: bool = False
    tracker: str | None = None

    def __call__(self, spec: RunSpec) -> None:
        """Do a run, as an engine does it."""
        self.run(spec)

    def run(self, spec: RunSpec, *, on_epoch: OnEpoch | None = None, progress: Progress = silent) -> Run:
        """Execute a run, or resume one that was interrupted. All processes of a launcher call it.

        Args:
            spec: What to run.
            on_epoch: Called after every epoch; what it raises ends the run, which is then not done.
            progress: Called after every epoch.

        Raises:
            TensorfactError: The spec names what there is not, or the folder cannot be written.
        """
        store = Store(self.folder)
        done = store.read(spec)
        if done is not None:
            return done
        folder = store.begin(spec)
        precision = spec.settings.precision
        accelerator = accelerator_for(self.device, precision=precision, tracker=self.tracker, folder=folder)
        with _threads(spec.settings.threads):
            run = self._run(spec, folder, accelerator, on_epoch, progress)
        if accelerator is None or accelerator.is_main_process:
            store.finish(run)
        if accelerator is not None:
            accelerator.end_training()
        return run

    def _run(self, spec: RunSpec, folder: Path, accelerator: Any, on_epoch: OnEpoch | None, progress: Progress) -> Run:
        settings = spec.settings
        model, splits = open_run(spec, self.root)
        model.to(self.device if accelerator is None else accelerator.device)
        text = spec.method
        search = search_of(spec.method)
        if search is not None:
            chosen = {name: getattr(settings, name) for name in ("epochs", "batch_size", "lr", "weight_decay")}
            text = search(model, splits, seed=spec.seed, progress=progress, **chosen)
        trained = method_of(text, scale=spec.scale, dropout=settings.dropout).attach(model, spec.seed)
        train, val, test = parts_of(spec, splits)
        try:
            history = fit(
                model,
                train,
                val,
                epochs=settings.epochs,
                batch_size=settings.batch_size,
                lr=settings.lr,
                weight_decay=settings.weight_decay,
                warmup_epochs=settings.warmup_epochs,
                drop_last=settings.drop_last,
                validate_every=settings.validate_every,
                seed=spec.seed,
                workers=self.workers,
                checkpoint=folder / "training.safetensors",
                accelerator=accelerator,
                on_epoch=on_epoch,
                progress=progress,
            )
        except DivergedError as error:
            failed = Outcome(trained.num_parameters, 0, None, None, 0, (), splits.sizes, text, str(error))
            return Run(spec, failed, Measured(0.0, None, None, _machine(model)))
        accuracy = None if test is None else evaluate(model, test)[0]
        outcome = Outcome(
            trained.num_parameters,
            self._size(trained, folder) if accelerator is None or accelerator.is_main_process else 0,
            history.val_accuracy,
            accuracy,
            history.best_epoch,
            tuple(_curve(history)),
            splits.sizes,
            text,
        )
        step, peak = (None, None) if test is None else _cost(model, train, settings.batch_size)
        return Run(spec, outcome, Measured(sum(e.seconds for e in history.epochs), step, peak, _machine(model)))

    def _size(self, trained: Trained, folder: Path) -> int:
        path = folder / "trained.safetensors"
        trained.save(path)
        size = path.stat().st_size
        if not self.keep:
            path.unlink()
        return size


def open_run(spec: RunSpec, root: Path | None) -> tuple[nn.Module, Splits]:
    """Return a run's model, with a new head, and its data.

    Args:
        spec: The run.
        root: Where the data is.

    Raises:
        DataError: There is no such model or task.
    """
    options = {"drop_path_rate": spec.settings.drop_path} if spec.settings.drop_path else {}
    with seeded(0):  # weights that are loaded from nowhere are the same in every run
        model = load_model(spec.model, pretrained=spec.pretrained, checkpoint=spec.checkpoint, **options)
    statistics = spec.settings.imagenet_statistics
    splits = open_task(spec.task, model, root=root, imagenet_statistics=statistics, check=False)
    return with_head(model, splits.classes, spec.seed), splits


def parts_of(spec: RunSpec, splits: Splits) -> tuple[Any, Any, Any]:
    """Return what a run trains on, what it chooses its epoch by, and what it reports on; None for nothing."""
    parts = {
        "select": (splits.train, splits.val, None),
        "final": (splits.final, None, splits.test),
        "released": (splits.final, splits.test, splits.test),
    }
    return parts[spec.stage]


def _curve(history: History) -> Iterator[dict[str, float | None]]:
    for epoch in history.epochs:
        yield {name: getattr(epoch, name) for name in ("train_loss", "val_loss", "val_accuracy")}


def _cost(model: nn.Module, train: Any, batch_size: int) -> tuple[float, int]:
    """Return the time of a training step, and the memory it takes at most."""
    device = next(model.parameters()).device
    x, y = next(iter(DataLoader(train, batch_size)))
    step = TrainingStep(model, x.to(device), y.to(device))
    peak = peak_bytes(step)
    return min(seconds_of(step, device) for _ in range(TIMED_STEPS)), peak


def _machine(model: nn.Module) -> str:
    device = next(model.parameters()).device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} {device}"


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """Compute with so many threads while the context lasts."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
