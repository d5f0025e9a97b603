"""Data in three parts."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import ConcatDataset

from ...common.checks import whole_number
from ...errors import DataError
from ..training import Samples

SPLITS = ("train", "val", "test")


class Joined(ConcatDataset[Any]):
    """Parts one after the other; a batch is fetched from each part at once."""

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Return several samples at once, which `DataLoader` asks for."""
        places: dict[int, list[int]] = defaultdict(list)
        for place, index in enumerate(indices):
            places[bisect.bisect_right(self.cumulative_sizes, index)].append(place)
        found: list[Any] = [None] * len(indices)
        for part, wanted in places.items():
            before = self.cumulative_sizes[part - 1] if part else 0
            samples = fetch(self.datasets[part], [indices[place] - before for place in wanted])
            for place, sample in zip(wanted, samples, strict=True):
                found[place] = sample
        return found


@dataclasses.dataclass(frozen=True)
class Splits:
    """Data in three parts: to train on, to choose by, to report on.

    Args:
        name: What it is called in results.
        train: Samples to train on.
        val: Samples that choose epochs; the only ones that choose anything.
        test: Samples whose accuracy is reported.
        classes: How many classes there are.
        held_out: Whether `val` is a part of the samples that there are to train on, held out to choose by.
    """

    name: str
    train: Samples
    val: Samples
    test: Samples
    classes: int
    held_out: bool = True

    @property
    def sizes(self) -> dict[str, int]:
        """The number of samples in each part."""
        return {split: len(getattr(self, split)) for split in SPLITS}

    @property
    def final(self) -> Samples:
        """What the final run trains on once everything is chosen: `train`, then what of it was held out."""
        return Joined([self.train, self.val]) if self.held_out else self.train


def fetch(samples: Samples, indices: list[int]) -> list[Any]:
    """Return several samples, at once where the data can."""
    batched = getattr(samples, "__getitems__", None)
    found: list[Any] = batched(indices) if batched else [samples[index] for index in indices]
    return found


def check_classes(classes: int | None) -> None:
    """Refuse a number of classes that is none; None leaves it to the data.

    Raises:
        DataError: Neither None nor an integer of at least 1.
    """
    if classes is not None:
        whole_number(classes, "classes", DataError, expected="an int of at least 1, or None", example=10)


def cut(count: int, sizes: Sequence[int | None], *, seed: int, what: str, rest: bool = True) -> list[list[int]]:
    """Draw disjoint parts of `count` samples, in an order that is shuffled once.

    Args:
        count: How many samples there are.
        sizes: How many go into each part; None, for one of them, takes what is left.
        seed: Seed of the order.
        what: What is cut, for messages.
        rest: Whether a size may be None.

    Returns:
        The indices of each part.

    Raises:
        DataError: A size below 1, more than there are, or None where it may not be or twice.
    """
    given = [size for size in sizes if size is not None]
    left = len(sizes) - len(given)
    wrong = any(type(size) is not int or size < 1 for size in given)
    if wrong or left > rest or sum(given) + left > count:
        if left and rest:
            expected = f"one None at most, the others ints of at least 1, together below {count}"
        else:
            expected = f"ints of at least 1, together at most {count}"
        raise DataError(f"{what}: the sizes of its parts", expected=expected, got=" + ".join(map(repr, sizes)))
    order: list[int] = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    ends = list(itertools.accumulate(count - sum(given) if size is None else size for size in sizes))
    return [order[start:end] for start, end in itertools.pairwise([0, *ends])]
