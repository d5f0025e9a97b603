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
from torch.utils.data import DataLoader

from tensorfact.errors import DataError
from tensorfact.lab import arrays, digits, few_shot, nano, sprites, timm_dataset
from tensorfact.lab.data.splits import Joined, cut


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
