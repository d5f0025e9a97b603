"""From a batch to logits and class indices, in the forms that data sets and models have."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...common.checks import callback
from ...errors import TensorfactError, TrainingError
from .batches import BatchOrigin
from .labels import IGNORED, are_integers, check_classes, check_targets, without_ignored
from .mismatch import ERRORS, first_line, is_listed, lists_of_numbers, mismatch
from .schedule import Loss

LABELS = ("labels", "label")

_MEAN = "loss=torch.nn.functional.cross_entropy, or a function that returns a mean"


class Predicted(NamedTuple):
    """The output of a model for a batch.

    Args:
        logits: The model's output, on its device; without the samples that are ignored.
        labels: Labels of the same samples, on the same device; integer labels are int64.
        counted: Fraction of the batch's labels that are not ignored.
    """

    logits: Tensor
    labels: Tensor
    counted: float


def predict(
    run: Callable[..., object], batch: object, device: torch.device, origin: BatchOrigin, ignored: int = IGNORED
) -> Predicted:
    """Run a model on one batch.

    Args:
        run: The model; it returns logits (batch, class), or an object, a dict or a tuple that holds them as `logits` or
            first.
        batch: Inputs and, last, labels; or a dict with `labels`. Inputs are tensors, or a dict of keyword arguments.
        device: Device of the model.
        origin: Where the batch comes from, for messages.
        ignored: The label whose samples are left out.

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
    logits, counted = logits_of(output), 1.0
    if are_integers(labels):
        labels = labels.long()
        check_classes(logits, labels, ignored, origin)
        logits, labels, counted = without_ignored(logits, labels, ignored)
    return Predicted(logits, labels.to(device), counted)


def labels_of(batch: object, origin: BatchOrigin) -> Tensor:
    """Return the labels of a batch.

    Args:
        batch: Inputs and labels, as in `predict`.
        origin: Where the batch comes from, for the message.

    Raises:
        TrainingError: The batch has another form.
    """
    return _split(batch, origin)[1]


def _called(run: Callable[..., object], inputs: object) -> object:
    if isinstance(inputs, Mapping):
        return run(**inputs)
    return run(*inputs) if isinstance(inputs, (tuple, list)) else run(inputs)


def check_loss(loss: Loss, owner: str) -> None:
    """Raise unless a loss is a function of logits and labels.

    Args:
        loss: The argument.
        owner: The function that it was passed to, for the message.

    Raises:
        TrainingError: It is a class, not callable, or takes other arguments.
    """
    example = "torch.nn.functional.cross_entropy"
    callback(loss, f"{owner}: loss", TrainingError, takes="logits, labels", example=example)


def loss_of(loss: Loss, logits: Tensor, labels: Tensor, origin: BatchOrigin) -> Tensor:
    """Return the loss of a batch, 0 if it has no samples; for cross entropy, check the labels first.

    Args:
        loss: Maps (logits, labels) to a scalar.
        logits: The model's output.
        labels: Class indices, or targets that the loss takes.
        origin: Where the batch comes from, for messages.

    Raises:
        TrainingError: The loss is cross entropy, and the labels are neither class indices nor class probabilities; the
            loss does not take logits and labels of these shapes, or does not return a scalar.
    """
    if logits.shape[:1] == labels.shape[:1] == (0,):
        return logits.sum()  # its gradient is zero
    if loss is nn.functional.cross_entropy or isinstance(loss, nn.CrossEntropyLoss):
        check_targets(logits, labels, origin)
    given = f"logits {_form(logits)} and labels {_form(labels)}"
    try:
        value = loss(logits, labels)
    except TensorfactError:
        raise
    except ERRORS as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise TrainingError(
            f"{origin}: the loss raised {type(error).__name__}",
            expected=f"a function of {given}",
            got=first_line(error),
            fix=_MEAN,
        ) from error
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise TrainingError(
            f"{origin}: the loss of {given}",
            expected="a tensor of one element, the mean over the samples",
            got=_form(value) if isinstance(value, Tensor) else type(value).__name__,
            cause="reduction='none'" if isinstance(value, Tensor) else "",
            fix=_MEAN,
        )
    return value


def without_gradient(logits: Tensor, origin: BatchOrigin) -> TrainingError:
    """Return the error for a loss that does not depend on the trained parameters.

    Args:
        logits: The model's output.
        origin: Where the batch comes from, for the message.
    """
    if logits.requires_grad:
        return TrainingError(
            f"{origin}: the loss has no gradient", cause="the loss function detaches the logits", fix=_MEAN
        )
    return TrainingError(
        f"{origin}: the output of the model does not depend on a parameter that trains",
        cause="the forward pass runs under torch.no_grad(), or does not use these parameters",
        fix="adapt parameters that the forward pass uses: adapter.check() finds them",
    )


def refuse_infinite(batch: object, origin: BatchOrigin) -> None:
    """Raise if a batch holds values that are not finite.

    Args:
        batch: Inputs and labels, as the data set or loader returned them.
        origin: Where the batch comes from, for the message.

    Raises:
        TrainingError: A value is NaN or infinite.
    """
    for tensor in _tensors(batch):
        if tensor.dim() and (tensor.is_floating_point() or tensor.is_complex()):
            wrong = ~tensor.isfinite().flatten(1) if tensor.dim() > 1 else ~tensor.isfinite().unsqueeze(1)
            if bool(wrong.any()):
                sample = int(wrong.any(1).nonzero()[0])
                raise TrainingError(
                    f"{origin.sample(sample)} holds NaN or infinity",
                    expected="finite values",
                    got=f"{int(wrong[sample].sum()):,} of {wrong[sample].numel():,} values that are not",
                    cause="missing values, or a division by a standard deviation of 0",
                    fix="leave the sample out, or replace the values: torch.nan_to_num(input)",
                )


def _tensors(batch: object) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        yield from _tensors(tuple(batch.values()))
    elif isinstance(batch, (tuple, list)):
        for value in batch:
            yield from _tensors(value)


def _form(tensor: Tensor) -> str:
    return f"{tensor.dtype} of shape {(*tensor.shape,)}"


def _split(batch: object, origin: BatchOrigin) -> tuple[object, Tensor]:
    labels: object = None
    inputs: object = batch
    if isinstance(batch, Mapping):
        name = next((name for name in LABELS if name in batch), None)
        inputs, labels = {key: value for key, value in batch.items() if key != name}, batch.get(name)
        if is_listed(labels):
            raise lists_of_numbers(f"{origin}: {name!r}")
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


def logits_of(output: object) -> Tensor:
    """Return the logits in a model's output.

    Args:
        output: Logits (batch, class), or an object, a dict or a tuple that holds them as `logits` or first.

    Raises:
        TrainingError: It holds none.
    """
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
