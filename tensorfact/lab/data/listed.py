"""Images listed in text files of lines `PATH LABEL`: the VTAB-1K and few-shot benchmarks in their usual layout."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import nn

from ...common.checks import AnyPath, file_path, flag, one_of, whole_number
from ...common.progress import Progress, silent
from ...errors import DataError
from .images import ListedImages, Transform, check_images, refuse_pipe, transform_of
from .splits import Splits, check_classes


@dataclasses.dataclass(frozen=True)
class Task:
    """One task of a benchmark.

    Args:
        name: Name of the task; in a benchmark also the name of its folder.
        classes: Number of classes; None if only the data tells.
        group: Group of tasks that a benchmark averages over; empty outside benchmarks.
    """

    name: str
    classes: int | None
    group: str = ""


def _tasks(group: str, **classes: int) -> dict[str, Task]:
    return {name: Task(name, count, group) for name, count in classes.items()}


VTAB = {
    **_tasks(
        "natural", cifar=100, caltech101=102, dtd=47, oxford_flowers102=102, oxford_iiit_pet=37, svhn=10, sun397=397
    ),
    **_tasks("specialized", patch_camelyon=2, eurosat=10, resisc45=45, diabetic_retinopathy=5),
    **_tasks("structured", clevr_count=8, clevr_dist=6, dmlab=6, kitti=4),
    **_tasks("structured", dsprites_loc=16, dsprites_ori=16, smallnorb_azi=18, smallnorb_ele=9),
}
"""The 19 tasks of VTAB-1K, in the paper's order."""

FEW_SHOT = _tasks(
    "few-shot",
    **{"food-101": 101, "oxford_pets": 37, "stanford_cars": 196, "oxford-flowers102": 102, "fgvc_aircraft": 100},
)
"""The five tasks of the few-shot benchmark, named like the folders of the published data."""


class Listed(NamedTuple):
    """One line of a list: its file and line number for messages, the image's path as written, and the label."""

    where: str
    path: str
    label: int


def vtab(
    root: AnyPath,
    name: str,
    model: nn.Module,
    *,
    imagenet_statistics: bool = False,
    check: bool = True,
    progress: Progress = silent,
) -> Splits:
    """Return a task of VTAB-1K: 800 training images, 200 validation images, and the test images.

    Images are resized to the model's input without a crop. `train800val200.txt`, the usual training list of final runs,
    must agree with the two lists that it combines: line by line, or, if it lists copies of the images as the released
    script does (`images/train800val200/000000.jpg`), label by label. `Splits.final` joins the two lists.

    Args:
        root: Folder with one folder per task: `NAME/{train800,val200,train800val200,test}.txt`, images below
            `NAME/images`.
        name: Name of the task, one of `VTAB`.
        model: A model with a timm data configuration, which sets size and normalisation.
        imagenet_statistics: Normalise with ImageNet's mean and standard deviation, as the released code of FacT does,
            instead of the model's.
        check: Open every image now, so that an unreadable one raises before training. Lists and labels are
            always read.
        progress: Called after each checked image.

    Returns:
        The three splits.

    Raises:
        DataError: An unknown task, a missing list or image, an invalid line or label, or a combined list that
            disagrees with its parts; the message names file and line.
    """
    one_of(name, VTAB, "vtab: name", DataError)
    flag(check, "vtab: check", DataError)
    transform = transform_of(model, imagenet_statistics=imagenet_statistics, crop_mode="squash", crop_pct=1.0)
    task, folder = VTAB[name], file_path(root, "vtab: root", DataError, example="vtab-1k") / name
    listed = {
        file: _read(folder / f"{file}.txt", task.classes) for file in ("train800", "val200", "train800val200", "test")
    }
    _agree([*listed["train800"], *listed["val200"]], listed["train800val200"])
    lists = {"train": listed["train800"], "val": listed["val200"], "test": listed["test"]}
    return _open(name, lists, folder, task.classes, transform, progress if check else None)


