"""Data sets of other libraries: what `timm.data.create_dataset` names, and Hugging Face's `datasets`."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from timm.data import create_dataset
from torch import nn
from torch.utils.data import IterableDataset, Subset

from ...common.checks import AnyPath
from ...common.progress import Progress, silent
from ...errors import DataError, nearest
from .images import ImageSource, SourceImages, transform_of
from .splits import SPLITS, Splits, check_classes, cut

VALIDATION = ("validation", "val", "valid")
"""What data sets call the part to choose by."""
SCHEMES = ("torch", "hfds", "hfids", "tfds", "wds")
"""How timm's names of data begin that is no folder."""


class _Files:
    """timm's reader, strictly: its data set skips an image that it cannot read."""

    def __init__(self, reader: Any) -> None:
        self.reader = reader

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int, /) -> tuple[Image.Image, int]:
        file, label = self.reader[index]
        with file, Image.open(file) as image:
            image.load()
            return image, label


class _Rows:
    """The rows of a Hugging Face data set."""

    def __init__(self, rows: Any, image: str, labels: Sequence[int]) -> None:
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
    """Return a data set by timm's name for it, with the transform a model was made for.

    Data that timm only streams (`tfds/...`, `hfids/...`, `wds/...`) is read into memory.

    Args:
        name: What `timm.data.create_dataset` takes: `hfds/NAME`, `tfds/NAME`, `torch/cifar10`, ..., or a folder,
            relative to `root`.
        model: A model with a timm data configuration; decides size, crop and normalisation.
        root: The folder that holds the data, or receives it.
        train_split: timm's name of the part to train on.
        val_split: timm's name of the part to choose by; None holds it out of the part to train on.
        test_split: timm's name of the part to report on; None holds it out of the part to train on.
        train: How many to train on; by default all that are left.
        val: How many to hold out to choose by.
        test: How many to hold out to report on.
        classes: How many classes there are; by default what timm's reader knows, else what the highest label says.
        seed: Seed of what is held out.
        download: Let timm fetch what is not there.
        imagenet_statistics: Normalise by ImageNet's mean and deviation instead of the model's own.
        check: Open every image before anything trains.
        progress: Called as files are checked.

    Returns:
        The three parts.

    Raises:
        DataError: timm cannot make it, two parts are the same samples or differ in their classes, or an image is
            none.
    """
    if not name and root is None:
        raise DataError("timm_dataset: neither a name nor a root", fix="pass one, timm_dataset('hfds/NAME', model)")
    check_classes(classes)
    if name.partition("/")[0].lower() not in SCHEMES:
        folder = Path(root or "", name)
        if not folder.exists():
            raise DataError(
                f"timm_dataset: {name!r} is neither a folder nor a name that timm knows",
                expected=f"a folder, {str(folder)!r}, or a name that begins with {'/, '.join(SCHEMES)}/",
                fix="write torch/cifar10, hfds/NAME or the like, or name the root that holds the folder",
            )
        name, root = "", folder  # timm takes the root for the folder, whatever the name
    what = name or Path(root or "").name
    splits = {"train": train_split, "val": val_split, "test": test_split}
    made = {part: _timm(name, root, split, download) for part, split in splits.items() if split is not None}
    readers = {part: getattr(data, "reader", data) for part, (data, _) in made.items()}
    known = {part: dict(getattr(reader, "class_to_idx", {})) for part, reader in readers.items()}
    for part in made:
        if known[part] != known["train"]:
            differ = sorted(map(str, set(known[part]) ^ set(known["train"])))[:5]
            raise DataError(f"{what}: {splits[part]} has other classes than train", got=f"differing in {differ}")
    count = classes or len(known["train"]) or _count(made["train"][1], what)
    transform = transform_of(model, imagenet_statistics=imagenet_statistics)
    images = {
        part: SourceImages(source, transform, count, f"{what}, {splits[part]}") for part, (_, source) in made.items()
    }
    files = {part: {path for path, _ in getattr(reader, "samples", ())} for part, reader in readers.items()}
    _apart(
        what,
        splits,
        made,
        lambda one, part: bool(files[one] & files[part]) if files[one] else _alike(images[one], images[part]),
        "timm takes all there is where it finds no such part",
    )
    return _splits(what, images, {"train": train, "val": val, "test": test}, seed, progress if check else None)


