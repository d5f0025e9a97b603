"""Split every batch over processes and micro-batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch.utils.data import DataLoader, RandomSampler, default_collate

from ...errors import TrainingError
from .schedule import Samples


@dataclasses.dataclass(frozen=True)
class MicroBatch:
    """The samples that one process computes at a time.

    Args:
        indices: Indices of the samples, at least one: a process left without samples gets one with weight 0. Empty
            for a batch of a user's loader.
        weight: Fraction of the batch's samples in this micro-batch.
    """

    indices: Sequence[int]
    weight: float


@dataclasses.dataclass(frozen=True)
class BatchOrigin:
    """Where a batch comes from, for messages.

    Args:
        argument: The function and its argument, as in `fit: train`.
        indices: Indices of the batch's samples, if they are known.
    """

    argument: str
    indices: Sequence[int] = ()

    def __str__(self) -> str:
        return self.argument

    def sample(self, position: int) -> str:
        """Return the name of one sample of the batch.

        Args:
            position: Its position in the batch.
        """
        known = position < len(self.indices)
        return f"{self}, sample {self.indices[position]}" if known else f"{self}, sample {position} of a batch"


MicroBatches = tuple[MicroBatch, ...]
"""The micro-batches of one batch in one process."""


def shuffled(count: int) -> list[int]:
    """Return the indices 0 to count - 1 in the order of a shuffling `DataLoader`, from torch's random state."""
    torch.empty((), dtype=torch.int64).random_()  # a shuffling DataLoader draws a seed for its workers first
    return list(RandomSampler(range(count)))


def deal(
    order: Sequence[int], size: int, *, processes: int = 1, process: int = 0, parts: int = 1, drop_last: bool = False
) -> list[MicroBatches]:
    """Split samples into batches and every batch into micro-batches of nearly equal size; return one process's share.

    All processes have the same number of steps, and of micro-batches in a step. Together their micro-batches are the
    batch.

    Args:
        order: Sample indices, in the order in which they are used.
        size: Batch size, over all processes.
        processes: Number of processes.
        process: Index of this process.
        parts: Number of micro-batches per process and batch; fewer if the batch is too small.
        drop_last: Leave out an incomplete last batch.

    Examples:
        >>> for step in deal("abcde", 3, processes=2, process=1):
        ...     print(step)
        (MicroBatch(indices=['c'], weight=0.3333333333333333),)
        (MicroBatch(indices=['e'], weight=0.5),)
    """
    stop = len(order) - len(order) % size if drop_last else len(order)
    return [_step(order[start : min(start + size, stop)], processes, process, parts) for start in range(0, stop, size)]


def _step(batch: Sequence[int], processes: int, process: int, parts: int) -> MicroBatches:
    count, pieces = len(batch), min(parts, -(-len(batch) // processes)) * processes
    bounds = [-(-count * piece // pieces) for piece in range(pieces + 1)]
    mine = ((bounds[at], bounds[at + 1]) for at in range(process, pieces, processes))
    return tuple(MicroBatch(list(batch[start:stop] or batch[:1]), (stop - start) / count) for start, stop in mine)


def load(data: Samples, steps: Sequence[MicroBatches], workers: int, seed: int, argument: str) -> Iterator[object]:
    """Yield one micro-batch after the other: inputs and class indices.

    Args:
        data: Samples (input, class index).
        steps: The micro-batches of every step, from `deal`.
        workers: Number of `DataLoader` workers; 0 loads in this process.
        seed: Seed of the workers.
        argument: Where the data was passed, for messages.

    Raises:
        TrainingError: Samples of one batch differ in shape, or are not tensors or numbers.
    """
    indices = [list(part.indices) for step in steps for part in step]
    generator = torch.Generator().manual_seed(seed)
    loader = DataLoader(data, batch_sampler=indices, num_workers=workers, generator=generator, collate_fn=_collated)
    for these, batch in zip(indices, loader, strict=True):
        if isinstance(batch, _Uneven):
            raise batch.error(BatchOrigin(argument, these))
        yield batch


@dataclasses.dataclass(frozen=True)
class _Uneven:
    """Samples that do not form a batch; returned instead of raised, since workers add a traceback to a message."""

    forms: tuple[str, ...]

    def error(self, origin: BatchOrigin) -> TrainingError:
        first = self.forms[0]
        odd = next((at for at, form in enumerate(self.forms) if form != first), None)
        if odd is None:
            return TrainingError(
                f"{origin.sample(0)} does not form a batch",
                expected="tensors, arrays and numbers",
                got=first,
                fix="return tensors, with a transform such as torchvision.transforms.ToTensor()",
            )
        return TrainingError(
            f"{origin.sample(odd)} has another form than {origin.sample(0).removeprefix(f'{origin}, ')}",
            expected=first,
            got=self.forms[odd],
            cause="samples of different sizes",
            fix="resize or pad the samples in the data set, or pass a DataLoader with a collate_fn",
        )


def _collated(samples: list[object]) -> object:
    """Collate samples as torch does."""
    try:
        return default_collate(samples)
    except Exception:  # torch raises errors of many classes for samples that differ
        return _Uneven(tuple(_form(sample)[:200] for sample in samples))


def _form(sample: object) -> str:
    """Return the types and shapes in a sample."""
    if isinstance(sample, Mapping):
        return f"{{{', '.join(f'{key}: {_form(value)}' for key, value in sample.items())}}}"
    if isinstance(sample, (tuple, list)):
        return f"({', '.join(map(_form, sample))})"
    shape = getattr(sample, "shape", None)  # of a tensor or an array
    return type(sample).__name__ + (f" {tuple(shape)}" if isinstance(shape, tuple) else "")
