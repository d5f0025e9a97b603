"""Image files in the layouts that people have: folders of classes, with or without splits, and lists in csv files."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ...errors import DataError, nearest
from .images import check_suffix, is_image, refuse_pipe
from .splits import SPELLINGS, SPLITS

LAYOUTS = (
    "FOLDER/CLASS/FILE, FOLDER/{train,val}/CLASS/FILE, FOLDER/{train,test}/CLASS/FILE or "
    "FOLDER/{train,val,test}/CLASS/FILE; a .zip, .tar, .tar.gz or .tgz of one of these; or a .csv with the header "
    "path,label or path,label,split"
)
"""The layouts in words, for messages."""
COLUMNS = ("path", "label", "split")
"""Columns of a csv file; the last one may be missing."""


class Entry(NamedTuple):
    """One image file.

    Args:
        where: Name of the file for messages.
        file: Name of the file for its opener.
        label: Name of its class.
        split: `train`, `val` or `test`; None if the layout does not say.
    """

    where: str
    file: str
    label: str
    split: str | None

    @property
    def order(self) -> tuple[str, str, str]:
        """Key to sort by: the class, then the name of the file, then its folder, which no layout changes."""
        folder, name = os.path.split(self.file)
        return self.label, name, folder


class Tree(NamedTuple):
    """Files and folders below a folder, on disk or in an archive.

    Args:
        name: Name of the folder, which ends in a slash; for messages.
        base: What comes before a path below the folder to make the name of a file for its opener.
        top: Names of the folders directly below it.
        paths: Path of every file and folder below it, and whether it is a folder. Hidden ones are left out.
    """

    name: str
    base: str
    top: tuple[str, ...]
    paths: Iterable[tuple[str, bool]]

    @property
    def title(self) -> str:
        """Name of the folder without what separates it from a path below it."""
        return self.name.rstrip("/: ") or self.name


_QUOTED = 5
"""The most names of files and folders that a message quotes."""

_OF_SYSTEMS = ("__macosx", "thumbs.db", "desktop.ini")
"""Folders and files that macOS adds to archives and Windows to folders of images, in lower case."""


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is hidden, as `.DS_Store` is, or belongs to macOS or Windows."""
    return name.startswith(".") or name.lower() in _OF_SYSTEMS


def tree_entries(tree: Tree, *, partial: bool = False) -> list[Entry]:
    """Return the images in a tree of classes, or of splits with classes below.

    It is a tree of splits if two of the folders at the top, or all of them, are named train, val (valid, validation) or
    test. Other folders and files beside these, and files other than images beside the folders of the classes, are not
    read.

    Args:
        tree: The folders and files.
        partial: Whether classes and splits may be empty, as in images to evaluate a model on.

    Raises:
        DataError: A file in a class is not named like an image, an image is outside the classes, a class or split is
            empty, or the folders are laid out in another way.
    """
    splits = _splits_of(tree)
    level = 1 if splits else 0
    found, classes, flat, seen = [], dict[str, str | None](), False, list[str]()
    for path, is_folder in tree.paths:
        seen += [path] * (len(seen) < _QUOTED)
        parts = path.split("/")
        split = splits.get(parts[0]) if splits else None
        if (splits and split is None) or len(parts) <= level:
            continue
        if is_folder:
            if len(parts) == level + 1:
                classes.setdefault(path, split)
        elif len(parts) > level + 1:
            check_suffix(f"{tree.name}{path}")
            found.append(Entry(f"{tree.name}{path}", f"{tree.base}{path}", parts[level], split))
            flat = flat or len(parts) == level + 2
        elif is_image(path):
            fix = "move it into the folder of its class"
            if not tree.top:
                fix = f"give the folder that holds {tree.title}, if that is a class; or {fix}"
            raise DataError(f"{tree.name}{path} is in no class", expected=LAYOUTS, fix=fix)
    if not found:
        raise DataError(
            f"{tree.title} has no folders of images",
            expected=LAYOUTS,
            got=", ".join(seen) or "nothing",
            fix="lay the images out in this way",
        )
    if not (flat or splits):
        raise _too_deep(tree, found[0])
    if not partial:
        _check_filled(tree, splits, classes, found)
    return found