def few_shot(
    root: AnyPath,
    model: nn.Module,
    *,
    shots: int,
    seed: int,
    classes: int | None = None,
    imagenet_statistics: bool = False,
    check: bool = True,
    progress: Progress = silent,
) -> Splits:
    """Return a task of the few-shot benchmark: `shots` training images per class.

    Lists are used as published: those of pets with one shot contain every image twice.

    Args:
        root: Folder of the task: lists below `annotations`, images below `images` or, if the path contains
            `stanford_cars`, below the folder itself.
        model: A model with a timm data configuration, which sets size, crop and normalisation.
        shots: Training images per class: 1, 2, 4, 8 or 16.
        seed: Seed of the published list, 0 to 2.
        classes: Number of classes, `FEW_SHOT[name].classes`; default: the highest label plus one.
        imagenet_statistics: Normalise with ImageNet's mean and standard deviation instead of the model's.
        check: Open every image now, so that an unreadable one raises before training. Lists and labels are
            always read.
        progress: Called after each checked image.

    Returns:
        The three splits.

    Raises:
        DataError: A missing list or image, an invalid line or label, a path outside the folder, or an invalid number of
            classes; the message names file and line.
    """
    check_classes(classes)
    flag(check, "few_shot: check", DataError)
    transform = transform_of(model, imagenet_statistics=imagenet_statistics)
    shots = whole_number(shots, "few_shot: shots", DataError)
    seed = whole_number(seed, "few_shot: seed", DataError, least=0)
    folder = file_path(root, "few_shot: root", DataError, example="few-shot/food-101")
    below = folder if "stanford_cars" in str(folder) else folder / "images"
    files = {"train": f"train_meta.list.num_shot_{shots}.seed_{seed}", "val": "val_meta.list", "test": "test_meta.list"}
    lists = {split: _read(folder / "annotations" / file, classes) for split, file in files.items()}
    name = f"{folder.name}, {shots} shot(s)"
    found = _open(name, lists, below, classes, transform, progress if check else None)
    return dataclasses.replace(found, held_out=False)  # `val` is not part of the shots


def _read(path: Path, classes: int | None) -> list[Listed]:
    """Return the lines of a list."""
    try:
        refuse_pipe(path)
        text = path.read_text(encoding="utf-8-sig")  # some editors write a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read",
            got=str(error),
            fix="use the folder layout in the documentation of vtab and few_shot",
        ) from error
    if not text.strip():
        raise DataError(f"{path} is empty", expected="lines such as 'images/test/000000.jpg 3'")
    lines = []
    for number, line in enumerate(text.removesuffix("\n").split("\n"), 1):
        where = f"{path}, line {number}"
        image, _, label = line.strip().rpartition(" ")  # a path may hold spaces
        a_label = label.isascii() and label.isdigit() and len(label) < 7
        if not image or not a_label or (classes is not None and int(label) >= classes):
            allowed = "at least 0" if classes is None else f"0 to {classes - 1}"
            raise DataError(where, expected=f"a path and a label of {allowed}", got=repr(line[:200]))
        if os.path.isabs(image) or os.path.normpath(image).split(os.sep)[0] == os.pardir:
            raise DataError(f"{where}: the path {image!r}", expected="a path inside the folder of images")
        lines.append(Listed(where, image.strip(), int(label)))
    return lines


def _agree(parts: list[Listed], whole: list[Listed]) -> None:
    """Reject a combined list that disagrees with the two lists that it combines."""
    shared = {line.path for line in parts} & {line.path for line in whole}

    def content(line: Listed) -> str:
        return f"{line.path} {line.label}" if shared else f"label {line.label}"  # copies have other paths

    for lines, others, verb in ((whole, parts, "is not in"), (parts, whole, "is missing from")):
        left = Counter(map(content, others))
        for line in lines:
            left[content(line)] -= 1
            if left[content(line)] < 0:
                other = "train800.txt and val200.txt" if lines is whole else "train800val200.txt"
                raise DataError(
                    f"{line.where}: {content(line)!r} {verb} {other}",
                    expected="train800val200.txt to contain train800.txt and val200.txt",
                    got=f"{len(whole)} lines instead of {len(parts)}",
                    fix="download all four lists of the task again, from one source",
                )


def _open(
    name: str,
    lists: Mapping[str, list[Listed]],
    below: Path,
    classes: int | None,
    transform: Transform,
    progress: Progress | None,
) -> Splits:
    """Make the splits of lists; with `progress`, open their images first."""
    if progress is not None:
        for lines in lists.values():
            named = [(f"{where}: {below / path}", str(below / path)) for where, path, _ in lines]
            check_images(named, f"checking {name}", progress)
    parts = {
        split: ListedImages([(str(below / path), label) for _, path, label in lines], transform)
        for split, lines in lists.items()
    }
    count = classes or 1 + max(line.label for lines in lists.values() for line in lines)
    return Splits(name, parts["train"], parts["val"], parts["test"], count)
