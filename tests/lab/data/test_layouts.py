"""Layouts are told apart by their folders, and a folder or list that fits none of them is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tensorfact.errors import DataError
from tensorfact.lab.data.layouts import Entry, archive_tree, csv_entries, folder_tree, tree_entries
from tests.helpers import refused
from tests.lab.data.making import lay_out, write_csv


def entries(*paths: str) -> list[tuple[str, str, str | None]]:
    """Return the file, class and split of every image among the paths of an archive; a folder ends in a slash."""
    known = {path.rstrip("/"): path.endswith("/") for path in paths}
    found = tree_entries(archive_tree("a.zip", known))
    assert all(entry.where == f"a.zip: {entry.file}" for entry in found)
    return [(entry.file, entry.label, entry.split) for entry in found]


def test_two_folders_or_all_of_them_that_are_named_like_splits_are_splits() -> None:
    assert entries("cat/1.png", "dog/2.png") == [("cat/1.png", "cat", None), ("dog/2.png", "dog", None)]
    assert entries("Train/cat/1.png", "validation/cat/2.png", "more/cat/3.png") == [
        ("Train/cat/1.png", "cat", "train"),
        ("validation/cat/2.png", "cat", "val"),
    ]
    assert entries("train/1.png", "bus/2.png") == [("bus/2.png", "bus", None), ("train/1.png", "train", None)]
    assert entries("cat/deep/1.png", "cat/2.png", "LICENSE") == [
        ("cat/2.png", "cat", None),
        ("cat/deep/1.png", "cat", None),
    ]


def test_one_folder_that_holds_everything_is_passed_over() -> None:
    assert entries("a/cat/1.png", "a/LICENSE", "README.md", "__MACOSX/a/cat/._1.png", "a/", "a/.git/x") == [
        ("a/cat/1.png", "cat", None)
    ]
    assert entries("a/train/cat/1.png", "a/val/cat/2.png")[1] == ("a/val/cat/2.png", "cat", "val")
    assert entries("a/1.png") == [("a/1.png", "a", None)]


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        (("train/c/1.png", "val/c/1.png", "valid/c/2.png"), ("two folders for val: val, valid", "keep one")),
        (
            ("Training/cat/1.png", "Testing/cat/2.png"),
            ("one level of folders too many: Testing/cat", "name them train, val"),
        ),
        (("a/b/cat/1.png",), ("a.zip: a has one level of folders too many: b/cat", "as a.zip: a/b/1.png")),
        (("1.png", "2.png"), ("1.png is in no class", "give the folder that holds a.zip, if that is a class")),
        (("cat/1.png", "cover.jpg"), ("a.zip: cover.jpg is in no class",)),
        (("train/cat/1.png", "val/cat/2.png", "test/3.png"), ("a.zip: test/3.png is in no class",)),
        (("notes.txt",), ("a.zip has no folders of images", "got notes.txt")),
        (("inner.zip", "train/"), ("a.zip has no folders of images", "got inner.zip, train")),
        (("cat/1.png", "dog/"), ("a.zip: dog has no images", "remove the folder")),
        (("train/cat/1.png", "train/dog/", "val/cat/2.png"), ("a.zip: train/dog has no images",)),
        (("train/cat/1.png", "val/cat/2.png", "test/"), ("a.zip: test has no images",)),
        (("cat/1.png", "cat/notes.txt"), ("cat/notes.txt does not have the extension of an image", ".jpeg")),
    ],
)
def test_a_tree_of_another_layout_is_refused(paths: tuple[str, ...], words: tuple[str, ...]) -> None:
    with refused(DataError, *words):
        entries(*paths)


def test_any_of_the_splits_may_be_missing_from_the_folders() -> None:
    for split in ("train", "val", "test"):
        assert entries(f"{split}/cat/1.png") == [(f"{split}/cat/1.png", "cat", split)]
    assert [split for _, _, split in entries("train/cat/1.png", "test/cat/2.png")] == ["test", "train"]


def test_a_level_of_folders_too_many_is_named_with_the_folder_to_give(tmp_path: Path) -> None:
    lay_out(tmp_path / "data" / "a" / "photos")
    with refused(DataError, "too many: a/photos: expected FOLDER/CLASS/FILE", f"give {tmp_path}/data/a if photos is"):
        tree_entries(folder_tree(tmp_path / "data"))
    with refused(DataError, "too many: photos/test", f"Fix: give {tmp_path}/data/a/photos."):
        tree_entries(folder_tree(tmp_path / "data" / "a"))
    (tmp_path / "data" / "b" / "x").mkdir(parents=True)
    (tmp_path / "data" / "b" / "x" / "1.png").touch()
    with refused(DataError, f"Fix: move the images of each class into its folder, as {tmp_path}/data/a/one.png"):
        tree_entries(folder_tree(tmp_path / "data"))


def test_classes_and_splits_without_images_are_passed_over_in_partial_data(tmp_path: Path) -> None:
    known = {"test/cat/1.png": False, "test/dog": True, "train": True, "val/dog": True}
    [entry] = tree_entries(archive_tree("a.zip", {**known, "test": True, "val": True}), partial=True)
    assert (entry.label, entry.split) == ("cat", "test")


def test_files_that_are_no_images_are_named_and_hidden_ones_are_passed_over(tmp_path: Path) -> None:
    folder = lay_out(tmp_path) / "train" / "b"
    for hidden in (".DS_Store", "._one.png", ".cache/x.txt", "Thumbs.db", "desktop.ini"):
        (folder / hidden).parent.mkdir(exist_ok=True)
        (folder / hidden).touch()
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    assert len(tree_entries(folder_tree(tmp_path))) == 6
    for name in ("two.avif", "notes.txt", "below/three"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
        with refused(DataError, f"train/b/{name} does not have the extension of an image"):
            tree_entries(folder_tree(tmp_path))
        (folder / name).unlink()


@pytest.mark.parametrize("parts", [("train", "val", "test"), ()])
def test_a_class_may_be_a_link_and_a_folder_in_it_may_not(parts: tuple[str, ...], tmp_path: Path) -> None:
    root = lay_out(tmp_path / "pets")
    if not parts:
        root = root / "train"
    (tmp_path / "class").mkdir()
    (tmp_path / "class" / "one.png").touch()
    folder = root.joinpath(*parts[:1])
    (folder / "c").symlink_to(tmp_path / "class")
    assert {entry.label for entry in tree_entries(folder_tree(root))} == {"a", "b", "c"}
    (folder / "b" / "again").symlink_to(folder)
    with refused(DataError, f"{folder}/b/again is a link to a folder"):
        tree_entries(folder_tree(root))


def test_entries_are_sorted_by_class_and_name_whatever_folder_they_are_in() -> None:
    def order(*pairs: tuple[str, str]) -> list[str]:
        return [each.file for each in sorted((Entry("", file, label, None) for file, label in pairs), key=by_order)]

    assert order(("x/b.png", "cat"), ("y/a.png", "cat"), ("a/a.png", "dog")) == ["y/a.png", "x/b.png", "a/a.png"]
    assert order(("x/z/1.png", "a"), ("x/1.png", "a"), ("x/2.png", "a")) == ["x/1.png", "x/z/1.png", "x/2.png"]


def by_order(entry: Entry) -> tuple[str, str, str]:
    return entry.order


# ------------------------------------------------------------------------------------------------------------------ csv


def test_a_list_names_paths_classes_and_splits(tmp_path: Path) -> None:
    rows = [("b/1.png", "cat", "train"), (f"{tmp_path}/2.PNG", ' "a", b ', "Valid"), ("../3.jpg", "cat", "test")]
    path = write_csv(tmp_path / "list.csv", rows)
    assert csv_entries(path) == [
        Entry(f"{path}, line 2: b/1.png", f"{tmp_path}/b/1.png", "cat", "train"),
        Entry(f"{path}, line 3: {tmp_path}/2.PNG", f"{tmp_path}/2.PNG", '"a", b', "val"),
        Entry(f"{path}, line 4: ../3.jpg", f"{tmp_path.parent}/3.jpg", "cat", "test"),
    ]


def test_a_list_may_have_spaces_empty_lines_a_byte_order_mark_and_columns_in_another_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("list.csv").write_bytes(b"\xef\xbb\xbflabel, path\r\ncat, 1.png\r\n\r\ndog,2.png")
    found = csv_entries(Path("list.csv"))
    assert [(entry.file, entry.label, entry.split) for entry in found] == [
        (os.path.abspath("1.png"), "cat", None),
        (os.path.abspath("2.png"), "dog", None),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", ("header: expected path,label or path,label,split", "got ''")),
        (b"path,label\n", ("lists no images",)),
        (b"1.png,cat\n", ("header", "'1.png,cat'", "in the first line")),
        (b"path,label,spilt\n1.png,cat,train\n", ("header", "path,label,spilt")),
        (b"path,path,label\n", ("header",)),
        (b"path,label\n1.png,cat\n2.png\n", ("list.csv, line 3", "expected 2 values: path,label", "got 1")),
        (b"path,label\n1.png,cat,dog\n", ("line 2", "a comma in a path or label")),
        (b"path,label\n1.png, \n", ("line 2 has no label",)),
        (b"path,label\n,cat\n", ("line 2 has no path",)),
        (b"path,label,split\n1.png,cat,\n", ("line 2 has no split",)),
        (b"path,label,split\n1.png,cat,tset\n", ("line 2: split", "did you mean 'test'")),
        (b"path,label\n1.svg,cat\n", ("line 2: 1.svg does not have the extension",)),
        (b"path;label\n1.png;cat\n", ("line 1: the separator: expected a comma, got a semicolon",)),
        (b"path,label\n1.png\tcat\n", ("line 2: the separator: expected a comma, got a tab",)),
        (b"path,label\n1.png,cat\na/../1.png,dog\n", ("line 3 lists 'a/../1.png', as line 2 does",)),
        (b"path,label\n\xff.png,cat\n", ("list.csv cannot be read", "UTF-8")),
        (b'path,label\n"1.png,cat\n', ("list.csv cannot be read",)),
    ],
)
def test_a_list_that_is_wrong_is_refused_with_its_line(text: bytes, words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes(text)
    with refused(DataError, tmp_path / "list.csv", *words):
        csv_entries(tmp_path / "list.csv")
