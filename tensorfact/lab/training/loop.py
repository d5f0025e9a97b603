"""The loop over epochs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn

from ...common.checks import AnyPath
from ...common.progress import Progress, silent
from ...errors import TrainingError
from .accelerated import engine_for
from .engine import TrainingEngine
from .gradient_checkpointing import checkpointed
from .history import Epoch, History
from .run import TrainingRun
from .schedule import Loss, Samples, Schedule, check_number, size_of

if TYPE_CHECKING:
    from accelerate import Accelerator


def fit(
    model: nn.Module,
    train: Samples,
    val: Samples | None,
    *,
    epochs: int = 100,
    batch_size: int = 64,
    lr: float = 1e-3,
    weight_decay: float = 1e-4,
    warmup_epochs: float | None = None,
    lr_factors: Mapping[str, float] | None = None,
    loss: Loss = nn.functional.cross_entropy,
    seed: int = 0,
    checkpoint: AnyPath | None = None,
    progress: Progress = silent,
    accelerator: Accelerator | None = None,
    accumulation: int = 1,
    workers: int = 0,
    drop_last: bool = False,
    validate_every: int = 1,
    gradient_checkpointing: bool = False,
    on_epoch: Callable[[int, Epoch], object] | None = None,
) -> History:
    """Train the parameters that require gradients, and keep the best of them by validation accuracy.

    AdamW, linear warm-up and a cosine to zero, by step. Normalisation layers with running statistics stay in
    evaluation mode where their parameters are frozen, so that a frozen base model does not drift. Everything that torch
    draws comes from `seed` and the epoch's index; the caller's random state is left as it was.

    A run has one meaning, on whatever it runs: `batch_size` samples make a step, the same ones in the same order, and
    processes and parts of a batch weigh as many samples as they have. Results differ by rounding, and, where several
    processes or parts compute a batch, by the masks of dropout and the statistics of batch normalisations that train.

    Args:
        model: Maps inputs (batch, ...) to logits (batch, class). Trained in place, on the device it is on, or on the
            accelerator's.
        train: Samples (input, class index).
        val: Samples that choose the best epoch; never trained on. None: the last epoch's parameters stay.
        epochs: Passes over `train`.
        batch_size: Batch size: samples per step, over all processes and micro-batches.
        lr: Peak learning rate.
        weight_decay: AdamW's weight decay.
        warmup_epochs: Passes of linear warm-up; a tenth of `epochs` by default.
        lr_factors: Multiples of `lr` for some of the adapter's factors, or its head; see `Adapter.parameter_groups`.
        loss: Maps (logits, class indices) to a scalar, the mean over the samples; weights of classes, or indices that
            are ignored, make it another mean, which depends on the parts of a batch.
        seed: Seed of the order of samples, and of dropout.
        checkpoint: A file written after each epoch. If it exists, training resumes from it and ends with the same
            numbers as if it had never stopped.
        progress: Called after each epoch, in the main process.
        accelerator: An `accelerate.Accelerator`: its device, precision, trackers and processes, by DDP or FSDP2. Every
            process calls `fit` with the same arguments, and holds the trained model afterwards.
        accumulation: In how many parts every process computes a batch, one after the other.
        workers: Processes that read samples; 0 reads in this one.
        drop_last: Leave out the incomplete last batch of an epoch.
        validate_every: Epochs between validations; the last epoch is always validated.
        gradient_checkpointing: Compute activations again in the backward pass: less memory, more time. The model does
            it, by timm's `set_grad_checkpointing` or transformers' `activation_checkpointing_enable`.
        on_epoch: Called with the index and the measures of each epoch, in the main process. What it raises ends the
            run.

    Returns:
        The losses and accuracies of every epoch; the model holds the best epoch's parameters.

    Raises:
        TrainingError: Nothing requires gradients, a number is out of range, the loss is no longer finite, or the model
            or the accelerator cannot do what was asked.
        CheckpointError: `checkpoint` is damaged, or belongs to another run.

    Examples:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> from tensorfact import fit
        >>> x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
        >>> data = TensorDataset(x, (x[:, 0] > 0).long())
        >>> history = fit(torch.nn.Linear(4, 2), data, data, epochs=20, batch_size=8, lr=0.1)
        >>> history.val_accuracy > 0.9
        True
    """
    warmup = warmup_epochs
    if warmup is None:
        warmup = epochs / 10 if isinstance(epochs, int) else 0  # what is no int, the schedule refuses
    factors = {} if lr_factors is None else lr_factors
    schedule = Schedule(
        epochs, batch_size, lr, weight_decay, warmup, seed, factors, validate_every=validate_every, drop_last=drop_last
    )
    check_number("accumulation", accumulation, 1)
    check_number("workers", workers, 0)
    engine = engine_for(model, accelerator)
    run = TrainingRun(engine, schedule, loss, accumulation, workers)
    _check_splits(train, val, batch_size if drop_last else 1)
    with (
        _restored(model),
        checkpointed(engine.module) if gradient_checkpointing else contextlib.nullcontext(),
        _ready(run),
    ):
        if checkpoint is not None:
            run.resume(checkpoint, run.identity(train, val))
        cuda = {p.device for p in engine.module.parameters()} | {engine.device}
        devices = sorted((device for device in cuda if device.type == "cuda"), key=str)
        while (index := len(run.history.epochs)) < epochs:
            with torch.random.fork_rng(devices=devices):
                epoch = run.epoch(train, val)
            if checkpoint is not None:
                run.save(checkpoint, run.identity(train, val))
            _report(engine, index, epoch, epochs, progress, on_epoch)
        if run.best:
            run.restore(run.best)
        engine.finish(run.state())
    return run.history


def _check_splits(train: Samples, val: Samples | None, least: int) -> None:
    for name, split in (("train", train), ("val", val)):
        if split is not None and size_of(split) == 0:
            raise TrainingError(f"fit: the {name} split is empty", fix="pass at least one sample")
    if size_of(train) < least:
        raise TrainingError(
            "fit: drop_last=True leaves no batch",
            expected=f"at least {least} samples, one batch",
            got=str(size_of(train)),
            fix="a smaller batch_size, or drop_last=False",
        )


@contextlib.contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Give every module its mode back."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextlib.contextmanager
def _ready(run: TrainingRun) -> Iterator[None]:
    """Get a run's model and optimizer ready, and unwrap the model at the end."""
    try:
        run.engine.prepare(run.optimizer)
        yield
    finally:
        run.engine.close()


def _report(
    engine: TrainingEngine,
    index: int,
    epoch: Epoch,
    epochs: int,
    progress: Progress,
    on_epoch: Callable[[int, Epoch], object] | None,
) -> None:
    """Tell trackers and the caller about an epoch, in the main process; what is raised there ends all processes."""
    engine.log({name: value for name, value in vars(epoch).items() if value is not None}, index)
    error: BaseException | None = None
    if engine.main:
        try:
            progress("training", index + 1, epochs)
            if on_epoch is not None:
                on_epoch(index, epoch)
        except BaseException as raised:
            error = raised
    stopped = engine.total(torch.tensor(int(error is not None)))
    if error is not None:
        raise error
    if stopped:
        raise TrainingError(
            "fit: the main process ended the run",
            cause="progress or on_epoch raised there",
            fix="see the main process's error",
        )
