"""How good a model is: counted on one process, or on the shares of several."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ...errors import TrainingError
from .schedule import Loss, Samples

BATCH = 256
"""Samples a forward pass."""


def evaluate(
    model: nn.Module, data: Samples, *, batch_size: int = BATCH, loss: Loss = nn.functional.cross_entropy
) -> tuple[float, float]:
    """Measure accuracy and loss without changing the model.

    Args:
        model: Maps inputs (batch, ...) to logits (batch, class).
        data: Samples (input, class index).
        batch_size: Samples a forward pass.
        loss: Maps (logits, class indices) to a scalar, the mean over the samples.

    Returns:
        Accuracy (0 to 1) and mean loss.

    Raises:
        TrainingError: `data` is empty, or labels are no class indices.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):  # a loader draws a seed
            device = next(model.parameters()).device
            right, total, count = tally(model, DataLoader(data, batch_size), itertools.repeat(True), loss, device)
    finally:
        for module, mode in modes.items():
            module.training = mode
    if not count:
        raise TrainingError("evaluate: the data is empty", fix="pass at least one sample")
    return right / count, total / count


def tally(
    run: Callable[[Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    counted: Iterable[bool],
    loss: Loss,
    device: torch.device,
) -> tuple[int, float, int]:
    """Run a model on batches; return how many samples it classified rightly, the sum of their losses, and their count.

    Args:
        run: The model.
        batches: Inputs and class indices.
        counted: Whether each batch counts; all are run.
        loss: A mean over samples.
        device: Where to run.
    """
    right = count = 0
    total = 0.0
    for (x, y), counts in zip(batches, counted, strict=False):  # what counts may have no end
        logits, labels = run(x.to(device)), y.to(device)
        if logits.ndim != 2 or labels.shape != logits.shape[:1]:
            raise TrainingError(
                "evaluate: logits and labels",
                expected="(batch, class) and class indices (batch,)",
                got=f"{tuple(logits.shape)} and {tuple(labels.shape)}",
                fix="pass one class index a sample",
            )
        if counts:
            right += int((logits.argmax(-1) == labels).sum())
            total += float(loss(logits, labels)) * len(y)
            count += len(y)
    return right, total, count
