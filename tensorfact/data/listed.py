"""Images named by lists of lines `PATH LABEL`: VTAB-1K and few-shot benchmarks, as the field passes them around."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torch.utils.data import Dataset

from ..errors import DataError, nearest
from ..progress import Progress, silent
from .images import check_images, transform_of
from .splits import Splits


@dataclasses.dataclass(frozen=True)
class Task:
    """One task of a benchmark.

    Args:
        name: Its folder.
        classes: How many classes it has.
        group: The group whose mean it enters.
    """

    name: str
    classes: int
    group: str


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
        from PIL import Image

        path, label = self.samples[index]
        with Image.open(path) as image:
            return self.transform(image.convert("RGB")), label


def vtab(
    root: str | Path, name: str, model: nn.Module, *, imagenet_statistics: bool = False, progress: Progress = silent
) -> Splits:
    """Return a task of VTAB-1K: 800 images to train on, 200 to choose by, the test split to report on.

    Images are resized to the model's input without a crop. Every file is opened before anything trains.

    Args:
        root: The folder that holds one folder a task: `NAME/{train800,val200,test}.txt`, images below `NAME/images`.
        name: The task, one of `VTAB`.
        model: A model with a timm data configuration; decides size and normalisation.
        imagenet_statistics: Normalise by ImageNet's mean and deviation, as the released code of FacT does, instead of
            the model's own.
        progress: Called as files are checked.

    Returns:
        The three parts.

    Raises:
        DataError: An unknown task, a missing list or image, a line or label that is none; file and line are named.
    """
    if name not in VTAB:
        raise DataError(
            f"vtab: task {name!r}", expected=f"one of {', '.join(VTAB)}", got=f"{name!r}{nearest(name, VTAB)}"
        )
    task = VTAB[name]
    folder = Path(root, task.name)
    lists = {"train": "train800.txt", "val": "val200.txt", "test": "test.txt"}
    changes: dict[str, Any] = {"crop_mode": "squash", "crop_pct": 1.0}
    if imagenet_statistics:
        changes |= {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}
    transform = transform_of(model, **changes)
    parts = {
        split: ListedImages(_samples(folder / file, folder, task.classes, f"checking {name}", progress), transform)
        for split, file in lists.items()
    }
    return Splits(name, parts["train"], parts["val"], parts["test"], task.classes)


def few_shot(
    root: str | Path,
    model: nn.Module,
    *,
    shots: int,
    seed: int,
    classes: int | None = None,
    progress: Progress = silent,
) -> Splits:
    """Return a task of the few-shot benchmark: `shots` images of each class to train on.

    Args:
        root: The task's folder: lists below `annotations`, images below `images`, or, where the path contains
            `stanford_cars`, below the folder itself.
        model: A model with a timm data configuration; decides size, crop and normalisation.
        shots: 1, 2, 4, 8 or 16.
        seed: Which of the lists, 0 to 2.
        classes: How many classes there are; by default as many as the highest label says.
        progress: Called as files are checked.

    Returns:
        The three parts.

    Raises:
        DataError: A missing list or image, a line or label that is none; file and line are named.
    """
    folder = Path(root)
    below = folder if "stanford_cars" in str(folder) else folder / "images"
    lists = {"train": f"train_meta.list.num_shot_{shots}.seed_{seed}", "val": "val_meta.list", "test": "test_meta.list"}
    samples = {
        split: _samples(folder / "annotations" / file, below, classes, f"checking {folder.name}", progress)
        for split, file in lists.items()
    }
    count = classes or 1 + max(label for part in samples.values() for _, label in part)
    transform = transform_of(model)
    parts = {split: ListedImages(part, transform) for split, part in samples.items()}
    return Splits(f"{folder.name}, {shots} shot(s)", parts["train"], parts["val"], parts["test"], count)


def _samples(listed: Path, below: Path, classes: int | None, task: str, progress: Progress) -> list[tuple[Path, int]]:
    """Read a list and open what it names."""
    try:
        lines = listed.read_text().splitlines()
    except OSError as error:
        raise DataError(
            f"{listed} cannot be read", got=str(error), fix="lay the folder out as vtab() and few_shot() say"
        ) from error
    samples = []
    for number, line in enumerate(lines, 1):
        where = f"{listed}, line {number}"
        path, _, label = line.strip().rpartition(" ")  # a path may hold spaces
        if not path or not label.isdecimal() or (classes is not None and int(label) >= classes):
            highest = "0 up" if classes is None else f"0 to {classes - 1}"
            raise DataError(where, expected=f"a path and a label from {highest}", got=repr(line))
        samples.append((below / path.strip(), int(label), where))
    if not samples:
        raise DataError(f"{listed} is empty", expected="lines such as 'images/test/000000.jpg 3'")
    check_images([(f"{where}: {path}", str(path)) for path, _, where in samples], task, progress)
    return [(path, label) for path, label, _ in samples]
