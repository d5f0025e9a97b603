"""Data sets of other libraries: timm's `create_dataset`, and the Hugging Face package `datasets`."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from PIL import Image
from timm.data import create_dataset
from torch import nn
from torch.utils.data import IterableDataset, Subset

from ...common.checks import AnyPath, file_path, flag, quoted
from ...common.progress import Progress, silent
from ...errors import DataError, nearest
from ..training import Samples
from .images import ImageSource, SourceImages, opened, refuse_pipe, transform_of
from .splits import SPLITS, VALIDATION, Splits, check_classes, cut

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

SCHEMES = ("torch", "hfds", "hfids", "tfds", "wds")
"""Prefixes of timm's names for data sets that are not folders."""


class _Reader(Protocol):
    """A reader of timm: image files, opened, and their labels."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> tuple[BinaryIO, int]: ...


class _Files:
    """The images of a timm reader; timm's own data set would skip those that it cannot read."""

    def __init__(self, reader: _Reader) -> None:
        self.reader = reader

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int, /) -> tuple[Image.Image, int]:
        if hasattr(self.reader, "samples"):
            refuse_pipe(self.reader.samples[index][0])
        file, label = self.reader[index]
        with file, opened(file) as image:
            image.load()
            return image, label


class _Rows:
    """The rows of a Hugging Face data set."""

    def __init__(self, rows: Dataset, image: str, labels: Sequence[int]) -> None:
        self.rows, self.image, self.labels = rows.select_columns([image]), image, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int, /) -> tuple[Image.Image, int]:
        return self.rows[index][self.image], self.labels[index]


def timm_dataset(
    name: str,
    model: nn.Module,
    *,
    root: AnyPath | None = None,
    train_split: str = "train",
    val_split: str | None = None,
    test_split: str | None = "test",
    train: int | None = None,
    val: int = 200,
    test: int | None = None,
    classes: int | None = None,
    seed: int = 0,
    download: bool = False,
    imagenet_statistics: bool = False,
    check: bool = True,
    progress: Progress = silent,
) -> Splits:
    """Return a data set by its timm name, preprocessed for a model.

    Data that timm only streams (`tfds/...`, `hfids/...`, `wds/...`) is read into memory.

    Args:
        name: Name that `timm.data.create_dataset` takes: `hfds/NAME`, `tfds/NAME`, `torch/cifar10`, ..., or a folder
            relative to `root`.
        model: A model with a timm data configuration, which sets size, crop and normalisation.
        root: Folder that holds the data, or receives the download.
        train_split: timm's name of the training split.
        val_split: timm's name of the validation split; None: hold out `val` samples of the training split.
        test_split: timm's name of the test split; None: hold out `test` samples of the training split.
        train: Number of training samples; default: all that remain.
        val: Number of samples to hold out for validation.
        test: Number of samples to hold out for the test.
        classes: Number of classes; default: that of timm's reader, else the highest label plus one.
        seed: Seed of the samples to hold out.
        download: Let timm download missing data.
        imagenet_statistics: Normalise with ImageNet's mean and standard deviation instead of the model's.
        check: Open every image now, so that an unreadable one raises before training.
        progress: Called after each checked image.

    Returns:
        The three splits.

    Raises:
        DataError: timm cannot open the data, two splits hold the same samples or have different classes, or an image
            is not readable.
    """
    root = None if root is None else file_path(root, "timm_dataset: root", DataError, example="data")
    if not isinstance(name, str) or "\0" in name:
        raise DataError("timm_dataset: name", expected="a str", got=quoted(name), fix="name='hfds/NAME'")
    if not name and root is None:
        raise DataError("timm_dataset: name and root are missing", fix="pass a name such as 'hfds/NAME', or root=")
    flag(download, "timm_dataset: download", DataError)
    flag(check, "timm_dataset: check", DataError)
    check_classes(classes)
    transform = transform_of(model, imagenet_statistics=imagenet_statistics)
    if name.partition("/")[0].lower() not in SCHEMES:
        folder = Path(root or "", name)
        if not folder.exists():
            raise DataError(
                f"timm_dataset: {name!r} is neither a folder nor a name that timm knows",
                expected=f"the folder {str(folder)!r}, or a name that begins with {'/, '.join(SCHEMES)}/",
                fix="pass a name such as 'hfds/NAME' or 'torch/cifar10', or root= the folder that holds it",
            )
        name, root = "", folder  # timm reads the folder at the root, whatever the name
    what = name or Path(root or "").name
    splits = {"train": train_split, "val": val_split, "test": test_split}
    made = {part: _timm(name, root, split, download) for part, split in splits.items() if split is not None}
    readers = {part: getattr(data, "reader", data) for part, (data, _) in made.items()}
    known = {part: dict(getattr(reader, "class_to_idx", {})) for part, reader in readers.items()}
    for part in made:
        if known[part] != known["train"]:
            differ = sorted(map(str, set(known[part]) ^ set(known["train"])))[:5]
            raise DataError(f"{what}: {splits[part]} has other classes than train: {differ} are in one of them only")
    count = classes or len(known["train"]) or _count(made["train"][1], what)
    images = {
        part: SourceImages(source, transform, count, f"{what}, {splits[part]}") for part, (_, source) in made.items()
    }
    files = {part: {path for path, _ in getattr(reader, "samples", ())} for part, reader in readers.items()}
    _apart(
        what,
        splits,
        made,
        lambda one, part: bool(files[one] & files[part]) if files[one] else _alike(images[one], images[part]),
        "timm takes all samples where it does not find the split",
    )
    named = sorted((number, str(name)) for name, number in known["train"].items())
    names = tuple(name for _, name in named) if [at for at, _ in named] == list(range(count)) else ()
    return _splits(what, images, {"train": train, "val": val, "test": test}, seed, progress if check else None, names)


