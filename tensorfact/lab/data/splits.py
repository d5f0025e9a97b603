"""Training, validation and test splits."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset

from ...common.checks import duplicate, finite_number, flag, quoted, whole_number
from ...errors import DataError, nearest
from ..training import Samples

T = TypeVar("T")

SPLITS = ("train", "val", "test")
VALIDATION = ("validation", "val", "valid")
"""Usual names of a validation split."""
SPELLINGS = {**{split: split for split in SPLITS}, **dict.fromkeys(VALIDATION, "val")}
"""The split that a name means."""

Fractions = Sequence[float]
"""Fractions of the samples that train, val and test get."""
FRACTIONS = (0.7, 0.15, 0.15)
"""Fractions of train, val and test by default."""


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
        test: Test samples, whose accuracy is reported; may be empty.
        classes: Number of classes.
        held_out: Whether `val` was held out of the training samples, so that a final run may train on it too.
        class_names: Name of every class, by class index; empty if the data does not say.

    Raises:
        DataError: `class_names` does not have one name per class, or names a class twice.
    """

    name: str
    train: Samples
    val: Samples
    test: Samples
    classes: int
    held_out: bool = True
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        flag(self.held_out, "Splits: held_out", DataError)
        names = check_names(self.class_names, "Splits: class_names")
        if names and len(names) != self.classes:
            raise DataError(
                "Splits: class_names",
                expected=f"one name for each of {self.classes} classes",
                got=f"{len(names)} names",
                fix="pass a name for every class, or class_names=()",
            )
        object.__setattr__(self, "class_names", names)

    @property
    def sizes(self) -> dict[str, int]:
        """Number of samples in each split."""
        return {split: len(getattr(self, split)) for split in SPLITS}

    @property
    def final(self) -> Samples:
        """Training samples of the final run: `train`, followed by `val` if it was held out."""
        return Joined([self.train, self.val]) if self.held_out else self.train

    def require_test(self, what: str) -> None:
        """Raise if there are no test samples.

        Args:
            what: What needs them, for the message.

        Raises:
            DataError: The test split is empty.
        """
        if not len(self.test):  # type: ignore[arg-type]
            raise DataError(
                f"{what} needs test samples, and {self.name} has none",
                cause="folders train and val without test, fractions that end in 0, or few images of every class",
                fix="add a folder test beside train and val, or leave the split to fractions=(0.7, 0.15, 0.15)",
            )


class Renumbered(Dataset[tuple[Tensor, int]]):
    """Samples with other class indices.

    Args:
        samples: The samples (input, class index).
        indices: The new index of every class.
    """

    def __init__(self, samples: Samples, indices: Sequence[int]) -> None:
        self.samples, self.indices = samples, tuple(indices)

    def __len__(self) -> int:
        return len(self.samples)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        x, label = self.samples[index]
        return x, self.indices[int(label)]


def renumbered(samples: Samples, own: Sequence[str], classes: Sequence[str]) -> Samples:
    """Return samples whose classes are numbered as those of a model.

    Args:
        samples: The samples.
        own: The names of their classes, by index.
        classes: The names of the model's classes, by index; where one of the two is empty, the numbers stay.

    Raises:
        DataError: A class is not one of the model's.
    """
    if not own or not classes or tuple(own) == tuple(classes):
        return samples
    require_known(own, classes)
    return Renumbered(samples, [list(classes).index(name) for name in own])


def require_known(own: Sequence[str], classes: Sequence[str]) -> None:
    """Raise if classes of the data are none of a model's.

    Args:
        own: The names of the classes of the data.
        classes: The names of the model's classes.

    Raises:
        DataError: A class is not one of the model's; the message names all of them.
    """
    if unknown := [name for name in own if name not in classes]:
        if len(unknown) == len(own) > 1:
            raise DataError(
                "none of the classes of the data are classes of the model",
                expected=f"some of {', '.join(map(repr, classes[:20]))}",
                got=", ".join(map(repr, own[:20])),
                cause="other data than the model was trained on",
                fix="give images whose classes are named as those of the model",
            )
        several = len(unknown) > 1
        raise DataError(
            f"the class{'es' * several} {', '.join(map(repr, unknown[:20]))} {'are' if several else 'is'} none of the "
            "model's",
            expected=f"some of {', '.join(map(repr, classes[:20]))}",
            got=f"{unknown[0]!r}{nearest(unknown[0], classes)}",
            fix=f"rename or remove {'them' if several else 'the class'}",
        )


def check_names(names: object, what: str) -> tuple[str, ...]:
    """Check the names of classes, and return them as a tuple.

    Args:
        names: A sequence of different texts.
        what: Where they were passed, for messages.

    Raises:
        DataError: They are something else.
    """
    found = tuple(names) if isinstance(names, Sequence) and not isinstance(names, str) else None
    if found is None or not all(isinstance(name, str) for name in found):
        raise DataError(
            what, expected="a list of names", got=quoted(names), fix=f"{what.rpartition(' ')[2]}=('cat', 'dog')"
        )
    if (twice := duplicate(found)) is not None:
        raise DataError(f"{what}: {twice!r} names two classes", fix="give every class its own name")
    return found


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


def check_fractions(fractions: Fractions, what: str) -> tuple[float, float, float]:
    """Check the fractions of train, val and test, and return them as floats.

    Args:
        fractions: Three numbers that add up to 1; train and val above 0, test at least 0.
        what: Where they were passed, for messages.

    Raises:
        DataError: They are something else.
    """
    try:
        train, val, test = (finite_number(each, what, DataError, fits=lambda number: number >= 0) for each in fractions)
    except (DataError, TypeError, ValueError):
        train = val = test = 0.0
    if not (train > 0 and val > 0 and abs(train + val + test - 1) < 1e-6):
        raise DataError(
            what,
            expected="three numbers for train, val and test with the sum 1; train and val above 0, test at least 0",
            got=quoted(fractions),
            fix=f"fractions={FRACTIONS}, or fractions=(0.8, 0.2, 0) for no test split",
        )
    return train, val, test


def stratify(labels: Sequence[str], fractions: Fractions, *, seed: int) -> list[str]:
    """Split samples so that every class is divided in the same way.

    Of a class of n samples, val and test get their fraction of n, rounded to the nearest integer and up at a half, and
    train gets the rest. If nothing is left for train, val or test gives up one sample: the larger of the two, test if
    they are equal. So train has every class, and a class of one sample is in train.

    Args:
        labels: Class of every sample.
        fractions: Fractions of train, val and test; see `check_fractions`.
        seed: Seed of the selection, which also depends on the order of the samples.

    Returns:
        The split of every sample.

    Examples:
        >>> stratify(["a"] * 4 + ["b"], (0.5, 0.25, 0.25), seed=0)
        ['val', 'test', 'train', 'train', 'train']
    """
    generator = torch.Generator().manual_seed(seed)
    places: dict[str, list[int]] = defaultdict(list)
    for place, label in enumerate(labels):
        places[label].append(place)
    found = ["train"] * len(labels)
    for label in sorted(places):
        mine = places[label]
        val, test = (math.floor(len(mine) * fraction + 0.5 + 1e-9) for fraction in fractions[1:])
        while val + test >= len(mine):
            val, test = (val - 1, test) if val > test else (val, test - 1)
        order = torch.randperm(len(mine), generator=generator).tolist()
        for at, split in zip(order, ["val"] * val + ["test"] * test, strict=False):
            found[mine[at]] = split
    return found
