"""The data that `fit` and `evaluate` take: data sets, and DataLoaders, which are iterated as they are."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from ...common.checks import quoted
from ...errors import TrainingError
from ...model.values import is_offloaded
from .batches import MicroBatch, MicroBatches, deal, load
from .schedule import Samples, size_of

Loader = DataLoader[Any]

Data = Samples | Loader
"""Samples (input, class index), or a loader of batches of them."""

FIRST = range(8)
"""The samples that are read to look at their labels before training."""

WHOLE = MicroBatch((), 1.0)
"""A batch of a loader, which is computed at once; the indices of its samples are not known."""


def check_data(data: Data, argument: str, *, sized: bool = True) -> None:
    """Raise unless a value is data: a data set with a length and with samples, or a loader with batches.

    Args:
        data: The value to check.
        argument: Where the value was passed, as in `fit: train`.
        sized: Whether a loader must know its number of batches.

    Raises:
        TrainingError: The value is of another type, is iterable only, has no length, or is empty.
    """
    streams = isinstance(data, IterableDataset)  # it has a __getitem__ that raises, and may have a length
    indexed = hasattr(data, "__getitem__") and hasattr(data, "__len__") and not streams
    if not isinstance(data, DataLoader) and not indexed:
        splits = hasattr(data, "train") and hasattr(data, "val")
        call = "fit(model, splits.train, splits.val)" if argument.startswith("fit") else "evaluate(model, splits.val)"
        fix = f"pass its splits: {call}" if splits else "pass TensorDataset(x, y)"
        raise TrainingError(
            argument,
            expected="a data set with __getitem__ and __len__, or a DataLoader",
            got=repr(type(data).__name__),
            fix="pass DataLoader(data, batch_size=64)" if streams else fix,
        )
    count = length_of(data)
    if count is None and sized:
        raise TrainingError(
            f"{argument}: the DataLoader has no length, which the learning rate's schedule needs",
            cause="its data set is iterable and has no __len__",
            fix="give the data set a __len__",
        )
    if count == 0:
        raise TrainingError(
            f"{argument} is empty",
            cause="drop_last=True with fewer samples than a batch" if getattr(data, "drop_last", False) else "",
            fix="pass at least one sample",
        )


def check_values(model: nn.Module, owner: str, *, offloaded: bool) -> None:
    """Raise if a model has no values to compute with: it is on the meta device and not loaded by accelerate for a call.

    Args:
        model: The model.
        owner: The function, for the message.
        offloaded: Whether accelerate may load parameters for a call.

    Raises:
        TrainingError: The value is not a model, or a parameter is on the meta device.
    """
    if not isinstance(model, nn.Module):
        raise TrainingError(
            f"{owner}: model",
            expected="a torch.nn.Module",
            got=quoted(model),
            fix=f"pass the model itself, as in {owner}(model, {'train, val' if owner == 'fit' else 'data'})",
        )
    for path, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is None or not parameter.is_meta or (offloaded and is_offloaded(module, parameter)):
                continue
            away = is_offloaded(module, parameter)
            raise TrainingError(
                f"{owner}: the parameter {'.'.join(filter(None, (path, name)))!r} is on the meta device",
                cause="accelerate offloaded it" if away else "the model was created without weights",
                fix="accelerate.hooks.remove_hook_from_module(model, recurse=True)"
                if away
                else "model.to_empty(device='cpu'), then load its weights",
            )


def length_of(data: Data) -> int | None:
    """Return the number of samples of a data set, or of batches of a loader; None if the loader does not know it."""
    if not isinstance(data, DataLoader):
        return size_of(data)
    try:
        return len(data)
    except TypeError:  # of an iterable data set without a length
        return None


def refuse_beside(loaders: Iterable[str], owner: str, given: dict[str, object]) -> None:
    """Raise if an argument was given that contradicts a loader.

    Args:
        loaders: The names of the arguments that are loaders.
        owner: The function, for the message.
        given: Values of the arguments by name; None, False and 0 are not given.

    Raises:
        TrainingError: An argument was given beside a loader.
    """
    for loader in loaders:
        for name, value in given.items():
            if value:
                raise TrainingError(
                    f"{owner}: {name}={value} contradicts {loader}, a DataLoader, which is iterated as it is",
                    fix=f"leave {name} out, or pass {loader}=loader.dataset",
                )


def check_loaders(train: Data, val: Data | None, processes: int, workers: int, **given: object) -> None:
    """Raise if arguments of `fit` contradict a loader, which one process iterates as it is.

    Args:
        train: The argument `train`.
        val: The argument `val`.
        processes: Number of processes.
        workers: Number of `DataLoader` workers, for the data that is not a loader.
        given: The arguments by name that say how `train` is divided into batches.

    Raises:
        TrainingError: An argument contradicts a loader, or there are several processes.
    """
    loaders = [name for name, data in (("train", train), ("val", val)) if isinstance(data, DataLoader)]
    refuse_beside([name for name in loaders if name == "train"], "fit", given)
    if len(loaders) == (1 if val is None else 2):
        refuse_beside(loaders, "fit", {"workers": workers})
    if loaders and processes > 1:
        raise TrainingError(
            f"fit: {loaders[0]}: a DataLoader is not split over {processes} processes",
            fix=f"pass the data set, {loaders[0]}=loader.dataset, and batch_size=",
        )


def steps_of(loader: Loader) -> tuple[list[MicroBatches], Iterator[object]]:
    """Return the steps of an epoch over a loader, and its batches.

    Args:
        loader: A loader that knows its length.
    """
    count = len(loader)
    return [(WHOLE,)] * count, _iterated(loader, count)


def in_order(
    data: Data, size: int, argument: str, *, workers: int = 0, processes: int = 1, process: int = 0
) -> tuple[Iterable[object], Iterable[MicroBatch]]:
    """Return one process's batches for an evaluation, and the micro-batch that each is.

    Args:
        data: The data; a loader is iterated as it is, by one process.
        size: Samples per batch and process.
        argument: Where the data was passed, for messages.
        workers: Number of `DataLoader` workers.
        processes: Number of processes.
        process: Index of this process.
    """
    if isinstance(data, DataLoader):
        return data, itertools.repeat(WHOLE)
    steps = deal(range(size_of(data)), size * processes, processes=processes, process=process)
    return load(data, steps, workers, 0, argument), [part for step in steps for part in step]


def first_batch(data: Data, argument: str) -> object:
    """Return a batch of the first samples of a data set, or the first batch of a loader; None if it has none.

    Args:
        data: The data.
        argument: Where the data was passed, for messages.
    """
    if not isinstance(data, DataLoader):
        [[part]] = deal(range(size_of(data))[: len(FIRST)], len(FIRST))
        return next(load(data, [(part,)], 0, 0, argument))
    state = None if data.generator is None else data.generator.get_state()
    batch = next(iter(data), None)
    if state is not None:
        data.generator.set_state(state)
    return batch


def _iterated(loader: Loader, count: int) -> Iterator[object]:
    done = 0
    for batch in loader:
        yield batch
        done += 1
    if done < count:
        raise TrainingError(
            f"fit: train: the DataLoader ended after {done} of {count} batches",
            cause="the __len__ of its data set or sampler is wrong",
            fix="correct this __len__",
        )
