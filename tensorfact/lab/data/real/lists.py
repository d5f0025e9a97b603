"""The images of each split of a task, listed by digest."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ....errors import DataError
from ..images import data_config
from ..in_memory import ResizedImages
from ..splits import SPLITS, Splits
from .pool import DIGITS, Pool, RealTask

FOLDER = "lists"
"""The folder beside this module with a list for each task."""
_ON_A_LINE = 13


def split(task: RealTask, model: nn.Module, *, imagenet_statistics: bool = False) -> Splits:
    """Return the splits of a task, resized and normalised for a model.

    Args:
        task: The task.
        model: A model with a timm data configuration, which sets size, channels and normalisation.
        imagenet_statistics: Normalise with ImageNet's mean and standard deviation instead of the model's.

    Returns:
        The three splits, named `real:NAME`.

    Raises:
        DataError: The images are not on this machine, or are not those of the list.
    """
    config = data_config(model, imagenet_statistics=imagenet_statistics)
    pool, lists = task.pool(), read_list(task.name)
    places = {digest: place for place, digest in reversed(list(enumerate(pool.digests.tolist())))}
    parts = []
    for name in SPLITS:
        fix = f"delete its file in the cache, and run `tensorfact fetch {task.name}`"
        if missing := [digest for digest in lists[name] if digest not in places]:
            raise DataError(
                f"real:{task.name}: images of the list are missing",
                expected=f"the {len(lists[name])} images of the split {name!r}",
                got=f"all but {len(missing)}, such as {missing[0]:0{DIGITS}x}",
                cause="another version of the data, or of a library that it comes from",
                fix=fix if task.fetch else "pip install --upgrade tensorfact scikit-learn",
            )
        chosen = torch.tensor([places[digest] for digest in lists[name]])
        parts.append(ResizedImages(pool.images[chosen], pool.labels[chosen], config))
    train, val, test = parts
    return Splits(f"real:{task.name}", train, val, test, len(task.classes), class_names=task.classes)


def read_list(name: str) -> Mapping[str, Sequence[int]]:
    """Return the digests of the images of each split.

    Args:
        name: Name of the task.
    """
    text = importlib.resources.files(__package__).joinpath(FOLDER, f"{name}.txt").read_text()
    found: dict[str, list[int]] = {}
    current: list[int] = []
    for word in text.split():
        if word in SPLITS:
            current = found[word] = []
        else:
            current.append(int(word, 16))
    return found


def written_list(lists: Mapping[str, Sequence[int]]) -> str:
    """Return the text that `read_list` reads.

    Args:
        lists: The digests of each split.
    """
    lines = []
    for name in SPLITS:
        words = [f"{digest:0{DIGITS}x}" for digest in lists[name]]
        lines += [name, *(" ".join(words[at : at + _ON_A_LINE]) for at in range(0, len(words), _ON_A_LINE))]
    return "\n".join(lines) + "\n"


def draw_list(pool: Pool, train: int, val: int, test: int, seed: int = 0) -> dict[str, list[int]]:
    """Draw the images of each split at random, each digest once.

    Args:
        pool: The images.
        train: Number of training images.
        val: Number of validation images.
        test: Number of test images, or all that are left if there are fewer.
        seed: Seed of the shuffle.
    """
    order: Tensor = torch.randperm(len(pool.digests), generator=torch.Generator().manual_seed(seed))
    held_out = torch.zeros(len(order), dtype=torch.bool) if pool.test is None else pool.test
    drawn = {
        tested: list(dict.fromkeys(pool.digests[order[held_out[order] == tested]].tolist())) for tested in (False, True)
    }
    rest = drawn[False] if pool.test is None else drawn[True]
    first = train + val if pool.test is None else 0
    return {
        "train": drawn[False][:train],
        "val": drawn[False][train : train + val],
        "test": rest[first : first + test],
    }
