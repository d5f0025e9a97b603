"""Class indices: which of them are ignored, which are invalid, and which an accuracy can be computed from."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ...errors import TrainingError
from .batches import BatchOrigin
from .schedule import Loss

IGNORED = -100
"""The label that cross entropy leaves out, unless its `ignore_index` is another."""


def ignored_by(loss: Loss) -> int:
    """Return the label that a loss leaves out: its `ignore_index`, or -100.

    Args:
        loss: A function, a loss of torch, or a `functools.partial` of one.
    """
    function, options = (loss.func, loss.keywords) if isinstance(loss, functools.partial) else (loss, {})
    index = options.get("ignore_index", getattr(function, "ignore_index", None))
    return index if isinstance(index, int) else IGNORED


def are_integers(labels: Tensor) -> bool:
    """Return whether labels can be class indices: integers, not bools.

    Args:
        labels: The labels of a batch.
    """
    return not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)


def without_ignored(logits: Tensor, labels: Tensor, ignored: int) -> tuple[Tensor, Tensor, float]:
    """Leave out the samples of which every label is ignored.

    Args:
        logits: The model's output (batch, ...).
        labels: Integers (batch,), or (batch, ...) with several labels a sample.
        ignored: The label that is ignored.

    Returns:
        Logits and labels of the other samples, and the fraction of all labels that are not ignored.
    """
    if labels.shape[:1] == (0,):
        return logits, labels, 0.0
    counted = labels != ignored
    if bool(counted.all()) or labels.shape[:1] != logits.shape[:1]:
        return logits, labels, 1.0
    samples = (counted.flatten(1).any(1) if counted.dim() > 1 else counted).nonzero().flatten()
    return logits[samples.to(logits.device)], labels[samples], float(counted.double().mean())


def no_label_counts(argument: str, ignored: int) -> TrainingError:
    """Return the error for data without a label that counts.

    Args:
        argument: Where the data was passed, as in `fit: train`.
        ignored: The label that is ignored.
    """
    return TrainingError(
        f"{argument} has no sample that counts",
        expected="at least one class index",
        got=f"only the label {ignored}, which is ignored, or no sample",
        fix="pass samples with class indices from 0",
    )


def check_classes(logits: Tensor, labels: Tensor, ignored: int, origin: BatchOrigin) -> None:
    """Check class indices on the CPU, where a batch comes from, before cross entropy fails on them.

    Args:
        logits: The model's output (batch, class); others are not checked.
        labels: Class indices (batch,).
        ignored: The label that is ignored.
        origin: Where the batch comes from, for the message.

    Raises:
        TrainingError: A label is below 0, or not below the number of classes.
    """
    if labels.device.type != "cpu" or labels.ndim != 1 or logits.ndim != 2:
        return
    classes = logits.shape[1]
    given = labels[labels != ignored]
    wrong = ((labels != ignored) & ((labels < 0) | (labels >= classes))).nonzero().flatten().tolist()
    if wrong:
        least, most = int(given.min()), int(given.max())
        cause, fix = _range(least, most, classes, ignored)
        raise TrainingError(
            f"{origin.sample(wrong[0])}: label {int(labels[wrong[0]])} is not a class of the model",
            expected=f"class indices from 0 to {classes - 1}",
            got=f"{least} to {most} in one batch",
            cause=cause,
            fix=fix,
        )


def _range(least: int, most: int, classes: int, ignored: int) -> tuple[str, str]:
    """Return why labels leave the range from 0 to the number of classes, and how that is mended."""
    if least >= 0:
        return (
            "the model's head has fewer classes than the data, or labels count from 1",
            f"model.reset_classifier({most + 1}) before adapt(), or correct the labels",
        )
    if least < -1:
        return "", f"use class indices from 0, and {ignored} for samples to ignore"
    larger = f" and a model with {most + 2} classes" if most + 2 > classes else ""
    return (
        "labels count from -1, or -1 marks samples without a class",
        f"use labels + 1{larger}, or {ignored} instead of -1 for samples to ignore",
    )


def check_targets(logits: Tensor, labels: Tensor, origin: BatchOrigin) -> None:
    """Raise unless cross entropy takes labels beside logits.

    Args:
        logits: The model's output.
        labels: Class indices or class probabilities.
        origin: Where the batch comes from, for the message.

    Raises:
        TrainingError: The labels are neither.
    """
    shape = (*logits.shape[:1], *logits.shape[2:])
    if labels.shape == shape and labels.dtype == torch.int64:
        return
    if labels.shape == logits.shape and labels.is_floating_point():
        return
    if labels.dtype == torch.int64 and logits.dim() > 2 and labels.shape == logits.shape[:-1]:
        raise TrainingError(
            f"{origin}: logits and labels of cross entropy, the default loss",
            expected="logits (batch, class) and class indices (batch,)",
            got=f"{(*logits.shape,)} and {(*labels.shape,)}",
            cause="a model that classifies every token",
            fix="loss=lambda logits, labels: nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten()); "
            "for a causal language model, whose labels are the input ids, use logits[:, :-1] and labels[:, 1:]",
        )
    raise TrainingError(
        f"{origin}: the labels are not class indices",
        expected=f"integers of shape {shape}, for logits {(*logits.shape,)}",
        got=f"{labels.dtype} of shape {(*labels.shape,)}",
        fix=f"return class indices, {_converted(labels, logits)}, from the data set",
    )


def _converted(labels: Tensor, logits: Tensor) -> str:
    """Return the expression that makes class indices of labels."""
    if labels.shape == logits.shape:
        return "onehot.argmax(-1)"
    if labels.ndim == 2 and labels.shape[1] == 1:
        return "labels.squeeze(1).long()"
    return "labels.long()"


def check_scored(labels: Tensor, origin: BatchOrigin, *, otherwise: str) -> None:
    """Raise unless the accuracy can be computed from labels: one class index per sample.

    Args:
        labels: The labels of a batch.
        origin: Where the batch comes from, for the message.
        otherwise: What to do for another task than classification, for the message.

    Raises:
        TrainingError: The labels have another shape, or are fractions.
    """
    fractions = labels.is_floating_point() and bool((labels != labels.round()).any())
    if labels.dim() != 1 or fractions:
        raise TrainingError(
            f"{origin}: the accuracy cannot be computed from the labels",
            expected="class indices (batch,)",
            got=f"{'fractions, ' if fractions else ''}{labels.dtype} of shape {(*labels.shape,)}",
            cause="probabilities, or a task other than classification",
            fix=f"return one class index per sample, such as onehot.argmax(-1), or {otherwise}",
        )