def hugging_face(
    data: AnyPath | Dataset | DatasetDict,
    model: nn.Module,
    *,
    config: str | None = None,
    root: AnyPath | None = None,
    image: str = "image",
    label: str = "label",
    train_split: str = "train",
    val_split: str | None = None,
    test_split: str | None = None,
    train: int | None = None,
    val: int = 200,
    test: int | None = None,
    seed: int = 0,
    imagenet_statistics: bool = False,
    check: bool = True,
    progress: Progress = silent,
) -> Splits:
    """Return a data set of the Hugging Face package `datasets`, preprocessed for a model.

    Args:
        data: Name on the hub, folder that `save_to_disk` wrote or `load_dataset` reads (such as one folder of images
            per class), `DatasetDict`, or `Dataset`, which becomes the training split.
        model: A model with a timm data configuration, which sets size, crop and normalisation.
        config: Name of the configuration, for a data set on the hub that has several.
        root: Cache folder of `datasets`.
        image: Name of the column of images.
        label: Name of the column of labels: class labels, integers from 0, or strings, numbered in alphabetical order.
        train_split: Name of the training split.
        val_split: Name of the validation split; default: `validation`, `val` or `valid`, else `val` samples are held
            out of the training split.
        test_split: Name of the test split; default: `test`, else `test` samples are held out of the training split.
        train: Number of training samples; default: all that remain.
        val: Number of samples to hold out for validation.
        test: Number of samples to hold out for the test; required if there is no test split.
        seed: Seed of the samples to hold out.
        imagenet_statistics: Normalise with ImageNet's mean and standard deviation instead of the model's.
        check: Open every image now, so that an unreadable one raises before training.
        progress: Called after each checked image.

    Returns:
        The three splits.

    Raises:
        DataError: The package or the data is missing, a split or column does not exist, two splits hold the same
            samples or have different classes, a label is missing, or an image is not readable.
    """
    flag(check, "hugging_face: check", DataError)
    transform = transform_of(model, imagenet_statistics=imagenet_statistics)
    root = None if root is None else file_path(root, "hugging_face: root", DataError, example="cache")
    found = _load(data, config, root)
    what = str(data) if isinstance(data, (str, os.PathLike)) else "hugging_face"
    names = {
        "train": train_split,
        "val": val_split or next((name for name in VALIDATION if name in found), None),
        "test": test_split or ("test" if "test" in found else None),
    }
    rows = {}
    for part, name in names.items():
        if name is not None:
            rows[part] = _columns(found, name, image, label, what)
    known = {part: getattr(table.features[label], "names", None) for part, table in rows.items()}
    for part, called in known.items():
        if called and known["train"] and called != known["train"]:
            raise DataError(
                f"{what}: {names[part]} has other classes than train", expected=f"{known['train']}", got=f"{called}"
            )
    columns = {part: table[label] for part, table in rows.items()}
    labels, count, called = _labels(columns, rows["train"].features[label], what)
    images = {
        part: SourceImages(_Rows(table, image, labels[part]), transform, count, f"{what}, {names[part]}")
        for part, table in rows.items()
    }
    _apart(
        what,
        names,
        rows,
        lambda one, part: names[one] == names[part] or _alike(images[one], images[part]),
        "one split under two names",
    )
    return _splits(what, images, {"train": train, "val": val, "test": test}, seed, progress if check else None, called)


