"""The training loop: `fit`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from types import EllipsisType
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.utils.data import DataLoader

from ...common.checks import AnyPath, callback, file_path, flag
from ...common.progress import Progress, silent
from ...errors import TrainingError
from .accelerated import engine_for
from .bar import progress_bar
from .batches import BatchOrigin
from .engine import TrainingEngine
from .gradient_checkpointing import checkpointed
from .history import Epoch, History, Ties
from .labels import check_scored
from .predictions import check_loss, labels_of
from .run import TrainingRun
from .schedule import Loss, OptimizerName, Schedule, count, size_of, worker_count
from .sources import FIRST, Data, check_data, check_loaders, check_values, first_batch
from .tasks import TaskData, all_samples, training_samples, with_tasks_of_samples

if TYPE_CHECKING:
    from accelerate import Accelerator


def fit(
    model: nn.Module,
    train: Data | TaskData,
    val: Data | TaskData | EllipsisType | None = ...,
    *,
    epochs: int = 100,
    batch_size: int | None = None,
    lr: float = 1e-3,
    weight_decay: float = 1e-4,
    warmup_epochs: float | None = None,
    lr_factors: Mapping[str, float] | None = None,
    loss: Loss = nn.functional.cross_entropy,
    seed: int = 0,
    checkpoint: AnyPath | None = None,
    progress: Progress | bool = silent,
    accelerator: Accelerator | None = None,
    accumulation: int = 1,
    workers: int = 0,
    drop_last: bool = False,
    validate_every: int = 1,
    gradient_checkpointing: bool = False,
    ties: Ties = "loss",
    optimizer: OptimizerName = "adamw",
    budget: int | None = None,
    on_epoch: Callable[[int, Epoch], object] | None = None,
) -> History:
    """Train the parameters that require gradients, and keep those of the epoch with the best validation accuracy.

    The optimizer is AdamW, or one that preconditions the steps on the factors. The learning rate has a linear warm-up
    and a cosine decay to zero, updated every step.
    Normalisation layers with running statistics stay in evaluation mode where their parameters are frozen, so that a
    frozen base model does not drift. All random numbers depend on `seed` and the epoch's index only; the caller's
    random state is left unchanged.

    A run means the same on any number of processes and with any `accumulation`: every step uses the same `batch_size`
    samples in the same order, and a part of a batch is weighted by its number of samples. Results differ only by
    rounding and, where a batch is computed in several parts, by dropout masks and the statistics of trained batch
    normalisations.

    Args:
        model: Maps inputs (batch, ...) to logits (batch, class). Trained in place, on its own device or the
            accelerator's.
        train: Samples (input, class index), or a `DataLoader` of them. A loader is iterated as it is, with its own
            batches, order and workers; it needs a single process, and its generator, if it has one, is not restored
            when a run resumes. For a bank also a dict of the samples of each task: those of all tasks are shuffled
            together, so that every task takes part in proportion to its number of samples.
        val: Samples, or a loader, that select the best epoch; never trained on. None: keep the last epoch's parameters.
            It has no default: one of the two must be chosen.
        epochs: Number of passes over `train`.
        batch_size: Batch size: samples per step, over all processes and micro-batches; default: 64, or that of the
            loader.
        lr: Peak learning rate.
        weight_decay: AdamW's weight decay.
        warmup_epochs: Length of the linear warm-up, in epochs, at most `epochs`; default: a tenth of `epochs`.
        lr_factors: Multipliers of `lr` for some of the adapter's factors or its head; see `Adapter.parameter_groups`.
        loss: Maps (logits, class indices) to a scalar, the mean over the samples. Samples with the label -100, or the
            `ignore_index` of the loss, are left out. With class weights the result depends on how a batch is split into
            parts.
        seed: Seed of the sample order and of dropout.
        checkpoint: File written after each epoch. If it exists, training resumes from it and gives the same result as
            an uninterrupted run.
        progress: True: show a progress bar with losses, the validation accuracy and the time that remains, in a
            terminal or a notebook, in the main process. False: show nothing. Or a function, called after each epoch
            in the main process.
        accelerator: An `accelerate.Accelerator`, which sets device, precision, trackers and processes (DDP or FSDP2).
            Every process calls `fit` with the same arguments, and holds the trained model afterwards.
        accumulation: Gradient accumulation: number of micro-batches per process and batch.
        workers: Number of `DataLoader` workers per process, at most 64 or four for every processor; 0 loads in the
            training process.
        drop_last: Leave out the incomplete last batch of an epoch.
        validate_every: Epochs between validations; the last epoch is always validated.
        gradient_checkpointing: Recompute activations in the backward pass: less memory, more time. The model needs
            timm's `set_grad_checkpointing` or transformers' `activation_checkpointing_enable`.
        ties: Which of several epochs with the highest validation accuracy is kept: that of the lowest validation
            `loss`, or the `first`.
        optimizer: `"adamw"`, or `"preconditioned"`: `tensorfact.optim.PreconditionedAdamW`. It needs one adapter,
            whose factors are not sharded.
        budget: Largest number of parameters of the adapter at the end, its head not counted. The ranks start as the
            even split of the budget, one for all bonds of all tensors, and are then moved to the tensors and bonds that
            need them: after 10 % of the epochs they grow by half, and after 20 % they are truncated to the budget where
            the increments change least, so that the adapter is larger in between. The scale is derived, as by
            `Adapter.balance`, and only epochs with the final ranks count as the best. Runs of fewer than 4 epochs keep
            the even split. It needs one process and one adapter, whose formats have ranks; the factors become new
            parameters. Default: the ranks stay as they are.
        on_epoch: Called with the index and the metrics of each epoch, in the main process. An exception that it raises
            ends the run.

    Returns:
        The losses and accuracies of every epoch; the model holds the best epoch's parameters.

    Raises:
        TrainingError: No parameter requires gradients, the adapter is merged or disabled, an argument is out of range
            or contradicts a loader, `budget` is below the size at rank 1 or does not suit the model, an input or the
            loss is not finite, labels are not class indices or all ignored, or the model or the accelerator does not
            support the inputs or an option.
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
    samples, held_out = training_samples(model, train), all_samples(model, _chosen(train, val), "fit: val")
    epochs, size = count("epochs", epochs, 1), _batch_size(samples, batch_size)
    warmup = epochs / 10 if warmup_epochs is None else warmup_epochs
    factors = {} if lr_factors is None else lr_factors
    schedule = Schedule(
        epochs, size, lr, weight_decay, warmup, seed, factors, validate_every, drop_last, ties, optimizer, budget
    )
    accumulation, workers = count("accumulation", accumulation, 1), worker_count(workers)
    flag(gradient_checkpointing, "fit: gradient_checkpointing", TrainingError)
    checkpoint = None if checkpoint is None else file_path(checkpoint, "fit: checkpoint", TrainingError)
    check_loss(loss, "fit")
    told = _told(progress)
    if on_epoch is not None:
        callback(on_epoch, "fit: on_epoch", TrainingError, takes="index, epoch")
    check_values(model, "fit", offloaded=False)
    engine = engine_for(model, accelerator)
    _check_data(samples, held_out, schedule)
    check_loaders(
        samples,
        held_out,
        engine.processes,
        workers,
        batch_size=batch_size,
        drop_last=drop_last,
        accumulation=accumulation if accumulation > 1 else None,
    )
    if held_out is not None:
        _check_scored(held_out)
    run = TrainingRun(engine, schedule, loss, accumulation, workers)
    with (
        _restored(model),
        with_tasks_of_samples(model, samples, held_out),
        checkpointed(engine.module) if gradient_checkpointing else contextlib.nullcontext(),
        _ready(run),
        progress_bar(epochs, shown=progress is True and engine.main) as bar,
    ):
        if checkpoint is not None:
            with run.undoing():
                run.resume(checkpoint, run.identity(samples, held_out))
        cuda = {p.device for p in engine.module.parameters()} | {engine.device}
        devices = sorted((device for device in cuda if device.type == "cuda"), key=str)
        while (index := len(run.history.epochs)) < epochs:
            with torch.random.fork_rng(devices=devices):
                epoch = run.epoch(samples, held_out, bar)
            if checkpoint is not None:
                run.save(checkpoint, run.identity(samples, held_out))
            _report(engine, index, epoch, epochs, told, on_epoch)
        if run.best:
            run.restore(run.best)
        engine.finish(run.state())
    return run.history


