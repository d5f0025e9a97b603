"""Why a model does not take a batch: another dtype, other channels or sizes, other arguments."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ...errors import TrainingError
from ...model.example import timm_shape
from .batches import BatchOrigin

ERRORS = (RuntimeError, ValueError, TypeError, AssertionError, IndexError, AttributeError)
"""What models raise for inputs that they do not take."""


def mismatch(run: object, inputs: object, error: Exception, origin: BatchOrigin) -> TrainingError | None:
    """Return an error that states how inputs differ from what a model takes; None if no difference is known.

    Args:
        run: The model that raised.
        inputs: Its inputs: a tensor, a tuple of arguments, or a dict of keyword arguments.
        error: What it raised.
        origin: Where the inputs come from, for the message.
    """
    if not isinstance(run, nn.Module) or isinstance(error, torch.OutOfMemoryError):
        return None
    if isinstance(error, (AttributeError, TypeError)) and (listed := _listed(inputs)) is not None:
        return lists_of_numbers(f"{origin}: {listed!r}")
    if not _taken(run, inputs):
        return _arguments(run, inputs, error, origin)
    found = _tensor(run, _first(inputs), error, origin)
    return _arguments(run, inputs, error, origin) if found is None and isinstance(inputs, tuple) else found


def lists_of_numbers(what: str) -> TrainingError:
    """Return the error for samples with lists, which torch collates into one tensor per position, not per batch.

    Args:
        what: The argument and the key of the lists.
    """
    return TrainingError(
        f"{what} is a list in every sample",
        expected="a tensor",
        got="a list of numbers",
        cause="a Hugging Face data set without a format",
        fix='data.set_format("torch"), or return torch.tensor(values) from the data set',
    )


def is_listed(value: object) -> bool:
    """Return whether a part of a batch is a list of tensors, or of such lists."""
    if isinstance(value, (tuple, list)) and value:
        return isinstance(value[0], Tensor) or is_listed(value[0])
    return False


def _listed(inputs: object) -> str | None:
    """Return the first keyword argument that is a list of tensors, as torch collates lists of numbers."""
    named = inputs if isinstance(inputs, Mapping) else {}
    return next((str(key) for key, value in named.items() if is_listed(value)), None)


def _taken(run: nn.Module, inputs: object) -> bool:
    """Return whether the model's `forward` has the arguments that the inputs are passed as."""
    positional = inputs if isinstance(inputs, (tuple, list)) else ()
    named = inputs if isinstance(inputs, Mapping) else {}
    try:
        inspect.signature(run.forward).bind(*(positional or ([] if named else [inputs])), **named)
    except (TypeError, ValueError):
        return False
    return True


def _arguments(run: nn.Module, inputs: object, error: Exception, origin: BatchOrigin) -> TrainingError:
    """Return the error for inputs that are not the model's arguments."""
    several = inputs if isinstance(inputs, (tuple, list)) else (inputs,)
    form = ", ".join(map(str, inputs)) if isinstance(inputs, Mapping) else f"{len(several)} inputs"
    return TrainingError(
        f"{origin}: {type(run).__name__} does not take these inputs",
        expected="samples (input, class index), or a dict whose keys are arguments of the model",
        got=f"{form[:200]} beside the labels",
        cause=first_line(error),
        fix="wrap the data set so that a sample is (input, class index)",
    )


def _tensor(run: nn.Module, given: Tensor | None, error: Exception, origin: BatchOrigin) -> TrainingError | None:
    """Return the error for a dtype or a shape that the model's weights do not take."""
    parameter = next((p for p in run.parameters() if p.is_floating_point()), None)
    if given is None or parameter is None or _are_ids(given, run):
        return None
    shape = _expected_shape(run)
    own = tuple(given.shape[1:])
    fits = shape is None or all(size in (None, got) for size, got in zip(shape, own[: len(shape)], strict=False))
    if fits and (shape is None or len(own) == len(shape)) and given.dtype == parameter.dtype:
        return None
    wanted = "" if shape is None else f" of shape ({', '.join('any' if n is None else str(n) for n in shape)})"
    if given.dtype != parameter.dtype:
        eight_bits = " / 255" if given.dtype == torch.uint8 else ""
        fix = f"convert the samples: input.to({parameter.dtype}){eight_bits}"
    else:
        fix = "resize or convert the images, or create the model with img_size= and in_chans= of the data"
    return TrainingError(
        f"{origin}: {type(run).__name__} does not take these inputs",
        expected=f"{parameter.dtype}{wanted}",
        got=f"{given.dtype} of shape {own}",
        cause=first_line(error),
        fix=fix,
    )


def _are_ids(given: Tensor, run: nn.Module) -> bool:
    """Return whether inputs are indices of an embedding, such as token ids, which have any length."""
    integers = given.dtype in (torch.int64, torch.int32) and given.dim() < 3  # images have four dimensions
    return integers and any(isinstance(module, nn.Embedding) for module in run.modules())


def _first(inputs: object) -> Tensor | None:
    if isinstance(inputs, Mapping):
        inputs = next((value for value in inputs.values() if isinstance(value, Tensor)), None)
    elif isinstance(inputs, (tuple, list)):
        inputs = next((value for value in inputs if isinstance(value, Tensor)), None)
    return inputs if isinstance(inputs, Tensor) else None


def _expected_shape(run: nn.Module) -> tuple[int | None, ...] | None:
    """Return the shape of one input as timm states it, or as the first layer implies it; None for any."""
    if (shape := timm_shape(run)) is not None:
        return shape
    for module in run.modules():
        if isinstance(module, nn.Conv2d):
            return (module.in_channels, None, None)
        if isinstance(module, nn.Linear):
            return (module.in_features,)
    return None


def first_line(error: Exception) -> str:
    """Return the first line of an error's message.

    Args:
        error: What a model or a loss raised.
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
