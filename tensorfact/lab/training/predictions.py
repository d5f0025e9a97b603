"""From a batch to logits and class indices, in the forms that data sets and models have."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ...errors import TrainingError

IGNORED = -100
"""The label that cross entropy leaves out."""

LABELS = ("labels", "label")


def predict(run: Callable[..., object], batch: object, device: torch.device) -> tuple[Tensor, Tensor]:
    """Run a model on one batch.

    Args:
        run: The model; it returns logits (batch, class), or an object, a dict or a tuple that holds them as `logits` or
            first.
        batch: Inputs and, last, labels; or a dict with `labels`. Inputs are tensors, or a dict of keyword arguments.
        device: Device of the model.

    Returns:
        Logits and labels, on the device; integer labels are int64.

    Raises:
        TrainingError: The batch or the output has another form, or a label is not a class of the model.
    """
    inputs, labels = _split(batch)
    inputs = _moved(inputs, device)
    if isinstance(inputs, Mapping):
        output = run(**inputs)
    elif isinstance(inputs, (tuple, list)):
        output = run(*inputs)
    else:
        output = run(inputs)
    logits = _logits(output)
    if not labels.is_floating_point() and labels.dtype != torch.bool:
        labels = labels.long()
        _check_classes(logits, labels)
    return logits, labels.to(device)


def _split(batch: object) -> tuple[object, Tensor]:
    labels: object = None
    inputs: object = batch
    if isinstance(batch, Mapping):
        name = next((name for name in LABELS if name in batch), None)
        inputs, labels = {key: value for key, value in batch.items() if key != name}, batch.get(name)
    elif isinstance(batch, (tuple, list)) and len(batch) > 1:
        *several, labels = batch
        inputs = several[0] if len(several) == 1 else tuple(several)
    if not isinstance(labels, Tensor):
        form = f"a {type(batch).__name__}" + (
            f" with {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else ""
        )
        raise TrainingError(
            "the samples of the data",
            expected="(input, class index), or a dict with 'labels'",
            got=form[:200],
            fix="wrap the data set so that a sample is (input, class index)",
        )
    return inputs, labels


def _moved(inputs: object, device: torch.device) -> object:
    if isinstance(inputs, Tensor):
        return inputs.to(device)
    if isinstance(inputs, Mapping):
        return {key: _moved(value, device) for key, value in inputs.items()}
    if isinstance(inputs, (tuple, list)):
        return tuple(_moved(value, device) for value in inputs)
    return inputs


def _logits(output: object) -> Tensor:
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", output)
    if isinstance(found, (tuple, list)) and found:
        found = found[0]
    if isinstance(found, Tensor):
        return found
    raise TrainingError(
        "the output of the model",
        expected="logits (batch, class), or an object with `logits`",
        got=type(output).__name__,
        cause="a model without a head, which returns features",
        fix="use a model for classification, such as AutoModelForImageClassification",
    )


def _check_classes(logits: Tensor, labels: Tensor) -> None:
    """Check class indices on the CPU, where a batch comes from, before cross entropy fails on them."""
    if labels.device.type != "cpu" or labels.ndim != 1 or logits.ndim != 2:
        return
    classes = logits.shape[1]
    wrong = labels[(labels != IGNORED) & ((labels < 0) | (labels >= classes))]
    if len(wrong):
        raise TrainingError(
            f"label {int(wrong[0])} is not a class of the model",
            expected=f"class indices from 0 to {classes - 1}",
            got=f"{int(labels.min())} to {int(labels.max())} in one batch",
            cause="the model's head has fewer classes than the data, or labels count from 1",
            fix=f"model.reset_classifier({int(labels.max()) + 1}) before adapt(), or correct the labels",
        )