def _too_deep(tree: Tree, first: Entry) -> DataError:
    """Return the error for a tree in which every image lies in a folder within a folder."""
    below = first.file.removeprefix(tree.base)
    outer, inner, *_ = below.split("/")
    fix = f"move the images of each class into its folder, as {tree.name}{outer}/{below.rpartition('/')[2]}"
    if len(tree.top) == 1 and tree.name == tree.base:  # on disk, where a folder in a folder can be given
        fix = f"give {tree.name}{outer}" + ("" if inner.lower() in SPELLINGS else f" if {inner} is a class; or {fix}")
    if not any(name.lower() in SPELLINGS for name in (*tree.top, inner)):
        fix += "; or, if the outer folders are splits, name them train, val and test"
    return DataError(
        f"{tree.title} has one level of folders too many: {outer}/{inner}",
        expected=LAYOUTS,
        got=f"{tree.name}{below}",
        fix=fix,
    )


def _splits_of(tree: Tree) -> Mapping[str, str]:
    """Return the folders of a tree of splits, and the split that each is; empty for a tree of classes."""
    named = {name: SPELLINGS[name.lower()] for name in tree.top if name.lower() in SPELLINGS}
    if not named or (len(named) == 1 and len(tree.top) > 1):
        return {}
    for split in SPLITS:
        folders = [name for name in named if named[name] == split]
        if len(folders) > 1:
            raise DataError(f"{tree.title} has two folders for {split}: {', '.join(folders)}", fix="keep one of them")
    return named


def _check_filled(
    tree: Tree, splits: Mapping[str, str], classes: Mapping[str, str | None], entries: Iterable[Entry]
) -> None:
    """Reject a split without images, and an empty folder of a class where every class must have images."""
    filled = {(entry.split, entry.label) for entry in entries}
    for folder, split in splits.items():
        if split not in {each for each, _ in filled}:
            raise DataError(f"{tree.name}{folder} has no images", fix="add images, or remove the folder")
    for path, of in sorted(classes.items()):
        if of in (None, "train") and (of, path.rpartition("/")[2]) not in filled:
            raise DataError(f"{tree.name}{path} has no images", fix="add images of the class, or remove the folder")


def folder_tree(root: Path) -> Tree:
    """Return what is below a folder on disk.

    Raises:
        DataError: A folder cannot be read; when the paths are read, also a folder below a class that is a link.
    """
    with os.scandir(root) as found:
        top = tuple(sorted(each.name for each in found if each.is_dir() and not is_hidden(each.name)))
    base = f"{str(root).rstrip('/')}/"
    bare = Tree(base, base, top, ())
    return bare._replace(paths=_walk(root, level=1 if _splits_of(bare) else 0))


def _walk(root: Path, level: int) -> Iterator[tuple[str, bool]]:
    """Yield the path of every file and folder, and whether it is a folder.

    Args:
        root: The folder.
        level: How many folders lie above those of the classes; these, but none below them, may be links.
    """

    def unreadable(error: OSError) -> None:
        raise error

    for folder, below, files in os.walk(root, onerror=unreadable, followlinks=True):
        inside = Path(folder).relative_to(root).parts
        below[:] = sorted(name for name in below if not is_hidden(name))
        for name in below:
            if len(inside) > level and os.path.islink(os.path.join(folder, name)):
                raise DataError(
                    f"{os.path.join(folder, name)} is a link to a folder", fix="copy the images, or link each image"
                )
            yield "/".join((*inside, name)), True
        yield from (("/".join((*inside, name)), False) for name in sorted(files) if not is_hidden(name))


