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
from ..data.sealed import Sealed
from ..measure import TrainingStep, peak_bytes
from ..methods import method_of, search_of
from ..models import load_model, with_head
from ..training import Epoch, History, Samples, accelerator_for, evaluate, fit
from .results import Measured, Outcome, Run
from .spec import RunSpec
from .store import Store

OnEpoch = Callable[[int, Epoch], object]
TIMED_STEPS = 3


@dataclasses.dataclass(frozen=True)
class Runner:
    """Executes runs, each in a folder of its own. A finished run is read back and not executed again.

    Args:
        folder: Folder of runs.
        root: Folder with the data of the benchmarks.
        device: Device to train on.
        workers: Number of data-loading processes.
        keep: Keep the trained parameters as `trained.safetensors` in the folder of the run.
        tracker: Name of a tracker of accelerate, such as `tensorboard`; it writes into the folder of the run.
    """

    folder: Path
    root: Path | None = None
    device: str = "cpu"
    workers: int = 0
    keep: bool = False
    tracker: str | None = None

    def __call__(self, spec: RunSpec) -> None:
        """Execute a run; an engine calls the runner as its job."""
        self.run(spec)

    def run(self, spec: RunSpec, *, on_epoch: OnEpoch | None = None, progress: Progress = silent) -> Run:
        """Execute a run, or resume an interrupted one. Under a launcher, every process must call it.

        Args:
            spec: Model, task, method and settings of the run.
            on_epoch: Called after every epoch. If it raises, the run ends unfinished.
            progress: Called after every epoch.

        Returns:
            The finished run.

        Raises:
            TensorfactError: Unknown model, task or method, or the folder cannot be written.
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
        sealed = Sealed(splits.test)
        if spec.stage != "released":
            splits = dataclasses.replace(splits, test=sealed)
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
                ties="first",
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
        sealed.open()
        accuracy = None if test is None else evaluate(model, test).accuracy
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
    """Return the model of a run, with a new head, and its data.

    Args:
        spec: Spec of the run.
        root: Folder with the data of the benchmarks.

    Raises:
        DataError: Unknown model or task, or missing data.
    """
    options = {"drop_path_rate": spec.settings.drop_path} if spec.settings.drop_path else {}
    # random weights are the same in every run
    model = load_model(spec.model, pretrained=spec.pretrained, checkpoint=spec.checkpoint, seed=0, **options)
    statistics = spec.settings.imagenet_statistics
    splits = open_task(spec.task, model, root=root, imagenet_statistics=statistics, check=False)
    return with_head(model, splits.classes, spec.seed), splits


def parts_of(spec: RunSpec, splits: Splits) -> tuple[Samples, Samples | None, Samples | None]:
    """Return the samples of a run for training, for choosing the epoch, and for the test; None if there are none.

    Raises:
        DataError: The stage of the run needs test samples, and there are none.
    """
    if spec.stage != "select":
        splits.require_test(f"a run of the stage {spec.stage!r}")
    parts: dict[str, tuple[Samples, Samples | None, Samples | None]] = {
        "select": (splits.train, splits.val, None),
        "final": (splits.final, None, splits.test),
        "released": (splits.final, splits.test, splits.test),
    }
    return parts[spec.stage]


def _curve(history: History) -> Iterator[dict[str, float | None]]:
    for epoch in history.epochs:
        yield {name: getattr(epoch, name) for name in ("train_loss", "val_loss", "val_accuracy")}


def _cost(model: nn.Module, train: Samples, batch_size: int) -> tuple[float, int]:
    """Measure the time and the peak memory of a training step."""
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
    """Set the number of threads of torch inside the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
