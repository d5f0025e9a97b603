"""Splits are what they say, and a damaged folder is refused before training."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

import tensorfact as tf
from tensorfact.data import VTAB
from tensorfact.errors import DataError


def lay_out(root: Path, classes: tuple[str, ...] = ("a", "b")) -> Path:
    for split in ("train", "val", "test"):
        for label in classes:
            (root / split / label).mkdir(parents=True)
            Image.new("RGB", (40, 30), (200, 100, 50)).save(root / split / label / "one.png")
    return root


def test_digits_are_three_disjoint_parts_of_real_images() -> None:
    data = tf.digits(tf.nano())
    assert data.sizes == {"train": 800, "val": 200, "test": 797}
    seen = [tuple(x.flatten().tolist()) for part in (data.train, data.val, data.test) for x, _ in (part[0], part[1])]
    assert len(set(seen)) == len(seen)
    x, y = data.train[0]
    assert x.shape == (1, 28, 28)
    assert 0 <= int(y) <= 9


def test_digits_fit_any_model() -> None:
    with torch.device("meta"):
        model = timm.create_model("vit_tiny_patch16_224")
    assert tf.digits(model).train[0][0].shape == (3, 224, 224)


def test_digits_leave_a_test_split() -> None:
    with pytest.raises(DataError, match="below 1797"):
        tf.digits(tf.nano(), train=1700, val=97)


def test_image_folder_uses_the_models_own_transform(tmp_path: Path) -> None:
    data = tf.image_folder(lay_out(tmp_path / "pets"), tf.nano())
    assert (data.name, data.classes, data.train[0][0].shape) == ("pets", 2, (1, 28, 28))


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    lay_out(tmp_path)
    (tmp_path / "val" / "a" / "one.png").unlink()
    with pytest.raises(DataError, match="val"):
        tf.image_folder(tmp_path, tf.nano())


def test_a_part_with_other_classes_is_named(tmp_path: Path) -> None:
    lay_out(tmp_path)
    (tmp_path / "test" / "b").rename(tmp_path / "test" / "c")
    with pytest.raises(DataError, match="test has other classes"):
        tf.image_folder(tmp_path, tf.nano())


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    lay_out(tmp_path)
    path = tmp_path / "train" / "b" / "one.png"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DataError, match=r"train/b/one\.png is no readable image"):
        tf.image_folder(tmp_path, tf.nano())


# ------------------------------------------------------------------------------------------------- lists of images


def lay_out_vtab(root: Path, name: str, classes: int, count: int = 3) -> Path:
    """Write a task in the field's layout, a few images each."""
    for part, split in (("train800", "train800val200"), ("val200", "train800val200"), ("test", "test")):
        folder = root / name / "images" / split
        folder.mkdir(parents=True, exist_ok=True)
        lines = []
        for at in range(count):
            label = at % classes
            path = folder / f"{part} {at:06}.jpg"  # a path may hold spaces
            Image.new("RGB", (40, 20 + at), (label * 20, 100, 50)).save(path)
            lines.append(f"images/{split}/{path.name} {label}")
        (root / name / f"{part}.txt").write_text("\n".join(lines) + "\n")
    return root


@pytest.mark.parametrize("name", ["cifar", "patch_camelyon", "smallnorb_ele"])
def test_a_vtab_task_is_read_as_the_field_lays_it_out(name: str, tmp_path: Path) -> None:
    data = tf.vtab(lay_out_vtab(tmp_path, name, VTAB[name].classes), name, tf.nano())
    assert (data.name, data.classes, data.sizes) == (name, VTAB[name].classes, {"train": 3, "val": 3, "test": 3})
    x, label = data.train[1]
    assert (x.shape, label) == ((1, 28, 28), 1)


def test_vtab_has_the_papers_tasks_and_groups() -> None:
    groups = [task.group for task in VTAB.values()]
    assert [groups.count(group) for group in ("natural", "specialized", "structured")] == [7, 4, 8]
    assert sum(task.classes for task in VTAB.values()) == 795 + 62 + 83


def test_statistics_are_the_models_own_or_imagenets(tmp_path: Path) -> None:
    root, model = lay_out_vtab(tmp_path, "svhn", 10), timm.create_model("vit_tiny_patch16_224.augreg_in21k")
    own, other = (tf.vtab(root, "svhn", model, imagenet_statistics=flag).test[0][0] for flag in (False, True))
    pixels = own * 0.5 + 0.5
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    torch.testing.assert_close(other, (pixels - mean) / std, atol=1e-5, rtol=1e-5)


def test_a_few_shot_task_is_read_as_the_field_lays_it_out(tmp_path: Path) -> None:
    for name, below in (("oxford_pets", "images"), ("stanford_cars", ".")):
        folder = tmp_path / name
        (folder / "annotations").mkdir(parents=True)
        (folder / below / "a b").mkdir(parents=True)
        Image.new("RGB", (30, 30), (9, 9, 9)).save(folder / below / "a b" / "c.jpg")
        for part in ("train_meta.list.num_shot_2.seed_1", "val_meta.list", "test_meta.list"):
            (folder / "annotations" / part).write_text("a b/c.jpg 36\n")
        data = tf.few_shot(folder, tf.nano(), shots=2, seed=1)
        assert (data.classes, data.sizes) == (37, {"train": 1, "val": 1, "test": 1})
        with pytest.raises(DataError, match=r"seed_1, line 1.*0 to 9"):
            tf.few_shot(folder, tf.nano(), shots=2, seed=1, classes=10)
        assert data.train[0][1] == 36


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("images/test/none.jpg 1", ("test.txt, line 4", "none.jpg")),
        ("images/test/test 000000.jpg 10", ("test.txt, line 4", "0 to 9")),
        ("images/test/test 000000.jpg -1", ("test.txt, line 4",)),
        ("no-label", ("test.txt, line 4", "no-label")),
        ("", ("test.txt, line 4",)),
    ],
)
def test_a_line_that_is_wrong_is_named(line: str, words: tuple[str, ...], tmp_path: Path) -> None:
    root = lay_out_vtab(tmp_path, "svhn", 10)
    listed = root / "svhn" / "test.txt"
    listed.write_text(listed.read_text() + line + "\n")
    with pytest.raises(DataError) as caught:
        tf.vtab(root, "svhn", tf.nano())
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_task_or_list_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="did you mean 'cifar'"):
        tf.vtab(tmp_path, "cifra", tf.nano())
    with pytest.raises(DataError, match=r"train800\.txt"):
        tf.vtab(tmp_path, "cifar", tf.nano())
