"""Accuracy and loss of a model on a data set."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.data import DataLoader

from ...common.checks import whole_number
from ...errors import TrainingError
from .batches import BatchOrigin, MicroBatch
from .labels import check_scored, ignored_by, no_label_counts
from .predictions import check_loss, loss_of, predict, refuse_infinite
from .schedule import Loss
from .sources import Data, check_data, check_values, in_order, refuse_beside

BATCH = 256
"""Samples per forward pass in evaluation."""


class Evaluation(NamedTuple):
    """Accuracy and loss of a model on a data set; unpacks as `accuracy, loss = evaluate(...)`.

    Samples with the label -100, or the `ignore_index` of the loss, do not count.

    Attributes:
        accuracy: Fraction of the samples that are classified correctly, 0 to 1.
        loss: Mean loss over the samples.
    """

    accuracy: float
    loss: float


def evaluate(
    model: nn.Module, data: Data, *, batch_size: int | None = None, loss: Loss = nn.functional.cross_entropy
) -> Evaluation:
    """Measure accuracy and loss without changing the model.

    Args:
        model: Maps inputs (batch, ...) to logits (batch, class).
        data: Samples (input, class index), or a `DataLoader` of them, which is iterated as it is.
        batch_size: Samples per forward pass; default: 256, or the batches of the loader.
        loss: Maps (logits, class indices) to a scalar, the mean over the samples. Samples with the label -100, or the
            `ignore_index` of the loss, are left out.

    Returns:
        Accuracy (0 to 1) and mean loss.

    Raises:
        TrainingError: `data` is empty or not finite, its labels are not class indices or all ignored, the model does
            not take its inputs, the loss is not a function to a scalar, or `batch_size` is given beside a loader.

    Examples:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> from tensorfact.lab import evaluate
        >>> signs = TensorDataset(torch.tensor([[-2.0, 2.0], [1.0, -1.0]]), torch.tensor([1, 0]))
        >>> evaluate(torch.nn.Identity(), signs).accuracy
        1.0
    """
    what = "evaluate: data"
    check_loss(loss, "evaluate")
    check_values(model, "evaluate", offloaded=True)
    check_data(data, what, sized=False)
    if batch_size is not None:
        batch_size = whole_number(batch_size, "evaluate: batch_size", TrainingError, example=BATCH)
    if isinstance(data, DataLoader):
        refuse_beside(["data"], "evaluate", {"batch_size": batch_size})
    batches, parts = in_order(data, batch_size or BATCH, what)
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        # not inference_mode: models keep tensors of a forward pass, and train with them later
        with torch.no_grad(), torch.random.fork_rng(devices=[]):  # a DataLoader draws a seed
            device = next((p.device for p in model.parameters() if not p.is_meta), torch.device("cpu"))
            right, total, count = tally(model, batches, parts, loss, device, what)
    finally:
        for module, mode in modes.items():
            module.training = mode
    if not count:
        raise no_label_counts(what, ignored_by(loss))
    return Evaluation(right / count, total / count)


def tally(
    run: Callable[..., object],
    batches: Iterable[object],
    parts: Iterable[MicroBatch],
    loss: Loss,
    device: torch.device,
    argument: str,
) -> tuple[int, float, int]:
    """Count correct predictions and sum up losses over batches.

    Args:
        run: The model, as in `predict`.
        batches: Inputs and class indices, as in `predict`.
        parts: The micro-batch of each batch. Those of weight 0 do not count; they are run too, as every process must
            call the model.
        loss: Maps (logits, class indices) to the mean over the samples.
        device: Device of the model.
        argument: Where the data was passed, for messages.

    Returns:
        Number of correct predictions, sum of the losses, number of samples that are not ignored.
    """
    right = count = 0
    total, ignored = 0.0, ignored_by(loss)
    for batch, part in zip(batches, parts, strict=False):  # `parts` is infinite for a loader
        origin = BatchOrigin(argument, part.indices)
        logits, labels, _ = predict(run, batch, device, origin, ignored)
        check_scored(labels, origin, otherwise="compute the measure of your task under torch.no_grad()")
        if logits.ndim != 2 or labels.shape != logits.shape[:1]:
            raise TrainingError(
                f"{argument}: logits and labels",
                expected="(batch, class) and class indices (batch,)",
                got=f"{tuple(logits.shape)} and {tuple(labels.shape)}",
                fix="use a model that returns one row of logits per sample",
            )
        value = float(loss_of(loss, logits, labels, origin))
        if not math.isfinite(value) or bool(logits.isnan().any()):
            refuse_infinite(batch, origin)
        if part.weight:
            right += int((logits.argmax(-1) == labels).sum())
            total += value * len(labels)
            count += len(labels)
    return right, total, count
