"""From a batch to logits and class indices, in the forms that data sets and models have."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ...errors import TensorfactError, TrainingError
from .batches import BatchOrigin
from .mismatch import ERRORS, mismatch
from .schedule import Loss

IGNORED = -100
"""The label that cross entropy leaves out."""

LABELS = ("labels", "label")


def predict(
    run: Callable[..., object], batch: object, device: torch.device, origin: BatchOrigin
) -> tuple[Tensor, Tensor]:
    """Run a model on one batch.

    Args:
        run: The model; it returns logits (batch, class), or an object, a dict or a tuple that holds them as `logits` or
            first.
        batch: Inputs and, last, labels; or a dict with `labels`. Inputs are tensors, or a dict of keyword arguments.
        device: Device of the model.
        origin: Where the batch comes from, for messages.

    Returns:
        Logits and labels, on the device; integer labels are int64.

    Raises:
        TrainingError: The batch or the output has another form, the model does not take the inputs, or a label is
            not a class of the model.
    """
    inputs, labels = _split(batch, origin)
    inputs = _moved(inputs, device)
    try:
        output = _called(run, inputs)
    except TensorfactError:
        raise
    except ERRORS as error:
        found = mismatch(run, inputs, error, origin)
        if found is None:
            raise
        raise found from error
    logits = _logits(output)
    if not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool):
        labels = labels.long()
        _check_classes(logits, labels, origin)
    return logits, labels.to(device)


def _called(run: Callable[..., object], inputs: object) -> object:
    if isinstance(inputs, Mapping):
        return run(**inputs)
    return run(*inputs) if isinstance(inputs, (tuple, list)) else run(inputs)


def loss_of(loss: Loss, logits: Tensor, labels: Tensor, origin: BatchOrigin) -> Tensor:
    """Return the loss of a batch; for cross entropy, check the labels first.

    Args:
        loss: Maps (logits, labels) to a scalar.
        logits: The model's output.
        labels: Class indices, or targets that the loss takes.
        origin: Where the batch comes from, for messages.

    Raises:
        TrainingError: The loss is cross entropy, and the labels are neither class indices nor class probabilities.
    """
    if loss is nn.functional.cross_entropy or isinstance(loss, nn.CrossEntropyLoss):
        indices = labels.shape == (*logits.shape[:1], *logits.shape[2:]) and labels.dtype == torch.int64
        if not indices and not (labels.shape == logits.shape and labels.is_floating_point()):
            raise TrainingError(
                f"{origin}: the labels are not class indices",
                expected=f"integers of shape {(*logits.shape[:1], *logits.shape[2:])}, for logits {(*logits.shape,)}",
                got=f"{labels.dtype} of shape {(*labels.shape,)}",
                fix=_converted(labels, logits),
            )
    return loss(logits, labels)


def _converted(labels: Tensor, logits: Tensor) -> str:
    """Return how labels become class indices."""
    if labels.shape == logits.shape:
        return "return class indices, onehot.argmax(-1), from the data set"
    if labels.ndim == 2 and labels.shape[1] == 1:
        return "return class indices, labels.squeeze(1).long(), from the data set"
    return "return class indices, labels.long(), from the data set"


def _split(batch: object, origin: BatchOrigin) -> tuple[object, Tensor]:
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
        if labels is not None:
            form = f"labels of type {type(labels).__name__}, not a tensor of class indices"
        raise TrainingError(
            f"{origin}: the form of the samples",
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


def _check_classes(logits: Tensor, labels: Tensor, origin: BatchOrigin) -> None:
    """Check class indices on the CPU, where a batch comes from, before cross entropy fails on them."""
    if labels.device.type != "cpu" or labels.ndim != 1 or logits.ndim != 2:
        return
    classes = logits.shape[1]
    wrong = ((labels != IGNORED) & ((labels < 0) | (labels >= classes))).nonzero().flatten().tolist()
    if wrong:
        raise TrainingError(
            f"{origin.sample(wrong[0])}: label {int(labels[wrong[0]])} is not a class of the model",
            expected=f"class indices from 0 to {classes - 1}",
            got=f"{int(labels.min())} to {int(labels.max())} in one batch",
            cause="the model's head has fewer classes than the data, or labels count from 1",
            fix=f"model.reset_classifier({int(labels.max()) + 1}) before adapt(), or correct the labels",
        )
