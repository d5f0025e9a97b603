"""How the samples of a step are dealt to processes and to the parts that one process computes one after the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler

from .schedule import Samples


@dataclasses.dataclass(frozen=True)
class MicroBatch:
    """What one process computes at a time.

    Args:
        indices: Its samples, never none: a process without samples takes one of the batch, at weight zero.
        weight: Its share of the batch's samples.
    """

    indices: list[int]
    weight: float


MicroBatches = tuple[MicroBatch, ...]
"""The parts of one batch that one process computes."""


def shuffled(count: int) -> list[int]:
    """Return the samples in an order that torch's random state tells."""
    torch.empty((), dtype=torch.int64).random_()  # a shuffling DataLoader draws a seed for its workers first
    return list(RandomSampler(range(count)))


def deal(
    order: Sequence[int], size: int, *, processes: int = 1, process: int = 0, parts: int = 1, drop_last: bool = False
) -> list[MicroBatches]:
    """Cut samples into batches and every batch into pieces, as equal as can be; return one process's.

    All processes have the same number of steps, and of parts in a step. The pieces of all processes are the batch.

    Args:
        order: The samples, in the order in which they are taken.
        size: Samples a batch.
        processes: How many processes there are.
        process: Which of them this is.
        parts: In how many parts every process computes a batch.
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


def load(data: Samples, steps: Iterable[MicroBatches], workers: int, seed: int) -> Iterable[tuple[Tensor, Tensor]]:
    """Return what reads the samples of every part, one part after the other.

    Args:
        data: Samples (input, class index).
        steps: The parts.
        workers: Processes that read ahead; 0 reads in this one.
        seed: What they draw from.
    """
    indices = [part.indices for step in steps for part in step]
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(data, batch_sampler=indices, num_workers=workers, generator=generator)
