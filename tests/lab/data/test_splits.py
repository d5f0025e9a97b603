"""Splits are disjoint and have the requested sizes and classes."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from tensorfact.errors import DataError
from tensorfact.lab import Splits, arrays, digits, few_shot, nano, sprites, timm_dataset
from tensorfact.lab.data.splits import Joined, check_fractions, cut, stratify
from tests.helpers import refused


@pytest.mark.parametrize("none", [None, 0, 1, 2])
def test_parts_are_disjoint_and_one_may_be_what_is_left(none: int | None) -> None:
    parts = cut(12, [None if at == none else size for at, size in enumerate((3, 4, 5))], seed=0, what="these")
    assert [len(part) for part in parts] == [3, 4, 5]
    assert sorted(itertools.chain(*parts)) == list(range(12))


def test_sizes_are_none_only_where_that_means_what_is_left() -> None:
    images, labels, model = np.zeros((30, 8, 8)), np.arange(30), nano()
    assert arrays(images, labels, model, train=None, val=5, test=7).sizes == {"train": 18, "val": 5, "test": 7}
    calls: list[Callable[..., Any]] = [
        functools.partial(arrays, images, labels, model, val=5),
        functools.partial(digits, model),
        functools.partial(sprites, "location", model),
    ]
    for call in calls:
        with pytest.raises(DataError, match=r"splits: expected .*ints of at least 1"):
            call(train=None)


def test_the_final_run_trains_on_train_then_val_and_fetches_batches() -> None:
    data = digits(nano(), train=8, val=4)
    assert isinstance(data.final, Joined)
    x, y = next(iter(DataLoader(data.final, 12)))
    parts = [next(iter(DataLoader(part, 12))) for part in (data.train, data.val)]
    assert torch.equal(x, torch.cat([part[0] for part in parts]))
    assert torch.equal(y, torch.cat([part[1] for part in parts]))
    some = data.final.__getitems__([9, 0, 7, 8])
    assert [int(label) for _, label in some] == [int(data.final[at][1]) for at in (9, 0, 7, 8)]


@pytest.mark.parametrize("classes", [0, -1, True, 4.0])
def test_a_number_of_classes_is_one(classes: Any, tmp_path: Path) -> None:
    for call in (
        functools.partial(arrays, np.zeros((4, 8, 8)), np.zeros(4, int), nano()),
        functools.partial(few_shot, tmp_path, nano(), shots=1, seed=0),
        functools.partial(timm_dataset, str(tmp_path), nano()),
    ):
        with pytest.raises(DataError, match="classes: expected an int of at least 1"):
            call(classes=classes)


SHARES = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(0, 9)).map(
    lambda parts: tuple(part / sum(parts) for part in parts)
)


@given(st.dictionaries(st.sampled_from("abc"), st.integers(1, 40), min_size=1), SHARES, st.integers(0, 9))
def test_every_class_is_split_alike_and_train_has_all(
    counts: dict[str, int], fractions: tuple[float, ...], seed: int
) -> None:
    labels = [label for label, count in counts.items() for _ in range(count)]
    found = stratify(labels, fractions, seed=seed)
    assert found == stratify(labels, fractions, seed=seed)
    for label, count in counts.items():
        own = [split for split, its in zip(found, labels, strict=True) if its == label]
        sizes = [own.count(split) for split in ("train", "val", "test")]
        assert sum(sizes) == count
        assert sizes[0] >= 1
        wanted = [fraction * count for fraction in fractions]
        assert all(abs(size - share) <= 1.5 + 1e-6 for size, share in zip(sizes, wanted, strict=True))
        assert all(size <= share + 0.5 + 1e-6 for size, share in zip(sizes[1:], wanted[1:], strict=True))
        if fractions[2] == 0:
            assert sizes[2] == 0


@pytest.mark.parametrize(
    ("count", "fractions", "sizes"),
    [
        (1, (0.7, 0.15, 0.15), (1, 0, 0)),
        (1, (0.2, 0.8, 0), (1, 0, 0)),
        (2, (0.5, 0.25, 0.25), (1, 1, 0)),
        (2, (0.2, 0.3, 0.5), (1, 1, 0)),
        (3, (0.7, 0.15, 0.15), (3, 0, 0)),
        (4, (0.7, 0.15, 0.15), (2, 1, 1)),
        (10, (0.7, 0.15, 0.15), (6, 2, 2)),
        (100, (0.7, 0.15, 0.15), (70, 15, 15)),
    ],
)
def test_small_classes_are_rounded_as_stated(
    count: int, fractions: tuple[float, float, float], sizes: tuple[int, int, int]
) -> None:
    found = stratify(["a"] * count, fractions, seed=0)
    assert tuple(map(found.count, ("train", "val", "test"))) == sizes


@pytest.mark.parametrize(
    "wrong",
    [
        *((0.7, 0.3), (0.5, 0.3, 0.3), (1, 0, 0), (0, 0.5, 0.5), (1.2, -0.1, -0.1), "abc", None, 5, (True, 0, 0)),
        (float("nan"), 0.5, 0.5),
        ((0.5,), 0.3, 0.2),
    ],
)
def test_fractions_are_three_numbers_with_the_sum_one(wrong: Any) -> None:
    with refused(DataError, "these: expected three numbers", "fractions=(0.7, 0.15, 0.15)"):
        check_fractions(wrong, "these")
    assert check_fractions(torch.tensor([0.5, 0.25, 0.25]), "these") == (0.5, 0.25, 0.25)  # type: ignore[arg-type]
    assert check_fractions(np.array([0.8, 0.2, 0]), "these") == (0.8, 0.2, 0.0)  # type: ignore[arg-type]


def test_class_names_are_one_for_each_class() -> None:
    data = digits(nano(), train=8, val=4)
    assert data.class_names == tuple("0123456789")
    assert arrays(np.zeros((4, 8, 8)), np.arange(4), nano(), train=1, val=1).class_names == ()
    for names, words in (
        (("a", "b"), "one name for each of 3 classes, got 2 names"),
        ("abc", "a list of names"),
        ((0, 1, 2), "a list of names"),
        (("a", "b", "a"), "'a' names two classes"),
    ):
        with refused(DataError, "Splits: class_names", words):
            Splits("data", data.train, data.val, data.test, 3, class_names=names)  # type: ignore[arg-type]


def test_what_needs_test_samples_says_how_to_get_them() -> None:
    data = digits(nano(), train=8, val=4)
    data.require_test("compare")
    empty = Splits("photos", data.train, data.val, [], 10)  # type: ignore[arg-type]
    assert empty.sizes["test"] == 0
    with refused(DataError, "compare needs test samples, and photos has none", "folder test", "fractions="):
        empty.require_test("compare")