def _splits(
    what: str,
    images: dict[str, SourceImages],
    sizes: dict[str, int | None],
    seed: int,
    progress: Progress | None,
    names: tuple[str, ...],
) -> Splits:
    """Check the images, and hold missing splits out of the training split."""
    if progress is not None:
        for source in images.values():
            source.check(progress)
    held = [part for part in SPLITS if part not in images]
    for missing in held:
        if sizes[missing] is None:
            raise DataError(
                f"{what} has no {missing} split", fix=f"pass {missing}=200 to hold out 200 training samples"
            )
    parts: dict[str, Samples] = {**images}
    if held or sizes["train"] is not None:
        wanted = [*held, "train"]
        drawn = cut(len(images["train"]), [sizes[part] for part in wanted], seed=seed, what=what)
        parts |= {part: Subset(images["train"], places) for part, places in zip(wanted, drawn, strict=True)}
    count = images["train"].classes
    return Splits(what, parts["train"], parts["val"], parts["test"], count, class_names=names)


def _timm(name: str, root: AnyPath | None, split: str, download: bool) -> tuple[object, ImageSource]:
    """Open one split with timm; return timm's data set, and its images and labels."""
    place = None if root is None else str(root)
    try:
        data = create_dataset(name, root=place, split=split, download=download, is_training=False)
        if isinstance(data, IterableDataset):
            return data, list(data)
    except Exception as error:  # timm's readers raise errors of many classes
        raise DataError(
            f"timm cannot open split {split!r} of {name or place!r}",
            got=f"{type(error).__name__}: {error}".removesuffix(": "),
            cause="a missing root, an unknown split, or missing data",
            fix="pass root= and the names of the splits, or download=True",
        ) from error
    return data, _Files(data.reader) if hasattr(data, "reader") else data  # torchvision's data sets have no reader


def _count(source: ImageSource, what: str) -> int:
    """Return the highest label plus one."""
    try:
        return 1 + max(int(source[at][1]) for at in range(len(source)))
    except Exception as error:  # an unreadable image, or no label
        raise DataError(
            f"{what}: cannot read the labels", got=str(error), fix="pass the number of classes, e.g. classes=10"
        ) from error


def _apart(
    what: str, names: Mapping[str, str | None], parts: Iterable[str], same: Callable[[str, str], bool], cause: str
) -> None:
    """Reject two splits that hold the same samples."""
    for one, part in itertools.combinations(parts, 2):
        if same(one, part):
            raise DataError(
                f"{what}: the splits {names[one]!r} and {names[part]!r} share samples",
                cause=cause,
                fix=f"pass another {part}_split, or {part}_split=None and {part}=200 to hold out 200 training samples",
            )