def hugging_face(
    data: Any,
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
    """Return a data set of Hugging Face's package `datasets`, with the transform a model was made for.

    Args:
        data: A name on the hub, a folder that `save_to_disk` wrote or that `load_dataset` reads (images in folders of
            classes, say), a `DatasetDict`, or a `Dataset`, which is taken for the part to train on.
        model: A model with a timm data configuration; decides size, crop and normalisation.
        config: The hub's name of a configuration, where there are several.
        root: The folder in which `datasets` keeps what it prepares.
        image: The column of images.
        label: The column of labels: class labels, integers from 0, or strings, which are numbered in their order.
        train_split: The part to train on.
        val_split: The part to choose by; by default the one called so, and where there is none it is held out of the
            part to train on.
        test_split: The part to report on; by default `test`, held out likewise.
        train: How many to train on; by default all that are left.
        val: How many to hold out to choose by.
        test: How many to hold out to report on; needed where there is no such part.
        seed: Seed of what is held out.
        imagenet_statistics: Normalise by ImageNet's mean and deviation instead of the model's own.
        check: Open every image before anything trains.
        progress: Called as images are checked.

    Returns:
        The three parts.

    Raises:
        DataError: The package or the data is missing, a part or column is not there, two parts are the same samples or
            differ in their classes, a label is none, or an image is none.
    """
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
    labels, count = _labels({part: table[label] for part, table in rows.items()}, rows["train"].features[label], what)
    transform = transform_of(model, imagenet_statistics=imagenet_statistics)
    images = {
        part: SourceImages(_Rows(table, image, labels[part]), transform, count, f"{what}, {names[part]}")
        for part, table in rows.items()
    }
    _apart(
        what,
        names,
        rows,
        lambda one, part: names[one] == names[part] or _alike(images[one], images[part]),
        "one part under two names",
    )
    return _splits(what, images, {"train": train, "val": val, "test": test}, seed, progress if check else None)


def _splits(
    what: str, images: dict[str, SourceImages], sizes: dict[str, int | None], seed: int, progress: Progress | None
) -> Splits:
    """Check what there is, and hold out of the part to train on what there is not."""
    for part in images.values() if progress else ():
        part.check(progress or silent)
    held = [part for part in SPLITS if part not in images]
    for missing in held:
        if sizes[missing] is None:
            use = {"train": "train on", "val": "choose by", "test": "report on"}[missing]
            raise DataError(
                f"{what} has no part to {use}", fix=f"{missing}=200 holds so many out of the part to train on"
            )
    parts: dict[str, Any] = dict(images)
    if held or sizes["train"] is not None:
        wanted = [*held, "train"]
        drawn = cut(len(images["train"]), [sizes[part] for part in wanted], seed=seed, what=what)
        parts |= {part: Subset(images["train"], places) for part, places in zip(wanted, drawn, strict=True)}
    return Splits(what, parts["train"], parts["val"], parts["test"], images["train"].classes)


def _timm(name: str, root: AnyPath | None, split: str, download: bool) -> tuple[Any, ImageSource]:
    """Let timm make one part; return it, and its samples by position."""
    place = None if root is None else str(root)
    try:
        data = create_dataset(name, root=place, split=split, download=download, is_training=False)
        if isinstance(data, IterableDataset):
            return data, list(data)
    except Exception as error:  # timm's readers raise whatever they meet
        raise DataError(
            f"timm makes no part {split!r} of {name or place!r}",
            got=f"{type(error).__name__}: {error}".removesuffix(": "),
            cause="no root, no such part, or data that is not there",
            fix="name the root and the parts, or pass download=True",
        ) from error
    return data, _Files(data.reader) if hasattr(data, "reader") else data  # torchvision's own have no reader


def _count(source: ImageSource, what: str) -> int:
    """Return how many classes the labels say there are."""
    try:
        return 1 + max(int(source[at][1]) for at in range(len(source)))
    except Exception as error:  # an image that cannot be read, or no label
        raise DataError(
            f"{what}: its labels cannot be read", got=str(error), fix="pass classes= how many there are"
        ) from error


def _apart(
    what: str, names: dict[str, Any], parts: Iterable[str], same: Callable[[str, str], bool], cause: str
) -> None:
    """Refuse two parts that hold the same samples."""
    for one, part in itertools.combinations(parts, 2):
        if same(one, part):
            raise DataError(
                f"{what}: the part {names[part]!r} holds samples of {names[one]!r}",
                cause=cause,
                fix=f"{part}_split= another part, or None and {part}= how many to hold out of the part to train on",
            )


def _alike(one: SourceImages, other: SourceImages) -> bool:
    """Tell whether two parts are the same samples, by their number and a few of them."""
    if len(one) != len(other) or not len(one):
        return False
    pairs = [(one.read(at), other.read(at)) for at in sorted({0, len(one) // 2, len(one) - 1})]
    return all(mine[1] == its[1] and mine[0].tobytes() == its[0].tobytes() for mine, its in pairs)


def _load(data: Any, config: str | None, root: AnyPath | None) -> Mapping[str, Any]:
    """Return the parts of a Hugging Face data set by name."""
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            "hugging_face needs the package datasets", got=str(error), fix="pip install 'tensorfact[train]'"
        ) from error
    if isinstance(data, (str, os.PathLike)):
        folder = Path(data)
        saved = (folder / "dataset_dict.json").exists() or (folder / "state.json").exists()
        try:
            if saved:
                data = datasets.load_from_disk(str(folder))
            else:
                data = datasets.load_dataset(str(data), config, cache_dir=None if root is None else str(root))
        except Exception as error:  # the package's readers raise whatever they meet
            raise DataError(f"datasets cannot load {str(data)!r}", got=f"{type(error).__name__}: {error}") from error
    found = data if isinstance(data, Mapping) else {"train": data}
    if any(not hasattr(table, "select_columns") or not hasattr(table, "__len__") for table in found.values()):
        raise DataError("hugging_face", expected="a name, a folder, a DatasetDict or a Dataset", got=repr(type(data)))
    return found


def _columns(found: Mapping[str, Any], split: str, image: str, label: str, what: str) -> Any:
    """Return one part's columns of images and labels."""
    from datasets import Image as ImageColumn

    if split not in found:
        raise DataError(
            f"{what} has no part {split!r}",
            expected=f"one of {', '.join(found)}",
            got=f"{split!r}{nearest(split, found)}",
        )
    table = found[split]
    for argument, column in (("image", image), ("label", label)):
        if column not in table.column_names:
            raise DataError(
                f"{what}, {split} has no column {column!r}",
                expected=f"one of {', '.join(table.column_names)}",
                fix=f"name it by {argument}=",
            )
    if not len(table):
        raise DataError(f"{what}, {split} is empty")
    try:
        return table.select_columns([image, label]).cast_column(image, ImageColumn())
    except Exception as error:  # pyarrow's errors are many
        raise DataError(f"{what}, {split}: column {image!r} holds no images", got=str(error)) from error


def _labels(columns: dict[str, Any], feature: Any, what: str) -> tuple[dict[str, list[int]], int]:
    """Return labels as class indices, and how many classes there are."""
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
                expected="a class of the part to train on" if words else "a class index",
                got=repr(list(columns[part])[wrong]),
            )
    count = len(names) if names else 1 + max(map(max, values.values()))
    return values, count
