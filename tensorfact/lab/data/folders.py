"""Image files in a folder, an archive or a csv file, split and preprocessed for a model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from ...common.checks import AnyPath, file_path, flag, whole_number
from ...common.progress import Progress, silent
from ...errors import DataError
from .archives import ARCHIVES
from .images import ListedImages, Opener, check_images, open_rgb, refuse_pipe, transform_of
from .layouts import LAYOUTS, Entry, archive_tree, csv_entries, folder_tree, tree_entries
from .splits import FRACTIONS, SPLITS, Fractions, Splits, check_fractions, check_names, require_known, stratify

ENDINGS = (*ARCHIVES, ".csv")
"""The ends of the names of files that hold images or list them."""


def image_folder(
    root: AnyPath,
    model: nn.Module,
    *,
    fractions: Fractions = FRACTIONS,
    seed: int = 0,
    classes: Sequence[str] = (),
    imagenet_statistics: bool = False,
    check: bool = True,
    progress: Progress = silent,
) -> Splits:
    """Return images on disk, preprocessed for a model: a folder, an archive of a folder, or a csv file.

    | layout | split |
    | --- | --- |
    | `root/CLASS/FILE` | by `fractions` and `seed` |
    | `root/{train,val}/CLASS/FILE` | as it is; the test split is empty |
    | `root/{train,test}/CLASS/FILE` | test as it is; val from train by `fractions` and `seed` |
    | `root/{train,val,test}/CLASS/FILE` | as it is |
    | `root.csv` with the header `path,label` | by `fractions` and `seed` |
    | `root.csv` with the header `path,label,split` | as the folders of these splits |
    | `root.zip`, `root.tar`, `root.tar.gz`, `root.tgz` | as the folder in it |

    The folder `val` may be named `valid` or `validation`. In an archive, one more folder may hold everything. Archives
    are read where they are, one image at a time; a .tar.gz is expanded into a temporary file first. Paths in a csv file
    are absolute, or relative to its folder.

    Classes are numbered in the alphabetical order of their names, and the samples of a split are sorted by class and
    name of the file, so that all layouts of the same images and split give the same samples in the same order. A class
    may be missing from val and test, not from train.

    By `fractions`, every class is split alone. Of n images, val and test get their fraction of n, rounded to the
    nearest integer and up at a half, and train gets the rest. If nothing is left for train, the larger of val and test
    gives up one image (test, if they are equal): a class of one image is in train. Where only val is missing, the
    images in train are divided between train and val in the proportion of their fractions.

    With `classes`, the images are to evaluate a model on: any of the splits may be missing, and classes may have no
    images.

    Args:
        root: The folder, archive or csv file.
        model: A model with a timm data configuration, which sets size, crop and normalisation.
        fractions: Fractions of train, val and test of images that are not split yet; that of test may be 0.
        seed: Seed of that split.
        classes: Names of a model's classes, by index, with which those of the images are matched; default: the classes
            of the images.
        imagenet_statistics: Normalise with ImageNet's mean and standard deviation instead of the model's.
        check: Open every image now, so that an unreadable one raises before training.
        progress: Called after each checked image.

    Returns:
        The three splits, named after the folder or file, with `class_names`.

    Raises:
        DataError: The layout is another one, train or val is empty, a class is missing from train, a file is not an
            image (hidden files are skipped), a folder within a class is a symbolic link, a member of an archive has an
            unsafe path, or `fractions` or `seed` are given for images that are split already. With `classes`: a class
            is none of them.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from tensorfact.lab import image_folder, nano
        >>> with tempfile.TemporaryDirectory() as root:
        ...     for name in ("cat", "dog"):
        ...         Path(root, name).mkdir()
        ...         for number in range(10):
        ...             Image.new("RGB", (40, 30)).save(Path(root, name, f"{number}.png"))
        ...     data = image_folder(root, nano(), fractions=(0.6, 0.2, 0.2))
        >>> data.sizes, data.class_names
        ({'train': 12, 'val': 4, 'test': 4}, ('cat', 'dog'))

        Images to evaluate a model of three classes on need no training images:

        >>> with tempfile.TemporaryDirectory() as root:
        ...     Path(root, "test", "dog").mkdir(parents=True)
        ...     Image.new("RGB", (40, 30)).save(Path(root, "test", "dog", "1.png"))
        ...     data = image_folder(root, nano(), classes=("cat", "dog", "owl"))
        ...     labels = [label for _, label in data.test]
        >>> data.sizes, labels
        ({'train': 0, 'val': 0, 'test': 1}, [1])
    """
    path = file_path(root, "image_folder: root", DataError, example="data/flowers")
    flag(check, "image_folder: check", DataError)
    shares = check_fractions(fractions, "image_folder: fractions")
    seed = whole_number(seed, "image_folder: seed", DataError, least=0)
    transform = transform_of(model, imagenet_statistics=imagenet_statistics)
    known = check_names(classes, "image_folder: classes")
    found, opener = _read(path, partial=bool(known))
    entries = _split(path, sorted(found, key=lambda entry: entry.order), shares, seed)
    own = sorted({entry.label for entry in entries})
    if known:
        require_known(own, known)
    else:
        _require_training(path, entries, drawn=bool(_drawn(found)))
    names = known or tuple(own)
    numbers = {name: number for number, name in enumerate(names)}
    parts = {}
    for split in SPLITS:
        part = [entry for entry in entries if entry.split == split]
        if check:
            check_images([(entry.where, entry.file) for entry in part], f"checking {split}", progress, opener)
        parts[split] = ListedImages([(entry.file, numbers[entry.label]) for entry in part], transform, opener)
    title = Path(os.path.abspath(path)).name
    title = title[: len(title) - len(_ending(path))] if path.is_file() else title
    return Splits(title, parts["train"], parts["val"], parts["test"], len(names), class_names=names)


def _ending(path: Path) -> str:
    """Return the end of the name of an archive or csv file; empty for another name."""
    return next((ending for ending in ENDINGS if path.name.lower().endswith(ending)), "")


def is_path(name: str) -> bool:
    """Return whether a name is a path of images: there is a file or folder, or it is spelled like a path."""
    spelled = any(mark in name for mark in ("/", os.sep)) or name.lower().endswith(ENDINGS)
    return spelled or os.path.exists(name)


def drawn_splits(root: AnyPath) -> tuple[str, ...]:
    """Return the splits that `image_folder` draws by fractions and seed: all of them, train and val, or none.

    Args:
        root: The folder, archive or csv file.

    Raises:
        DataError: As `image_folder`.
    """
    found, _ = _read(file_path(root, "drawn_splits: root", DataError, example="data/flowers"), partial=True)
    return _drawn(found)


def _drawn(entries: Sequence[Entry]) -> tuple[str, ...]:
    """Return the splits that are to be drawn."""
    given = {entry.split for entry in entries}
    return SPLITS if None in given else ("train", "val") if given == {"train", "test"} else ()


def _read(path: Path, *, partial: bool) -> tuple[list[Entry], Opener]:
    """Return the images of any layout, and what opens them; classes and splits of a partial one may be empty."""
    try:
        refuse_pipe(path)
        if path.is_dir():
            return tree_entries(folder_tree(path), partial=partial), open_rgb
    except OSError as error:
        raise DataError(f"{path} cannot be read", got=str(error), fix="give a folder that you may read") from error
    if not path.exists():
        raise DataError(f"{path} does not exist", expected=LAYOUTS, fix="check the path")
    ending = _ending(path)
    if ending == ".csv":
        return csv_entries(path), open_rgb
    if ending:
        archive = ARCHIVES[ending](path)
        return tree_entries(archive_tree(str(path), archive.paths), partial=partial), archive.open_rgb
    raise DataError(f"{path} is not a folder, an archive or a csv file", expected=LAYOUTS, fix="give one of these")


def _split(path: Path, entries: Sequence[Entry], fractions: Fractions, seed: int) -> list[Entry]:
    """Return sorted entries with their splits: their own, or drawn by class."""
    drawn = _drawn(entries)
    for name, given, usual in (("fractions", fractions, FRACTIONS), ("seed", seed, 0)):
        if not drawn and given != usual:
            raise DataError(
                f"image_folder: {name} does not apply to {path}, which is split already", fix=f"leave {name} out"
            )
    train, val, _ = fractions
    shares = (train / (train + val), val / (train + val), 0.0) if drawn == ("train", "val") else fractions
    free = [entry for entry in entries if entry.split in (None, *drawn)]
    chosen = iter(stratify([entry.label for entry in free], shares, seed=seed))
    return [entry._replace(split=next(chosen)) if entry.split in (None, *drawn) else entry for entry in entries]


def _require_training(path: Path, entries: Sequence[Entry], *, drawn: bool) -> None:
    """Reject images that cannot be trained on: without train or val, or with a class that is missing from train."""
    trained = {entry.label for entry in entries if entry.split == "train"}
    splits = {entry.split for entry in entries}
    if not trained:
        raise DataError(
            f"{path} has no training images",
            expected=LAYOUTS,
            got=f"images in {' and '.join(split for split in SPLITS if split in splits)}",
            fix="add train/CLASS/FILE; to evaluate a model on these images: tensorfact evaluate FOLDER DATA, or "
            "classes=, the names of its classes, in Python",
        )
    for entry in entries:
        if entry.label not in trained:
            raise DataError(
                f"{path}: the class {entry.label!r} is missing from train",
                got=f"an image in {entry.split}: {entry.where}",
                fix=f"add images of {entry.label!r} to train, or remove the class",
            )
    if "val" not in splits:
        single = len(trained) == len(entries)
        few = "pass fractions=(0.5, 0.5, 0), or add images: the classes are too small for these fractions"
        few = "add images: every class has a single one, which is needed to train" if single else few
        alone = "add val or test beside train; or give the folder train itself, or a list without the column split"
        raise DataError(f"{path} has no images in val", fix=few if drawn else alone)
