"""Split every batch over processes and micro-batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import torch
from torch.utils.data import DataLoader, RandomSampler

from .schedule import Samples


@dataclasses.dataclass(frozen=True)
class MicroBatch:
    """The samples that one process computes at a time.

    Args:
        indices: Indices of the samples, at least one: a process left without samples gets one with weight 0.
        weight: Fraction of the batch's samples in this micro-batch.
    """

    indices: list[int]
    weight: float


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


def load(data: Samples, steps: Iterable[MicroBatches], workers: int, seed: int) -> Iterable[object]:
    """Return a loader that yields one micro-batch after the other: inputs and class indices.

    Args:
        data: Samples (input, class index).
        steps: The micro-batches of every step, from `deal`.
        workers: Number of `DataLoader` workers; 0 loads in this process.
        seed: Seed of the workers.
    """
    indices = [part.indices for step in steps for part in step]
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(data, batch_sampler=indices, num_workers=workers, generator=generator)