def archive_tree(name: str, paths: Mapping[str, bool]) -> Tree:
    """Return what is in an archive, below the one folder that holds everything, if there is one.

    Args:
        name: Name of the archive.
        paths: Path of every file and folder in it, and whether it is a folder.
    """
    shown = {path: is_folder for path, is_folder in paths.items() if not any(map(is_hidden, path.split("/")))}
    top = _top(shown)
    base = ""
    if len(top) == 1 and top[0].lower() not in SPELLINGS:
        below = {path.removeprefix(f"{top[0]}/"): kind for path, kind in shown.items() if path.startswith(f"{top[0]}/")}
        inner = _top(below)
        if inner and not any(is_image(path) for path in below if "/" not in path):  # else the folder is a class
            base, shown, top = f"{top[0]}/", below, inner
    return Tree(f"{name}: {base}", base, top, sorted(shown.items()))


def _top(paths: Mapping[str, bool]) -> tuple[str, ...]:
    """Return the folders at the top of some paths."""
    found = {path.partition("/")[0] for path, is_folder in paths.items() if is_folder or "/" in path}
    return tuple(sorted(found))


def csv_entries(path: Path) -> list[Entry]:
    """Return the images that a csv file lists.

    Args:
        path: The csv file: the header `path,label` or `path,label,split`, and one image in each row. A path is absolute
            or relative to the folder of the csv file; a label is the name of a class; a split is train, val (valid,
            validation) or test.

    Raises:
        DataError: The file cannot be read, its header is another one, or a row is incomplete, names a split that there
            is not, or lists a file again; the message names the line.
    """
    found: list[Entry] = []
    lines: dict[str, int] = {}
    for number, row in _rows(path):
        where = f"{path}, line {number}"
        for column, value in row.items():
            if not value:
                raise DataError(f"{where} has no {column}", fix=f"fill in the column {column}, or remove the line")
        spelled = row.get("split")
        if spelled is not None and spelled.lower() not in SPELLINGS:
            got = f"{spelled!r}{nearest(spelled, SPELLINGS)}"
            raise DataError(f"{where}: split", expected="train, val or test", got=got, fix="correct the line")
        check_suffix(f"{where}: {row['path']}")
        file = os.path.abspath(path.parent / row["path"])
        if file in lines:
            raise DataError(f"{where} lists {row['path']!r}, as line {lines[file]} does", fix="remove one of the lines")
        lines[file] = number
        split = None if spelled is None else SPELLINGS[spelled.lower()]
        found.append(Entry(f"{where}: {row['path']}", file, row["label"], split))
    if not found:
        raise DataError(f"{path} lists no images", expected=LAYOUTS, fix="add a line such as images/1.jpg,cat")
    return found


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the number and the columns of every line of a csv file; empty lines are skipped."""
    try:
        refuse_pipe(path)
        with open(path, encoding="utf-8-sig", newline="") as file:  # some editors write a byte order mark
            reader = csv.reader(file, strict=True)
            header = tuple(name.strip() for name in next(reader, []))
            _check_separator(path, header, 1)
            if sorted(header) not in (sorted(COLUMNS), sorted(COLUMNS[:2])):
                raise DataError(
                    f"{path}: header",
                    expected="path,label or path,label,split",
                    got=repr(",".join(header)),
                    fix="write path,label in the first line, and no other columns than split",
                )
            for values in reader:
                if values and len(values) != len(header):
                    _check_separator(path, values, reader.line_num)
                    raise DataError(
                        f"{path}, line {reader.line_num}",
                        expected=f"{len(header)} values: {','.join(header)}",
                        got=str(len(values)),
                        cause="a comma in a path or label without quotes around it",
                        fix='write "a,b" for a,b',
                    )
                if values:
                    yield reader.line_num, dict(zip(header, map(str.strip, values), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path} cannot be read", got=str(error), fix="check its permissions, or save it as a csv file in UTF-8"
        ) from error


def _check_separator(path: Path, values: Sequence[str], line: int) -> None:
    """Raise for a line whose values are separated by something else than commas, as some programs write them."""
    found = next((name for mark, name in _SEPARATORS.items() if len(values) == 1 and mark in values[0]), "")
    if found:
        raise DataError(
            f"{path}, line {line}: the separator", expected="a comma", got=found, fix="write path,label with a comma"
        )


_SEPARATORS = {";": "a semicolon", "\t": "a tab", "|": "a vertical bar"}
"""What stands in place of the comma in files of other programs."""
