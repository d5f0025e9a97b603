"""The samples of a batch: in a model's arguments and outputs, and in what reaches its layers."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import AdaptError
from ...model.example import ExampleInput, observing, runs
from ...model.outputs import tensors_of

_CLOSE = 1e-4
"""The largest relative difference between inputs of a layer that count as equal."""


def samples_of(example: ExampleInput) -> int | None:
    """Return the number of samples in the arguments of a model: the length of the first tensor; None without one.

    Args:
        example: The arguments.
    """
    values = (*example.arguments, *example.keywords.values())
    return next((len(tensor) for tensor in tensors_of(values) if tensor.dim()), None)


def require_samples(example: ExampleInput, samples: int) -> None:
    """Check that a model is called with one sample for each task of a mixed batch.

    Args:
        example: The arguments.
        samples: The number of tasks.

    Raises:
        AdaptError: The first tensor has another number of samples.
    """
    found = samples_of(example)
    if found != samples:
        raise AdaptError(
            "batch: the model is called with another number of samples",
            expected=f"{samples}, one for each task",
            got="no tensor" if found is None else f"{found}",
            fix="bank.batch(tasks) with one task for each sample of the batch",
        )


def chosen(example: ExampleInput, index: Tensor, samples: int) -> ExampleInput:
    """Return the arguments for some samples of a batch; what has no sample for each is passed on as it is.

    Args:
        example: The arguments for all samples.
        index: The positions of the samples.
        samples: The number of all samples.
    """

    def take(tensor: Tensor) -> Tensor:
        whole = not tensor.dim() or len(tensor) != samples
        return tensor if whole else tensor.index_select(0, index.to(tensor.device))

    arguments = tuple(changed(value, take) for value in example.arguments)
    return ExampleInput(arguments, {name: changed(value, take) for name, value in example.keywords.items()})


def require_divisible(example: ExampleInput) -> None:
    """Check that the arguments of a model can be divided by samples: no caches, whose tensors would stay whole.

    Args:
        example: The arguments.

    Raises:
        AdaptError: One has a state of its own.
    """
    for value in _leaves((*example.arguments, *example.keywords.values())):
        if _is_cache(value):
            raise AdaptError(
                f"batch: a {type(value).__name__} cannot be divided by tasks",
                cause="the model runs task by task, and keeps keys and values of all samples",
                fix="use_cache=False",
            )


def _is_cache(value: object) -> bool:
    return type(value).__module__ == "transformers.cache_utils"


def _leaves(value: object) -> Iterator[object]:
    """Yield all values in nested containers."""
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if not isinstance(value, (list, tuple)):
        yield value
        return
    for each in value:
        yield from _leaves(each)


def changed(value: object, change: Callable[[Tensor], Tensor]) -> Any:
    """Return a tensor, or a container of tensors, with all tensors changed.

    Args:
        value: A tensor, or a mapping, list, tuple or dataclass of them. A cache of keys and values gives None,
            anything else as it is.
        change: Returns the new tensor.
    """
    if isinstance(value, Tensor):
        return change(value)
    if _is_cache(value):
        return None
    if dataclasses.is_dataclass(value) and not isinstance(value, (Mapping, type)):
        new = copy.copy(value)
        for name, each in vars(value).items():
            object.__setattr__(new, name, changed(each, change))  # also where it is frozen
        return new
    if isinstance(value, Mapping):
        found = {name: changed(each, change) for name, each in value.items()}
        return type(value)(**found) if dataclasses.is_dataclass(value) else type(value)(found)  # type: ignore[call-arg]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(changed(each, change) for each in value))
    if isinstance(value, (list, tuple)):
        return type(value)(changed(each, change) for each in value)
    return value


def joined(outputs: Sequence[tuple[Tensor, object]], samples: int) -> Any:
    """Return one output for all samples from outputs for some of them, in the order of the batch.

    Logits of different numbers of classes are padded with minus infinity.

    Args:
        outputs: Positions of samples, and the model's output for them.
        samples: The number of all samples.

    Raises:
        AdaptError: A tensor of the output has no sample in front.
    """
    order = torch.cat([index for index, _ in outputs]).argsort()
    parts = [list(tensors_of(output)) for _, output in outputs]
    for (index, _), tensors in zip(outputs, parts, strict=True):
        for tensor in tensors:
            if not tensor.dim() or len(tensor) != len(index):
                raise AdaptError(
                    "batch: an output of the model that is not one for each sample",
                    expected=f"tensors of {len(index)} samples",
                    got=f"shape {tuple(tensor.shape)}",
                    fix="call the model without labels, and compute the loss of its logits",
                )
    whole = iter([_together(each, order) for each in zip(*parts, strict=True)])
    return changed(outputs[0][1], lambda _: next(whole))


def _together(parts: Sequence[Tensor], order: Tensor) -> Tensor:
    widest = max((part.shape[-1] for part in parts if part.dim() > 1), default=0)
    padded = [
        nn.functional.pad(part, (0, widest - part.shape[-1]), value=-math.inf)
        if part.dim() > 1 and part.shape[-1] < widest
        else part
        for part in parts
    ]
    return torch.cat(padded).index_select(0, order.to(parts[0].device))


def have_samples_in_front(model: nn.Module, layers: Iterable[nn.Module], example: ExampleInput) -> bool | None:
    """Return whether the inputs of layers hold the samples one after the other, each as many rows.

    None is returned if the model does not run on the example.

    The model runs on two pairs of samples that have the first one in common: the first half of each layer's input must
    be the same, and the second another, also where a mask or a length makes one of them shorter. This is not so where a
    layer gets tokens in front of samples, tokens of all samples in one row, samples in another order, or tables that
    belong to no sample. A layer that is not called counts as one without samples: the model reads its weight.

    Args:
        model: The model; its state is left as it is.
        layers: The layers.
        example: Arguments of a forward pass, with one sample or more.
    """
    samples = samples_of(example)
    if samples is None:
        return False
    first = chosen(example, torch.zeros(2, dtype=torch.long), samples)
    found = None
    for masked in (None, 0, 1):
        base = first if masked is None else _masked(first, masked)
        if masked is not None and base is first:
            break
        pairs = [_with_another(base, factor) for factor in (-0.5, 0.25)]
        with observing(model):
            seen = [_inputs(model, list(layers), pair) for pair in pairs]
        if any(each is None for each in seen):
            return None if found is None else False
        found = all(
            len(one) == len(other) > 0 and all(map(_in_front, one, other)) for one, other in zip(*seen, strict=True)
        )
        if not found:
            return False
    return found


def _masked(pair: ExampleInput, at: int) -> ExampleInput:
    """Return the arguments of two samples, one of which is shorter: in masks, and in lengths; itself without any.

    Models may leave padding out, or sort the samples by length.
    """
    found = False

    def change(tensor: Tensor) -> Tensor:
        nonlocal found
        if not tensor.dim() or len(tensor) != 2 or tensor.is_floating_point() or tensor.is_complex():
            return tensor
        new = tensor.clone()
        if tensor.dim() == 1 and tensor.dtype != torch.bool:
            new[at] = (new[at] + 1) // 2
        elif tensor.dim() > 1 and (tensor.dtype == torch.bool or int(tensor.max()) == 1):
            new[1 - at] = 1
            new[at, ..., (tensor.shape[-1] + 1) // 2 :] = 0
        found = found or not torch.equal(new, tensor)
        return new

    arguments = tuple(changed(value, change) for value in pair.arguments)
    masked = ExampleInput(arguments, {name: changed(value, change) for name, value in pair.keywords.items()})
    return masked if found else pair


def _with_another(pair: ExampleInput, factor: float) -> ExampleInput:
    """Return the arguments of two samples with the second one changed: numbers scaled, words exchanged."""

    def change(tensor: Tensor) -> Tensor:
        if not tensor.dim() or len(tensor) != 2 or tensor.dtype == torch.bool:
            return tensor
        new = tensor.clone()
        if tensor.is_floating_point():
            new[1] = new[1] * factor
        elif int(tensor.max()) > 1:  # a mask, or types of tokens, stay
            new[1] = new[1].flip(-1) if factor < 0 else (new[1] + 1) % int(tensor.max())
        return new

    arguments = tuple(changed(value, change) for value in pair.arguments)
    return ExampleInput(arguments, {name: changed(value, change) for name, value in pair.keywords.items()})


def _inputs(model: nn.Module, layers: Sequence[nn.Module], example: ExampleInput) -> list[list[Tensor]] | None:
    """Return what every layer gets in a forward pass, one tensor for each call; None if the model does not run."""
    found: list[list[Tensor]] = [[] for _ in layers]
    hooks = [
        layer.register_forward_pre_hook(lambda _, arguments, kept=kept: kept.append(arguments[0].detach().clone()))
        for layer, kept in zip(layers, found, strict=True)
    ]
    try:
        return found if runs(lambda: example.run(model)) else None
    finally:
        for hook in hooks:
            hook.remove()


def _in_front(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or not one.dim() or len(one) % 2:
        return False
    (first, second), (same, different) = one.chunk(2), other.chunk(2)
    return _apart(first, same) <= _CLOSE < _apart(second, different)


def _apart(one: Tensor, other: Tensor) -> float:
    size = one.double().norm().clamp_min(torch.finfo(torch.float64).tiny)
    return float((one.double() - other.double()).norm() / size)