def _chosen(train: Data | TaskData, val: Data | TaskData | EllipsisType | None) -> Data | TaskData | None:
    """Return the validation data; raise if the argument was left out, which an object with both splits leads to."""
    if not isinstance(val, EllipsisType):
        return val
    if not isinstance(train, Mapping):
        check_data(train, "fit: train")
    raise TrainingError(
        "fit: val is missing",
        expected="validation samples, or None to train without validation",
        fix="fit(model, train, val)",
    )


def _batch_size(train: Data, given: int | None) -> int:
    """Return the batch size of a run: as given, that of the loader, or 64."""
    if given is not None:
        return given
    own = train.batch_size if isinstance(train, DataLoader) else 64
    return own or 1  # a loader with a batch sampler has none


def _told(progress: Progress | bool) -> Progress:
    """Return the function to call after each epoch; the bar of `progress=True` is told every step."""
    if isinstance(progress, bool):
        return silent
    return callback(progress, "fit: progress", TrainingError, example="True", beside="True, False or")


def _check_data(train: Data, val: Data | None, schedule: Schedule) -> None:
    check_data(train, "fit: train")
    if val is not None:
        check_data(val, "fit: val", sized=False)
    if schedule.drop_last and not isinstance(train, DataLoader) and size_of(train) < schedule.batch_size:
        raise TrainingError(
            "fit: drop_last=True leaves no batch",
            expected=f"at least {schedule.batch_size} training samples, one batch",
            got=str(size_of(train)),
            fix="pass drop_last=False or a smaller batch_size",
        )


def _check_scored(val: Data) -> None:
    """Raise before anything trains if the accuracy cannot be computed from the first labels of `val`."""
    with torch.random.fork_rng(devices=[]):  # reading samples may draw random numbers
        batch = first_batch(val, "fit: val")
    if batch is not None:
        origin = BatchOrigin("fit: val", () if isinstance(val, DataLoader) else FIRST)
        check_scored(labels_of(batch, origin), origin, otherwise="pass val=None and measure the model after fit()")


@contextlib.contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Restore the training mode of every module on exit."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextlib.contextmanager
def _ready(run: TrainingRun) -> Iterator[None]:
    """Prepare the model and optimizer of a run; unwrap the model on exit."""
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
    """Report an epoch to trackers and callbacks, in the main process; an exception there ends all processes."""
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
            cause="progress or on_epoch raised an exception there",
            fix="see the traceback of the main process",
        )
