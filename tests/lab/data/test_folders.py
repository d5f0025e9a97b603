"""Images on disk: every layout gives the same samples, and what is wrong is named before training."""

from __future__ import annotations

import dataclasses
import os
import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image
from torch.utils.data import DataLoader

from tensorfact.errors import DataError
from tensorfact.lab import Splits, image_folder, nano
from tensorfact.lab.data.folders import drawn_splits, is_path
from tests.helpers import refused, samples_of
from tests.lab.data.making import Layout, lay_out, pack, write_csv, write_image, write_split

MODEL = nano()
NAMES = st.sampled_from(["1.png", "10.png", "2.png", "B.png", "a.bmp", "a b.png", "deep/1.png", "deep/z.png", "é.png"])
CLASSES = st.sampled_from(["cat", "Dog", "10", "9", "a,b", "train"])


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Images in train, val and perhaps test; a class may be missing from val and test."""
    labels = draw(st.lists(CLASSES, min_size=1, max_size=3, unique=True))
    found: Layout = {"train": {}, "val": {}, "test": {}}
    for label in labels:
        names = draw(st.lists(NAMES, min_size=2, max_size=6, unique=True))
        for at, name in enumerate(names):
            split = "train" if at == 0 else "val" if at == 1 and label == labels[0] else draw(st.sampled_from([*found]))
            found[split].setdefault(label, []).append(name)
    return {split: classes for split, classes in found.items() if classes}


def same(one: Splits, other: Splits) -> bool:
    """Return whether two data sets have equal samples in the same order, and the same classes."""
    assert (one.sizes, one.classes, one.class_names) == (other.sizes, other.classes, other.class_names)
    pairs = [
        pair
        for split in ("train", "val", "test")
        for pair in zip(samples_of(getattr(one, split)), samples_of(getattr(other, split)), strict=True)
    ]
    return all(torch.equal(mine[0], its[0]) and mine[1] == its[1] for mine, its in pairs)


def rows_of(layout: Layout, below: str = "") -> list[tuple[str, str, str]]:
    return [
        (f"{below}{split}/{label}/{name}", label, split)
        for split, classes in layout.items()
        for label, names in classes.items()
        for name in names
    ]


@settings(max_examples=12)
@given(layout=layouts(), val=st.sampled_from(["val", "valid", "validation", "Val"]))
def test_every_layout_of_a_split_gives_the_same_samples(layout: Layout, val: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = write_split(Path(folder, "photos"), layout)
        expected = image_folder(root, MODEL)
        assert expected.class_names == tuple(sorted(layout["train"]))
        assert expected.sizes == {
            split: sum(map(len, layout.get(split, {}).values())) for split in ("train", "val", "test")
        }
        archives = [
            pack(root, Path(folder, name), below=below)
            for name, below in (
                ("a.zip", ""),
                ("photos.zip", "photos/"),
                ("a.tar", "./"),
                ("b.tar", "photos/"),
                ("a.tar.gz", "./photos/"),
                ("A.TGZ", ""),
            )
        ]
        listed = write_csv(Path(folder, "a.csv"), reversed(rows_of(layout, "photos/")))
        absolute = write_csv(Path(folder, "b.csv"), rows_of(layout, f"{root}/"))
        spelled = write_split(Path(folder, "b"), {val if split == "val" else split: layout[split] for split in layout})
        for path in (*archives, listed, absolute, spelled):
            assert same(image_folder(path, MODEL, check=False), expected), path


@settings(max_examples=12)
@given(
    counts=st.dictionaries(CLASSES, st.integers(1, 9), min_size=1, max_size=3).filter(
        lambda counts: max(counts.values()) > 3 and [*counts] != ["train"]
    ),
    seed=st.integers(0, 5),
    fractions=st.sampled_from([(0.5, 0.3, 0.2), (0.7, 0.3, 0), (0.6, 0.2, 0.2)]),
)
def test_a_flat_folder_is_split_by_class_as_folders_of_the_split_would_be(
    counts: dict[str, int], seed: int, fractions: tuple[float, float, float]
) -> None:
    options: dict[str, Any] = {"fractions": fractions, "seed": seed, "check": False}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "flat")
        pairs = [(label, f"{at}.png") for label, count in counts.items() for at in range(count)]
        for label, name in pairs:
            write_image(root / label / name, f"{label}/{name}")
        flat = image_folder(root, MODEL, **options)
        files = {
            split: [Path(file).relative_to(root) for file, _ in getattr(flat, split).samples]
            for split in ("train", "val", "test")
        }
        assert sorted(file.as_posix() for each in files.values() for file in each) == sorted(map("/".join, pairs))
        for split, own in files.items():
            for file in own:
                write_image(Path(folder, "split", split, file), file.as_posix())
        assert same(image_folder(Path(folder, "split"), MODEL), flat)
        rows = [(f"flat/{label}/{name}", label) for label, name in pairs]
        for path in (
            pack(root, Path(folder, "a.zip")),
            pack(root, Path(folder, "a.tgz"), below="flat/"),
            write_csv(Path(folder, "a.csv"), rows),
        ):
            if len(counts) > 1 or path.suffix != ".tgz":  # one class below one folder is a class in a folder
                assert same(image_folder(path, MODEL, **options), flat), path


def flat(root: Path, **counts: int) -> Path:
    for label, count in counts.items():
        for at in range(count):
            write_image(root / label / f"{at}.png", f"{label}{at}")
    return root


def test_the_split_of_a_flat_folder_comes_from_the_seed(tmp_path: Path) -> None:
    root = flat(tmp_path / "photos", cat=10, dog=20)
    first, again, other = (image_folder(root, MODEL, seed=seed, check=False) for seed in (0, 0, 1))
    assert (first.name, first.class_names) == ("photos", ("cat", "dog"))
    assert first.sizes == {"train": 30 - 2 * 5, "val": 2 + 3, "test": 2 + 3}
    assert same(first, again)
    assert first.val.samples != other.val.samples  # type: ignore[attr-defined]
    with refused(DataError, "fractions", "with the sum 1", "(0.5, 0.2)"):
        image_folder(root, MODEL, fractions=(0.5, 0.2))


def test_a_class_of_one_image_is_in_train(tmp_path: Path) -> None:
    data = image_folder(flat(tmp_path, cat=1, dog=10), MODEL)
    labels = {split: {label for _, label in getattr(data, split).samples} for split in data.sizes}
    assert labels == {"train": {0, 1}, "val": {1}, "test": {1}}


def test_too_few_images_for_val_are_refused(tmp_path: Path) -> None:
    root = flat(tmp_path, cat=3, dog=2)
    with refused(DataError, "no images in val", "fractions=(0.5, 0.5, 0)"):
        image_folder(root, MODEL)
    assert image_folder(root, MODEL, fractions=(0.5, 0.5, 0)).sizes == {"train": 2, "val": 3, "test": 0}
    with refused(DataError, "no images in val", "every class has a single one"):
        image_folder(flat(tmp_path / "single", cat=1, dog=1), MODEL)


def test_a_list_of_splits_needs_train_and_val(tmp_path: Path) -> None:
    listed = write_csv(tmp_path / "a.csv", [("1.png", "cat", "train")])
    with refused(DataError, "a.csv has no images in val", "a list without the column split"):
        image_folder(listed, MODEL)
    write_csv(listed, [("1.png", "cat", "val"), ("2.png", "cat", "test")])
    with refused(DataError, "a.csv has no training images", "got images in val and test", "classes="):
        image_folder(listed, MODEL)
    write_csv(listed, [("1.png", "cat", "train"), ("2.png", "cat", "val"), ("3.png", "dog", "val")])
    with refused(DataError, "the class 'dog' is missing from train", "a.csv, line 4: 3.png"):
        image_folder(listed, MODEL)


def test_fractions_and_seed_are_for_images_that_are_not_split_yet(tmp_path: Path) -> None:
    root = lay_out(tmp_path / "photos")
    with refused(DataError, "fractions does not apply", "split already"):
        image_folder(root, MODEL, fractions=(0.8, 0.2, 0))
    with refused(DataError, "seed does not apply"):
        image_folder(root, MODEL, seed=1)
    assert image_folder(root, MODEL, fractions=[0.7, 0.15, 0.15], seed=0).sizes["train"] == 2


@pytest.mark.parametrize("kind", ["folder", "zip", "csv"])
def test_without_val_it_is_drawn_from_train_and_test_stays(kind: str, tmp_path: Path) -> None:
    layout = {"train": {"cat": [f"{at}.png" for at in range(10)], "dog": [f"{at}.png" for at in range(5)]}}
    layout["test"] = {"cat": ["t.png"]}
    root = write_split(tmp_path / "photos", layout)
    path = {
        "folder": root,
        "zip": pack(root, tmp_path / "photos.zip"),
        "csv": write_csv(tmp_path / "photos.csv", rows_of(layout, "photos/")),
    }[kind]
    assert drawn_splits(path) == ("train", "val")
    assert image_folder(path, MODEL).sizes == {"train": 12, "val": 3, "test": 1}  # 0.15 of 0.85
    data = image_folder(path, MODEL, fractions=(0.8, 0.2, 0))
    of_train = image_folder(root / "train", MODEL, fractions=(0.8, 0.2, 0))
    assert same(dataclasses.replace(data, test=of_train.test), of_train), "as the folder train alone is split"
    assert not same(data, image_folder(path, MODEL, fractions=(0.8, 0.2, 0), seed=1))
    assert [Path(file).name for file, _ in data.test.samples] == ["t.png"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("kind", ["folder", "zip", "csv"])
def test_images_of_known_classes_need_no_other_split(split: str, kind: str, tmp_path: Path) -> None:
    layout = {split: {"dog": ["1.png"], "owl": ["2.png"]}}
    root = write_split(tmp_path / "photos", layout)
    (root / split / "cat").mkdir()
    path = {
        "folder": root,
        "zip": pack(root, tmp_path / "photos.zip"),
        "csv": write_csv(tmp_path / "photos.csv", rows_of(layout, "photos/")),
    }[kind]
    data = image_folder(path, MODEL, classes=["owl", "cat", "dog"])
    assert data.sizes == {"train": 0, "val": 0, "test": 0, split: 2}
    assert (data.class_names, data.classes) == (("owl", "cat", "dog"), 3)
    assert [label for _, label in getattr(data, split).samples] == [2, 0]
    assert drawn_splits(path) == ()
    with refused(DataError, "none of the classes of the data", "got 'dog', 'owl'", "some of 'cat', 'fox'"):
        image_folder(path, MODEL, classes=("cat", "fox"))
    with refused(DataError, "image_folder: classes: expected a list of names"):
        image_folder(path, MODEL, classes="cat")


def test_classes_that_are_absent_from_images_without_splits_are_fine(tmp_path: Path) -> None:
    root = flat(tmp_path / "photos", cat=4)
    (root / "dog").mkdir()
    with refused(DataError, "photos/dog has no images"):
        image_folder(root, MODEL)
    assert sum(image_folder(root, MODEL, classes=("cat", "dog")).sizes.values()) == 4


def test_image_folder_uses_the_models_own_transform(tmp_path: Path) -> None:
    data = image_folder(lay_out(tmp_path / "pets"), nano())
    assert (data.name, data.classes, data.train[0][0].shape) == ("pets", 2, (1, 28, 28))


def test_data_is_named_after_its_folder_or_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = lay_out(tmp_path / "pets.v2")
    monkeypatch.chdir(root)
    assert [image_folder(path, MODEL).name for path in (root, ".", "../pets.v2/")] == ["pets.v2"] * 3
    for name in ("a.b.zip", "a.b.tar.gz", "a.b.TGZ"):
        assert image_folder(pack(root, tmp_path / name), MODEL).name == "a.b"


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # newer versions of Python warn if there are threads
@pytest.mark.parametrize("name", ["pets.zip", "pets.tar", "pets.tgz"])
def test_archives_are_read_by_processes_of_a_loader(name: str, tmp_path: Path) -> None:
    data = image_folder(pack(lay_out(tmp_path / "pets"), tmp_path / name), MODEL)
    expected = samples_of(data.train)
    batches = list(DataLoader(data.train, 1, num_workers=2, multiprocessing_context="fork"))
    assert all(torch.equal(x[0], mine[0]) and int(y) == mine[1] for (x, y), mine in zip(batches, expected, strict=True))
    sent = pickle.loads(pickle.dumps(data))  # noqa: S301, as a worker that is not forked gets it
    assert torch.equal(sent.train[1][0], expected[1][0])


# --------------------------------------------------------------------------------------------------------------- errors


def test_a_split_without_images_is_named(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        root = lay_out(tmp_path / split)
        for label in ("a", "b"):
            (root / split / label / "one.png").unlink()
        with refused(DataError, f"{root}/{split} has no images"):
            image_folder(root, MODEL)


def test_a_class_may_be_missing_from_val_and_test_and_not_from_train(tmp_path: Path) -> None:
    root = lay_out(tmp_path / "pets")
    (root / "val" / "a" / "one.png").unlink()
    (root / "test" / "b" / "one.png").unlink()
    (root / "test" / "b").rmdir()
    data = image_folder(root, MODEL)
    assert (data.sizes, data.class_names) == ({"train": 2, "val": 1, "test": 1}, ("a", "b"))
    assert [label for part in (data.val, data.test) for _, label in samples_of(part)] == [1, 0]
    (root / "test" / "a").rename(root / "test" / "c")
    with refused(DataError, "the class 'c' is missing from train", "pets/test/c/one.png"):
        image_folder(root, MODEL)


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    root = lay_out(tmp_path / "pets")
    path = root / "train" / "b" / "one.png"
    path.write_bytes(path.read_bytes()[:50])
    with refused(DataError, f"{path} is not a readable image"):
        image_folder(root, MODEL)
    with refused(DataError, "pets.zip: train/b/one.png is not a readable image"):
        image_folder(pack(root, tmp_path / "pets.zip"), MODEL)
    listed = write_csv(tmp_path / "a.csv", [(str(path), "b", "train"), (str(root / "val/b/one.png"), "b", "val")])
    with refused(DataError, f"a.csv, line 2: {path} is not a readable image"):
        image_folder(listed, MODEL)
    path.unlink()
    with refused(DataError, f"the image {listed}, line 2: {path} does not exist"):
        image_folder(listed, MODEL)


def test_an_unchecked_folder_opens_no_image_before_it_is_asked_for(tmp_path: Path) -> None:
    lay_out(tmp_path)
    path = tmp_path / "train" / "b" / "one.png"
    path.write_bytes(b"")
    data = image_folder(tmp_path, nano(), check=False)
    assert data.train[0][0].shape == (1, 28, 28)
    with pytest.raises(DataError, match=r"train/b/one\.png is not a readable image"):
        data.train[1]


def test_a_path_that_holds_no_images_is_refused_with_the_layouts(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    (tmp_path / "empty").mkdir()
    for name, words in (("nothing", "does not exist"), ("notes.txt", "is not a folder"), ("empty", "no folders of")):
        with refused(DataError, tmp_path / name, words, "FOLDER/{train,val,test}/CLASS/FILE", "path,label,split"):
            image_folder(tmp_path / name, MODEL)


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator may read every folder")
def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    root = lay_out(tmp_path / "pets")
    (root / "train" / "a").chmod(0)
    with refused(DataError, "train/a", "may read"):
        image_folder(root, MODEL)


def test_a_path_is_one_that_exists_or_is_spelled_like_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not is_path("photos")
    assert [is_path(name) for name in ("photos/", "a/b", "photos.ZIP", "a.csv", ".")] == [True] * 5
    (tmp_path / "photos").mkdir()
    assert is_path("photos")


# ----------------------------------------------------------------------------- what docs/how-to/data.md says of images


def one_of_each(root: Path, name: str, image: Image.Image, **options: Any) -> Any:
    """Return what the model gets of an image, as 8-bit pixels: (28, 28, 3)."""
    model = timm.create_model("vit_tiny_patch16_224", img_size=28, patch_size=14, depth=1)
    for split in ("train", "val"):
        path = root / split / "a" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, **options)
    x, _ = image_folder(root, model).train[0]
    return ((x * 0.5 + 0.5) * 255).round().byte().permute(1, 2, 0).numpy()


HALVES = np.array([[20], [220]], dtype=np.uint8).repeat(14, 0).repeat(28, 1)
"""Dark above and light below."""


def close(found: Any, expected: Any) -> bool:
    """Return whether rows away from the border of the halves, which resizing may blur, are as expected."""
    apart = np.abs(found.astype(int) - np.asarray(expected)).reshape(28, -1)
    return int(apart[[*range(10), *range(18, 28)]].max()) < 6


def test_grey_images_get_three_equal_channels(tmp_path: Path) -> None:
    assert close(one_of_each(tmp_path, "a.png", Image.fromarray(HALVES)), HALVES[..., None])


def test_transparent_pixels_show_the_colour_that_is_stored_in_them(tmp_path: Path) -> None:
    colours = np.dstack([HALVES, HALVES // 2, HALVES // 4])
    image = Image.fromarray(np.dstack([colours, 255 - HALVES]))
    assert image.mode == "RGBA"
    assert close(one_of_each(tmp_path, "a.png", image), colours)


def test_photos_are_upright(tmp_path: Path) -> None:
    stored = Image.fromarray(np.rot90(HALVES).copy())  # turned to the left; orientation 6 turns it to the right
    exif = stored.getexif()
    exif[ExifTags.Base.Orientation] = 6
    assert close(one_of_each(tmp_path, "a.jpg", stored, exif=exif), HALVES[..., None])


def test_images_of_16_bits_keep_the_upper_8(tmp_path: Path) -> None:
    image = Image.fromarray(HALVES.astype(np.uint16) * 256 + 99)
    assert close(one_of_each(tmp_path, "a.png", image), HALVES[..., None])
