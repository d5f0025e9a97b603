"""Data sets of timm and of Hugging Face, made by the tests; nothing is downloaded."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tensorfact.errors import DataError
from tensorfact.lab import hugging_face, nano, open_task, timm_dataset
from tests.helpers import samples_of
from tests.lab.data.making import picture, table

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def folders(root: Path, **parts: int) -> Path:
    first = 0
    for part, count in parts.items():
        for at in range(count):
            path = root / part / "ab"[at % 2] / f"{at}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(first + at).save(path)
        first += count
    return root


# --------------------------------------------------------------------------------------------------------- Hugging Face


def test_a_dict_has_its_own_parts() -> None:
    data = datasets.DatasetDict(train=table(6), validation=table(4, first=6), test=table(5, first=10))
    splits = hugging_face(data, nano())
    assert (splits.sizes, splits.classes) == ({"train": 6, "val": 4, "test": 5}, 4)
    assert splits.class_names == ("a", "b", "c", "d")
    assert (splits.val[3][0].shape, splits.val[3][1]) == ((1, 28, 28), 0)
    assert len(hugging_face(data, nano(), train=2).train) == 2  # type: ignore[arg-type]


def test_parts_that_are_not_there_are_held_out_of_train_by_a_seed() -> None:
    first, again, other = (hugging_face(table(12), nano(), val=3, test=4, seed=seed) for seed in (0, 0, 1))
    assert first.sizes == {"train": 5, "val": 3, "test": 4}
    places = [[part.indices for part in (s.train, s.val, s.test)] for s in (first, again, other)]  # type: ignore[attr-defined]
    assert sorted(itertools.chain(*places[0])) == list(range(12))
    assert places[0] == places[1] != places[2]
    with pytest.raises(DataError, match=r"no test split.*test=200"):
        hugging_face(table(12), nano(), val=3)
    with pytest.raises(DataError, match="below 12"):
        hugging_face(table(12), nano(), val=3, test=9)


@pytest.mark.parametrize("mode", ["P", "L", "RGBA", "CMYK"])
def test_saved_data_in_any_mode_is_read_from_disk(mode: str, tmp_path: Path) -> None:
    if mode == "CMYK":  # PNG has none, and from_dict writes PNG
        (tmp_path / "files").mkdir()
        names = [str(tmp_path / "files" / f"{at}.jpg") for at in range(9)]
        for at, name in enumerate(names):
            picture(at, mode).save(name)
        made = datasets.Dataset.from_dict({"image": names, "label": [0, 1, 2] * 3})
    else:
        made = table(9, mode=mode)
    made.save_to_disk(str(tmp_path / "saved"))
    splits = hugging_face(tmp_path / "saved", nano(), val=2, test=2)
    assert splits.sizes == {"train": 5, "val": 2, "test": 2}
    assert {x.shape for x, _ in samples_of(splits.train)} == {(1, 28, 28)}


def test_a_folder_of_images_is_loaded_offline(tmp_path: Path) -> None:
    root = folders(tmp_path / "images", train=6, validation=4, test=4)
    splits = hugging_face(root, nano(), root=tmp_path / "cache")
    assert (splits.sizes, splits.classes) == ({"train": 6, "val": 4, "test": 4}, 2)


def test_labels_may_be_words_of_the_part_to_train_on() -> None:
    words = table(6).remove_columns("label").add_column("kind", ["dog", "cat", "owl"] * 2)
    splits = hugging_face(words, nano(), label="kind", val=1, test=1)
    assert (splits.classes, splits.class_names) == (3, ("cat", "dog", "owl"))
    other = words.remove_columns("kind").add_column("kind", ["fox"] * 6)
    with pytest.raises(DataError, match=r"test, sample 0 has no label.*'fox'"):
        hugging_face(datasets.DatasetDict(train=words, test=other), nano(), label="kind", val=1)


def test_what_is_wrong_with_a_data_set_is_named(tmp_path: Path) -> None:
    data = datasets.DatasetDict(train=table(6), test=table(6))
    unlabelled = (
        table(6).cast_column("label", datasets.Value("int64")).remove_columns("label").add_column("label", [-1] * 6)
    )
    model = nano()
    for made, arguments, words in (
        (data, {"image": "img"}, "no column 'img'.*image="),
        (data, {"val_split": "tset"}, "did you mean 'test'"),
        (datasets.DatasetDict(train=table(6), test=unlabelled), {}, "test, sample 0 has no label"),
        (data, {"image": "label", "label": "image"}, "does not hold images|has no label"),
        (3, {}, "a DatasetDict"),
        (tmp_path / "nothing", {}, "cannot load"),
        (table(4).remove_columns("label").add_column("label", ["a", None] * 2), {}, "train, sample 1 has no label"),
        (table(4).remove_columns("label").add_column("label", [[1], [2]] * 2), {}, "train, sample 0 has no label"),
    ):
        with pytest.raises(DataError, match=words):
            hugging_face(made, model, **{"val": 2, **arguments})  # type: ignore[arg-type]


def test_parts_of_the_same_samples_are_refused() -> None:
    one, other = table(6), table(5, first=6)
    data = datasets.DatasetDict(train=one, validation=other, test=one)
    for made, arguments in (
        (datasets.DatasetDict(train=one, test=other), {"val_split": "train"}),
        (datasets.DatasetDict(train=one, test=other), {"val_split": "test"}),
        (data, {}),
        (data, {"check": False}),
    ):
        with pytest.raises(DataError, match=r"the splits '(train|test)' and '(train|test)' share samples"):
            hugging_face(made, nano(), **arguments)


def test_class_names_that_differ_between_parts_are_refused() -> None:
    for names in (["a", "b", "d", "c"], ["a", "b", "c"]):
        other = table(4, first=6).cast_column("label", datasets.Value("int64"))
        other = other.cast_column("label", datasets.ClassLabel(names=names))
        with pytest.raises(DataError, match="test has other classes than train"):
            hugging_face(datasets.DatasetDict(train=table(6), test=other), nano(), val=2)


def test_an_image_that_is_none_is_named() -> None:
    made = datasets.Dataset.from_dict(
        {"image": [picture(0), None, picture(1), picture(2)], "label": [0] * 4},
        features=datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")}),
    )
    with pytest.raises(DataError, match="train, sample 1 has no image"):
        hugging_face(made, nano(), val=1, test=1)


def test_a_damaged_image_is_named_when_it_is_checked_or_read() -> None:
    rows = [{"bytes": b"damaged", "path": None}] * 6
    made = datasets.Dataset.from_dict(
        {"image": rows, "label": [0] * 6},
        features=datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")}),
    )
    with pytest.raises(DataError, match="train, sample 0 is not a readable image"):
        hugging_face(made, nano(), val=1, test=1)
    with pytest.raises(DataError, match="is not a readable image"):
        hugging_face(made, nano(), val=1, test=1, check=False).val[0]


def test_without_the_package_the_fix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'tensorfact\[train\]'"):
        hugging_face("mnist", nano())


# ----------------------------------------------------------------------------------------------------------------- timm


def test_a_folder_by_timm_with_or_without_a_part_to_choose_by(tmp_path: Path) -> None:
    root = folders(tmp_path / "pets", train=8, val=4, test=6)
    own = timm_dataset(str(root), nano(), val_split="val")
    torchs = timm_dataset("torch/image_folder", nano(), root=root, val_split="val")
    assert torchs.sizes == own.sizes
    assert torch.equal(torchs.test[5][0], own.test[5][0])
    held = timm_dataset("", nano(), root=root, val=3)
    assert (own.sizes, own.classes) == ({"train": 8, "val": 4, "test": 6}, 2)
    assert own.class_names == torchs.class_names == held.class_names == ("a", "b")
    assert timm_dataset(str(root), nano(), val_split="val", classes=3).class_names == ()
    assert held.sizes == {"train": 5, "val": 3, "test": 6}
    assert (held.train[0][0].shape, held.val[0][1] in (0, 1)) == ((1, 28, 28), True)


def test_a_part_that_timm_makes_up_is_refused(tmp_path: Path) -> None:
    root = folders(tmp_path / "pets", train=8, test=6)
    with pytest.raises(DataError, match="'train' and 'validation' share samples"):
        timm_dataset(str(root), nano(), val_split="validation")
    alone = folders(tmp_path / "alone", **{"": 8})
    with pytest.raises(DataError, match="'train' and 'test' share samples"):
        timm_dataset(str(alone), nano(), val=2)
    assert timm_dataset(str(alone), nano(), test_split=None, val=2, test=2).sizes["train"] == 4


def test_an_image_that_timm_would_skip_is_named(tmp_path: Path) -> None:
    root = folders(tmp_path / "pets", train=8, test=6)
    (root / "train" / "a" / "2.png").write_bytes(b"damaged")
    with pytest.raises(DataError, match="train, sample 1 is not a readable image"):
        timm_dataset(str(root), nano(), val=2)
    assert timm_dataset(str(root), nano(), val=2, check=False).sizes["train"] == 6


def test_classes_that_differ_are_named(tmp_path: Path) -> None:
    root = folders(tmp_path / "pets", train=8, test=6)
    (root / "test" / "b").rename(root / "test" / "c")
    with pytest.raises(DataError, match="test has other classes than train"):
        timm_dataset(str(root), nano(), val=2)


def test_hugging_faces_data_by_timm_whole_and_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    root = folders(tmp_path / "pets", train=8, test=6)
    whole, streamed = (
        timm_dataset(f"{kind}/{root}", nano(), root=tmp_path / "cache", val=2) for kind in ("hfds", "hfids")
    )
    assert whole.sizes == streamed.sizes == {"train": 6, "val": 2, "test": 6}
    assert whole.classes == streamed.classes == 2
    assert whole.class_names == ("a", "b")


def test_a_name_that_timm_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="name and root are missing"):
        timm_dataset("", nano())
    for root in (None, tmp_path):
        with pytest.raises(DataError, match=r"'nope' is neither a folder nor a name that timm knows.*torch/"):
            open_task("timm:nope", nano(), root=root)
    for name in ("torch/nothing", "torch/cifar10"):
        with pytest.raises(DataError, match="timm cannot open split 'train'"):
            timm_dataset(name, nano(), root=tmp_path / "nothing")
