"""Images named by lists of lines `PATH LABEL`: VTAB-1K and few-shot benchmarks, as the field passes them around."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.utils.data import Dataset

from ...common.checks import AnyPath, one_of
from ...common.progress import Progress, silent
from ...errors import DataError
from .images import check_images, open_rgb, transform_of
from .splits import Splits, check_classes


@dataclasses.dataclass(frozen=True)
class Task:
    """One task of a benchmark.

    Args:
        name: What it is called; for a task of a benchmark its folder.
        classes: How many classes it has; None where only the data says.
        group: The group whose mean it enters.
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
"""The five tasks of the few-shot benchmark, by the folders that circulate."""


class Listed(NamedTuple):
    """A line of a list: what it is called, the image's path as it stands there, and the label."""

    where: str
    path: str
    label: int


class ListedImages(Dataset[tuple[Tensor, int]]):
    """Images on disk, opened when they are asked for.

    Args:
        samples: Path and label of every image.
        transform: From an image to a tensor.
    """

    def __init__(self, samples: list[tuple[Path, int]], transform: Callable[[Any], Tensor]) -> None:
        self.samples, self.transform = samples, transform

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.samples[index]
        return self.transform(open_rgb(path)), label


def vtab(
    root: AnyPath,
    name: str,
    model: nn.Module,
    *,
    imagenet_statistics: bool = False,
    check: bool = True,
    progress: Progress = silent,
) -> Splits:
    """Return a task of VTAB-1K: 800 images to train on, 200 to choose by, the test split to report on.

    Images are resized to the model's input without a crop. `train800val200.txt`, which the field's final runs train
    on, must agree with the two lists it is made of: line by line, or, where it names copies of its own as the released
    script writes them (`images/train800val200/000000.jpg`), label by label. `Splits.final` is the two joined.

    Args:
        root: The folder that holds one folder a task: `NAME/{train800,val200,train800val200,test}.txt`, images below
            `NAME/images`.
        name: The task, one of `VTAB`.
        model: A model with a timm data configuration; decides size and normalisation.
        imagenet_statistics: Normalise by ImageNet's mean and deviation, as the released code of FacT does, instead of
            the model's own.
        check: Open every image before anything trains. Lists and labels are read in any case.
        progress: Called as files are checked.

    Returns:
        The three parts.

    Raises:
        DataError: An unknown task, a missing list or image, an invalid line or label, or a combined list that
            disagrees with its parts; file and line are named.
    """
    one_of(name, VTAB, "vtab: name", DataError)
    task, folder = VTAB[name], Path(root, name)
    listed = {
        file: _read(folder / f"{file}.txt", task.classes) for file in ("train800", "val200", "train800val200", "test")
    }
    _agree([*listed["train800"], *listed["val200"]], listed["train800val200"])
    transform = transform_of(model, imagenet_statistics=imagenet_statistics, crop_mode="squash", crop_pct=1.0)
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
    """Return a task of the few-shot benchmark: `shots` images of each class to train on.

    Lists are taken as they are: those of pets with one shot, as they circulate, name every image twice.

    Args:
        root: The task's folder: lists below `annotations`, images below `images`, or, where the path contains
            `stanford_cars`, below the folder itself.
        model: A model with a timm data configuration; decides size, crop and normalisation.
        shots: 1, 2, 4, 8 or 16.
        seed: Which of the lists, 0 to 2.
        classes: How many classes there are, `FEW_SHOT[name].classes`; by default as many as the highest label says.
        imagenet_statistics: Normalise by ImageNet's mean and deviation instead of the model's own.
        check: Open every image before anything trains. Lists and labels are read in any case.
        progress: Called as files are checked.

    Returns:
        The three parts.

    Raises:
        DataError: A missing list or image, an invalid line or label, a path that leaves the folder, or a number of
            classes that is none; file and line are named.
    """
    check_classes(classes)
    folder = Path(root)
    below = folder if "stanford_cars" in str(folder) else folder / "images"
    files = {"train": f"train_meta.list.num_shot_{shots}.seed_{seed}", "val": "val_meta.list", "test": "test_meta.list"}
    lists = {split: _read(folder / "annotations" / file, classes) for split, file in files.items()}
    transform = transform_of(model, imagenet_statistics=imagenet_statistics)
    name = f"{folder.name}, {shots} shot(s)"
    found = _open(name, lists, below, classes, transform, progress if check else None)
    return dataclasses.replace(found, held_out=False)  # the shots are all there is to train on


def _read(path: Path, classes: int | None) -> list[Listed]:
    """Read a list."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors write a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read", got=str(error), fix="lay the folder out as vtab() and few_shot() say"
        ) from error
    if not text.strip():
        raise DataError(f"{path} is empty", expected="lines such as 'images/test/000000.jpg 3'")
    lines = []
    for number, line in enumerate(text.removesuffix("\n").split("\n"), 1):
        where = f"{path}, line {number}"
        image, _, label = line.strip().rpartition(" ")  # a path may hold spaces
        a_label = label.isascii() and label.isdigit() and len(label) < 7
        if not image or not a_label or (classes is not None and int(label) >= classes):
            highest = "0 up" if classes is None else f"0 to {classes - 1}"
            raise DataError(where, expected=f"a path and a label from {highest}", got=repr(line[:200]))
        if os.path.isabs(image) or os.path.normpath(image).split(os.sep)[0] == os.pardir:
            raise DataError(f"{where}: the path {image!r}", expected="one within the images' folder")
        lines.append(Listed(where, image.strip(), int(label)))
    return lines


def _agree(parts: list[Listed], whole: list[Listed]) -> None:
    """Refuse a list that does not hold what the lists hold that it is made of."""
    shared = {line.path for line in parts} & {line.path for line in whole}

    def said(line: Listed) -> str:
        return f"{line.path} {line.label}" if shared else f"label {line.label}"  # copies have paths of their own

    for lines, others, verb in ((whole, parts, "is not in"), (parts, whole, "is missing from")):
        left = Counter(map(said, others))
        for line in lines:
            left[said(line)] -= 1
            if left[said(line)] < 0:
                other = "train800.txt and val200.txt" if lines is whole else "train800val200.txt"
                raise DataError(
                    f"{line.where}: {said(line)!r} {verb} {other}",
                    expected="train800val200.txt to hold what train800.txt and val200.txt hold",
                    got=f"a wrong count: {len(whole)} lines for {len(parts)}",
                    fix="copy the task's lists again, all four from one source",
                )


def _open(
    name: str,
    lists: Mapping[str, list[Listed]],
    below: Path,
    classes: int | None,
    transform: Callable[[Any], Tensor],
    progress: Progress | None,
) -> Splits:
    """Make the parts of lists; their images are opened where there is a `progress` to report to."""
    for lines in lists.values() if progress else ():
        named = [(f"{where}: {below / path}", str(below / path)) for where, path, _ in lines]
        check_images(named, f"checking {name}", progress or silent)
    parts = {
        split: ListedImages([(below / path, label) for _, path, label in lines], transform)
        for split, lines in lists.items()
    }
    count = classes or 1 + max(line.label for lines in lists.values() for line in lines)
    return Splits(name, parts["train"], parts["val"], parts["test"], count)
