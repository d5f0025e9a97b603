"""Lists are read in their usual layout, and a wrong line is named before training."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

from tensorfact.errors import DataError
from tensorfact.lab import few_shot, nano, vtab
from tensorfact.lab.data import FEW_SHOT, VTAB
from tests.helpers import samples_of
from tests.make_benchmarks import lay_out_few_shot, lay_out_vtab


@pytest.mark.parametrize("name", ["cifar", "patch_camelyon", "smallnorb_ele"])
def test_a_vtab_task_is_read_as_the_field_lays_it_out(name: str, tmp_path: Path) -> None:
    data = vtab(lay_out_vtab(tmp_path, name), name, nano())
    assert (data.name, data.classes, data.sizes) == (name, VTAB[name].classes, {"train": 3, "val": 3, "test": 3})
    x, label = data.train[1]
    assert (x.shape, label) == ((1, 28, 28), 1)
    assert [label for _, label in samples_of(data.final)] == [0, 1, data.train[2][1]] * 2


def test_vtab_has_the_papers_tasks_and_groups() -> None:
    groups = [task.group for task in VTAB.values()]
    assert [groups.count(group) for group in ("natural", "specialized", "structured")] == [7, 4, 8]
    assert sum(task.classes or 0 for task in VTAB.values()) == 795 + 62 + 83
    assert sorted(task.classes or 0 for task in FEW_SHOT.values()) == [37, 100, 101, 102, 196]


def test_statistics_are_the_models_own_or_imagenets(tmp_path: Path) -> None:
    root, model = lay_out_vtab(tmp_path, "svhn"), timm.create_model("vit_tiny_patch16_224.augreg_in21k")
    own, other = (vtab(root, "svhn", model, imagenet_statistics=flag).test[0][0] for flag in (False, True))
    pixels = own * 0.5 + 0.5
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    torch.testing.assert_close(other, (pixels - mean) / std, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["oxford_pets", "stanford_cars"])
def test_a_few_shot_task_is_read_as_the_field_lays_it_out(name: str, tmp_path: Path) -> None:
    folder = lay_out_few_shot(tmp_path, name) / name
    data = few_shot(folder, nano(), shots=4, seed=1, classes=FEW_SHOT[name].classes)
    assert (data.classes, data.sizes) == (FEW_SHOT[name].classes, {"train": 8, "val": 4, "test": 4})
    assert (data.train[7][0].shape, data.train[7][1]) == ((1, 28, 28), 1)
    assert few_shot(folder, nano(), shots=4, seed=1).classes == 2
    with pytest.raises(DataError, match=r"seed_1, line 5.*0 to 0"):
        few_shot(folder, nano(), shots=4, seed=1, classes=1)


def test_lists_that_name_images_twice_are_taken_as_they_are(tmp_path: Path) -> None:
    folder = lay_out_few_shot(tmp_path, "oxford_pets") / "oxford_pets"
    listed = folder / "annotations" / "train_meta.list.num_shot_1.seed_0"
    listed.write_text("".join(line * 2 for line in listed.read_text().splitlines(keepends=True)))
    assert few_shot(folder, nano(), shots=1, seed=0).sizes["train"] == 4


def rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("images/test/none.jpg 1", ("test.txt, line 4", "none.jpg")),
        ("images/test/000000.jpg 10", ("test.txt, line 4", "0 to 9")),
        ("images/test/000000.jpg -1", ("test.txt, line 4",)),
        ("images/test/000000.jpg " + "9" * 5000, ("test.txt, line 4",)),
        ("no-label", ("test.txt, line 4", "no-label")),
        ("", ("test.txt, line 4",)),
        ("images/test/000000.jpg \u0663", ("test.txt, line 4", "a label of 0 to 9")),
        ("/tmp/000000.jpg 1", ("test.txt, line 4", "inside the folder")),
        ("images/../../000000.jpg 1", ("test.txt, line 4", "inside the folder")),
        (". 1", ("test.txt, line 4",)),
        ("images/test 1", ("test.txt, line 4", "directory")),
    ],
    ids=[
        "no image",
        "label too high",
        "negative label",
        "huge label",
        "no label",
        "blank line",
        "other digits",
        "absolute",
        "leaves",
        "itself",
        "a folder",
    ],
)
def test_a_line_that_is_wrong_is_named(line: str, words: tuple[str, ...], tmp_path: Path) -> None:
    root = lay_out_vtab(tmp_path, "svhn")
    listed = root / "svhn" / "test.txt"
    listed.write_text(listed.read_text() + line + "\n")
    with pytest.raises(DataError) as caught:
        vtab(root, "svhn", nano())
    assert all(word in str(caught.value).lower() for word in words), str(caught.value)


def test_a_byte_order_mark_is_no_part_of_the_first_path(tmp_path: Path) -> None:
    root = lay_out_vtab(tmp_path, "svhn")
    listed = root / "svhn" / "test.txt"
    listed.write_text(listed.read_text(), encoding="utf-8-sig")
    assert vtab(root, "svhn", nano()).sizes["test"] == 3


def test_a_path_may_hold_spaces_and_a_list_may_end_without_a_newline(tmp_path: Path) -> None:
    root = lay_out_vtab(tmp_path, "svhn")
    Image.new("CMYK", (30, 20)).save(root / "svhn" / "images" / "a b  c.jpg")
    (root / "svhn" / "test.txt").write_text("images/a b  c.jpg 9")
    assert vtab(root, "svhn", nano()).test[0][1] == 9


@pytest.mark.parametrize("content", [b"", b"\n\n", b"images/\xff.jpg 1\n"], ids=["empty", "blank", "no UTF-8"])
def test_a_list_that_is_none_is_named(content: bytes, tmp_path: Path) -> None:
    root = lay_out_vtab(tmp_path, "svhn")
    (root / "svhn" / "val200.txt").write_bytes(content)
    with pytest.raises(DataError, match=r"val200\.txt (is empty|cannot be read)"):
        vtab(root, "svhn", nano())


def test_a_task_or_list_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="did you mean 'cifar'"):
        vtab(tmp_path, "cifra", nano())
    with pytest.raises(DataError, match=r"train800\.txt"):
        vtab(tmp_path, "cifar", nano())
    (tmp_path / "cifar" / "train800.txt").mkdir(parents=True)
    with pytest.raises(DataError, match=r"train800\.txt cannot be read"):
        vtab(tmp_path, "cifar", nano())


def test_without_a_check_lists_are_read_and_images_are_not(tmp_path: Path) -> None:
    root = lay_out_vtab(tmp_path, "svhn")
    (root / "svhn" / "images" / "train800" / "000002.jpg").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"train800\.txt, line 3: .*000002\.jpg is not a readable image"):
        vtab(root, "svhn", nano())
    data = vtab(root, "svhn", nano(), check=False)
    assert data.train[1][1] == 1
    with pytest.raises(DataError, match=r"000002\.jpg is not a readable image"):
        data.train[2]
    rewrite(root / "svhn" / "val200.txt", " 2\n", " 11\n")
    with pytest.raises(DataError, match=r"val200\.txt, line 3.*0 to 9"):
        vtab(root, "svhn", nano(), check=False)


def share(root: Path) -> None:
    """Let the lists name the same files: those of the list of both."""
    both = (root / "svhn" / "train800val200.txt").read_text().splitlines(keepends=True)
    (root / "svhn" / "train800.txt").write_text("".join(both[:3]))
    (root / "svhn" / "val200.txt").write_text("".join(both[:2:-1]))  # in another order


@pytest.mark.parametrize("shared", [False, True], ids=["copies", "shared files"])
def test_the_list_of_both_is_what_both_lists_hold(shared: bool, tmp_path: Path) -> None:
    root = lay_out_vtab(tmp_path, "svhn")
    if shared:
        share(root)
    assert vtab(root, "svhn", nano()).sizes["train"] == 3
    whole = root / "svhn" / "train800val200.txt"
    lines = whole.read_text().splitlines(keepends=True)

    def refused(text: str, words: str) -> None:
        whole.write_text(text)
        with pytest.raises(DataError, match=words):
            vtab(root, "svhn", nano(), check=False)

    refused("".join([*lines, lines[1]]), r"train800val200\.txt, line 7: .* is not in .*got 7 lines instead of 6")
    refused("".join(lines[:5]), r"(train800|val200)\.txt, line \d: .* is missing from .*got 5 lines instead of 6")
    refused("".join([*lines[:4], lines[4].replace(" 1", " 7"), lines[5]]), r"train800val200\.txt, line 5: ")
