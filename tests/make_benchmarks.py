"""Write the benchmarks small, in the layouts the field passes around.

    python -m tests.make_benchmarks ROOT --images 2 --size 24

ROOT/vtab-1k gets the 19 tasks, ROOT/few-shot the five tasks with all their lists. An image is noise around its label's
colour, so that a few steps of training learn something.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
from PIL import Image

from tensorfact.lab.data import FEW_SHOT, VTAB

SHOTS, SEEDS = (1, 2, 4, 8, 16), (0, 1, 2)


def write_image(path: Path, label: int, number: int, size: int) -> None:
    """Write one image of a label."""
    random = np.random.default_rng([label, number])
    colour = np.random.default_rng(label).integers(40, 216, 3)
    noise = random.integers(-30, 31, (size, size + number % 3, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((colour + noise).astype(np.uint8)).save(path, quality=60)


def lay_out_vtab(root: Path, name: str, images: int = 3, size: int = 24) -> Path:
    """Write a task of VTAB-1K as the released script does: every list has copies of its images.

    Args:
        root: The folder of the tasks.
        name: The task.
        images: Images a list; their labels are the first ones.
        size: Pixels of a side.
    """
    classes = min(images, VTAB[name].classes or images)
    wholes = {"train800": range(images), "val200": range(images, 2 * images), "test": range(2 * images, 3 * images)}
    for split, numbers in {**wholes, "train800val200": range(2 * images)}.items():
        lines = []
        for at, number in enumerate(numbers):
            path, label = f"images/{split}/{at:06}.jpg", number % images % classes
            write_image(root / name / path, label, number, size)
            lines.append(f"{path} {label}")
        (root / name / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return root


def lay_out_few_shot(root: Path, name: str, images: int = 2, size: int = 24) -> Path:
    """Write a task of the few-shot benchmark: every class has 16 images, and lists take the first of them.

    Args:
        root: The folder of the tasks.
        name: The task.
        images: Classes that occur, and images a class in the lists to choose by and to report on.
        size: Pixels of a side.
    """
    below = "." if name == "stanford_cars" else "images"
    for label, number in itertools.product(range(images), range(max(SHOTS))):
        write_image(root / name / below / f"class {label}" / f"{number}.jpg", label, number, size)

    def write(file: str, numbers: range) -> None:
        path = root / name / "annotations" / file
        path.parent.mkdir(exist_ok=True)
        lines = [f"class {label}/{number}.jpg {label}" for label in range(images) for number in numbers]
        path.write_text("\n".join(lines) + "\n")

    for shots, seed in itertools.product(SHOTS, SEEDS):
        write(f"train_meta.list.num_shot_{shots}.seed_{seed}", range(shots))
    for file in ("val_meta.list", "test_meta.list"):
        write(file, range(min(images, max(SHOTS))))
    return root


def write_benchmarks(root: Path, images: int, size: int) -> None:
    """Write both benchmarks; see `lay_out_vtab` and `lay_out_few_shot` for the arguments."""
    for name in VTAB:
        lay_out_vtab(root / "vtab-1k", name, images, size)
    for name in FEW_SHOT:
        lay_out_few_shot(root / "few-shot", name, images, size)


def main() -> None:
    """Write what the command line asks for."""
    parser = argparse.ArgumentParser(description="Write small benchmarks in the field's layouts.")
    parser.add_argument("root", type=Path)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--size", type=int, default=24)
    options = parser.parse_args()
    write_benchmarks(options.root, options.images, options.size)


if __name__ == "__main__":
    main()