def _alike(one: SourceImages, other: SourceImages) -> bool:
    """Return whether two splits look the same: equal length, and equal first, middle and last samples."""
    if len(one) != len(other) or not len(one):
        return False
    pairs = [(one.read(at), other.read(at)) for at in sorted({0, len(one) // 2, len(one) - 1})]
    return all(mine[1] == its[1] and mine[0].tobytes() == its[0].tobytes() for mine, its in pairs)


def _load(data: Any, config: str | None, root: AnyPath | None) -> Mapping[str, Dataset]:
    """Return the splits of a Hugging Face data set by name."""
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            "hugging_face needs the package datasets", got=str(error), fix="pip install 'tensorfact[train]'"
        ) from error
    if isinstance(data, (str, os.PathLike)):
        folder = file_path(data, "hugging_face: data", DataError, example="data/flowers")
        saved = (folder / "dataset_dict.json").exists() or (folder / "state.json").exists()
        try:
            if saved:
                data = datasets.load_from_disk(str(folder))
            else:
                data = datasets.load_dataset(str(data), config, cache_dir=None if root is None else str(root))
        except Exception as error:  # the package's readers raise errors of many classes
            raise DataError(
                f"datasets cannot load {str(data)!r}",
                got=f"{type(error).__name__}: {error}",
                fix="check the name or the folder, and config=",
            ) from error
    found = data if isinstance(data, Mapping) else {"train": data}
    if any(not hasattr(table, "select_columns") or not hasattr(table, "__len__") for table in found.values()):
        raise DataError(
            "hugging_face: data",
            expected="a name, a folder, a DatasetDict or a Dataset",
            got=quoted(data),
            fix="data='NAME' or data='data/flowers'",
        )
    return found


def _columns(found: Mapping[str, Dataset], split: str, image: str, label: str, what: str) -> Dataset:
    """Return the columns of images and labels of one split."""
    from datasets import Image as ImageColumn

    if split not in found:
        raise DataError(
            f"{what} has no split {split!r}",
            expected=f"one of {', '.join(found)}",
            got=f"{split!r}{nearest(split, found)}",
        )
    table = found[split]
    for argument, column in (("image", image), ("label", label)):
        if column not in table.column_names:
            raise DataError(
                f"{what}, {split} has no column {column!r}",
                expected=f"one of {', '.join(table.column_names)}",
                fix=f"pass the right name as {argument}=",
            )
    if not len(table):
        raise DataError(f"{what}, {split} is empty", fix="pass a split with samples")
    try:
        return table.select_columns([image, label]).cast_column(image, ImageColumn())
    except Exception as error:  # pyarrow raises errors of many classes
        raise DataError(
            f"{what}, {split}: column {image!r} does not hold images",
            got=str(error),
            fix="pass image= the name of the column of images",
        ) from error


def _labels(
    columns: Mapping[str, Iterable[Any]], feature: object, what: str
) -> tuple[dict[str, list[int]], int, tuple[str, ...]]:
    """Return labels as class indices, the number of classes, and their names if the data says them."""
    values = {part: list(column) for part, column in columns.items()}
    names = getattr(feature, "names", None)
    if words := getattr(feature, "dtype", None) == "string":
        numbers = {name: at for at, name in enumerate(sorted(set(values["train"]) - {None}))}
        values = {part: [numbers.get(value, -1) for value in column] for part, column in values.items()}
        names = list(numbers)
    for part, column in values.items():
        wrong = next((at for at, value in enumerate(column) if not isinstance(value, int) or value < 0), None)
        if wrong is not None:
            raise DataError(
                f"{what}, {part}, sample {wrong} has no label",
                expected="a class of the training split" if words else "a class index",
                got=repr(list(columns[part])[wrong]),
            )
    count = len(names) if names else 1 + max(map(max, values.values()))
    return values, count, tuple(names or ())
