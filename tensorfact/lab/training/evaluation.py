"""Accuracy and loss of a model on a data set."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.utils.data import DataLoader

from ...errors import TrainingError
from .predictions import predict
from .schedule import Loss, Samples

BATCH = 256
"""Samples per forward pass in evaluation."""


def evaluate(
    model: nn.Module, data: Samples, *, batch_size: int = BATCH, loss: Loss = nn.functional.cross_entropy
) -> tuple[float, float]:
    """Measure accuracy and loss without changing the model.

    Args:
        model: Maps inputs (batch, ...) to logits (batch, class).
        data: Samples (input, class index).
        batch_size: Samples per forward pass.
        loss: Maps (logits, class indices) to a scalar, the mean over the samples.

    Returns:
        Accuracy (0 to 1) and mean loss.

    Raises:
        TrainingError: `data` is empty, or its labels are not class indices.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):  # a DataLoader draws a seed
            device = next(model.parameters()).device
            right, total, count = tally(model, DataLoader(data, batch_size), itertools.repeat(True), loss, device)
    finally:
        for module, mode in modes.items():
            module.training = mode
    if not count:
        raise TrainingError("evaluate: the data is empty", fix="pass at least one sample")
    return right / count, total / count


def tally(
    run: Callable[..., object],
    batches: Iterable[object],
    counted: Iterable[bool],
    loss: Loss,
    device: torch.device,
) -> tuple[int, float, int]:
    """Count correct predictions and sum up losses over batches.

    Args:
        run: The model, as in `predict`.
        batches: Inputs and class indices, as in `predict`.
        counted: Whether each batch counts; batches that do not are run too, as every process must call the model.
        loss: Maps (logits, class indices) to the mean over the samples.
        device: Device of the model.

    Returns:
        Number of correct predictions, sum of the losses, number of samples.
    """
    right = count = 0
    total = 0.0
    for batch, counts in zip(batches, counted, strict=False):  # `counted` may be infinite
        logits, labels = predict(run, batch, device)
        if logits.ndim != 2 or labels.shape != logits.shape[:1]:
            raise TrainingError(
                "evaluate: logits and labels",
                expected="(batch, class) and class indices (batch,)",
                got=f"{tuple(logits.shape)} and {tuple(labels.shape)}",
                fix="pass one class index per sample",
            )
        if counts:
            right += int((logits.argmax(-1) == labels).sum())
            total += float(loss(logits, labels)) * len(labels)
            count += len(labels)
    return right, total, count
