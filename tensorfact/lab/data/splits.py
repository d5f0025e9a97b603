"""Training, validation and test splits."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch.utils.data import ConcatDataset, Dataset

from ...common.checks import flag, whole_number
from ...errors import DataError
from ..training import Samples

T = TypeVar("T")

SPLITS = ("train", "val", "test")


class Joined(ConcatDataset[T]):
    """Concatenated data sets; a batch takes one call per data set."""

    def __getitems__(self, indices: Sequence[int]) -> list[T]:
        """Return several samples at once; `DataLoader` calls this."""
        places: dict[int, list[int]] = defaultdict(list)
        for place, index in enumerate(indices):
            places[bisect.bisect_right(self.cumulative_sizes, index)].append(place)
        found: dict[int, T] = {}
        for part, wanted in places.items():
            before = self.cumulative_sizes[part - 1] if part else 0
            samples = fetch(self.datasets[part], [indices[place] - before for place in wanted])
            found.update(zip(wanted, samples, strict=True))
        return [found[place] for place in range(len(indices))]


@dataclasses.dataclass(frozen=True)
class Splits:
    """Training, validation and test samples of one data set.

    Args:
        name: Name of the data in results.
        train: Training samples.
        val: Validation samples: the only ones that epochs and options are selected by.
        test: Test samples, whose accuracy is reported.
        classes: Number of classes.
        held_out: Whether `val` was held out of the training samples, so that a final run may train on it too.
    """

    name: str
    train: Samples
    val: Samples
    test: Samples
    classes: int
    held_out: bool = True

    def __post_init__(self) -> None:
        flag(self.held_out, "Splits: held_out", DataError)

    @property
    def sizes(self) -> dict[str, int]:
        """Number of samples in each split."""
        return {split: len(getattr(self, split)) for split in SPLITS}

    @property
    def final(self) -> Samples:
        """Training samples of the final run: `train`, followed by `val` if it was held out."""
        return Joined([self.train, self.val]) if self.held_out else self.train


def fetch(samples: Dataset[T], indices: list[int]) -> list[T]:
    """Return several samples, in one call if the data set supports it."""
    batched = getattr(samples, "__getitems__", None)
    found: list[T] = batched(indices) if batched else [samples[index] for index in indices]
    return found


def check_classes(classes: int | None) -> None:
    """Raise unless a number of classes is None (take it from the data) or an int of at least 1.

    Raises:
        DataError: `classes` is neither.
    """
    if classes is not None:
        whole_number(classes, "classes", DataError, expected="an int of at least 1, or None", example=10)


def cut(count: int, sizes: Sequence[int | None], *, seed: int, what: str, rest: bool = True) -> list[list[int]]:
    """Split `count` samples, shuffled once, into disjoint parts.

    Args:
        count: Number of samples.
        sizes: Size of each part; one of them may be None, which takes all that remain.
        seed: Seed of the shuffle.
        what: Name of the data, for messages.
        rest: Whether a size may be None.

    Returns:
        The indices of each part.

    Raises:
        DataError: A size is below 1, the sizes exceed `count`, or None is given twice or not allowed.
    """
    seed = whole_number(seed, f"{what}: seed", DataError, least=0)
    left = [*sizes].count(None)
    meant = f"at most one None, and ints of at least 1 with a sum below {count}"
    if not left or not rest:
        meant = f"ints of at least 1 with a sum of at most {count}"
    refused = DataError(f"{what}: sizes of the splits", expected=meant, got=" + ".join(map(repr, sizes)))
    try:
        given = [None if size is None else whole_number(size, what, DataError) for size in sizes]
    except DataError:
        raise refused from None
    total = sum(size for size in given if size is not None)
    if left > (1 if rest else 0) or total + left > count:
        raise refused
    order: list[int] = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    ends = list(itertools.accumulate(count - total if size is None else size for size in given))
    return [order[start:end] for start, end in itertools.pairwise([0, *ends])]
