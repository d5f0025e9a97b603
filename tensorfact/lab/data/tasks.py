"""Tasks by name: one word names data, whatever it is read from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from torch import nn

from ...common.checks import AnyPath
from ...common.progress import Progress, silent
from ...errors import DataError, nearest
from .fashion import fashion_mnist
from .generated import sprites
from .images import image_folder
from .in_memory import digits
from .libraries import hugging_face, timm_dataset
from .listed import FEW_SHOT, VTAB, Task, few_shot, vtab
from .splits import Splits


@dataclasses.dataclass(frozen=True)
class _Options:
    """What every source is opened with."""

    model: nn.Module
    root: Path | None
    imagenet_statistics: bool
    check: bool
    progress: Progress

    def folder(self, name: str, *below: str) -> Path:
        """Return the folder that holds a benchmark: the root, or the one below it that has the benchmark's name."""
        if self.root is None:
            raise DataError(f"{name} needs a root", fix="root= the folder that holds the benchmark's tasks")
        return next((found for found in (self.root / part for part in below) if found.is_dir()), self.root)


@dataclasses.dataclass(frozen=True)
class _Source:
    """A kind of name.

    Args:
        form: How a name is written, for messages.
        describe: From what follows the colon to a task without a name of its own.
        open: From what follows the colon to the data.
    """

    form: str
    describe: Callable[[str], Task]
    open: Callable[[str, _Options], Splits]


def task_info(name: str) -> Task:
    """Return what a task's name says by itself; nothing is read.

    Args:
        name: A name that `open_task` takes.

    Returns:
        The task: `classes` is None where only the data says how many there are, `group` is empty outside benchmarks.

    Raises:
        DataError: No such name.

    Examples:
        >>> from tensorfact.lab.data import task_info
        >>> task_info("vtab:cifar")
        Task(name='vtab:cifar', classes=100, group='natural')
    """
    source, rest = _find(name)
    return dataclasses.replace(source.describe(rest), name=name)


def open_task(
    name: str,
    model: nn.Module,
    *,
    root: AnyPath | None = None,
    imagenet_statistics: bool = False,
    check: bool = True,
    progress: Progress = silent,
) -> Splits:
    """Open data by name.

    | name | data | `root` |
    | --- | --- | --- |
    | `digits` | `digits` | |
    | `fashion-mnist` | `fashion_mnist` | the folder that holds its files as `fashion-mnist`, if it does |
    | `sprites-location`, `sprites-orientation` | `sprites` | |
    | `vtab:TASK` | `vtab` | the folder of the 19 tasks, or the one that holds it as `vtab-1k` |
    | `few-shot:TASK:SHOTS:SEED` | `few_shot` | the folder of the tasks, or the one that holds it as `few-shot` |
    | `folder:PATH` | `image_folder` | what PATH is relative to |
    | `timm:NAME` | `timm_dataset` | timm's root |
    | `hf:NAME` | `hugging_face` | what a folder is relative to |

    Args:
        name: The name.
        model: A model with a timm data configuration; decides size and normalisation.
        root: Where the data is, as the table says.
        imagenet_statistics: Normalise by ImageNet's mean and deviation instead of the model's own.
        check: Open every image before anything trains. A sweep checks once; its workers need not again.
        progress: Called as files are checked.

    Returns:
        The three parts, called `name`.

    Raises:
        DataError: No such name, a benchmark without a root, or what the function in the table raises.

    Examples:
        >>> from tensorfact.lab import nano, open_task
        >>> open_task("digits", nano()).sizes
        {'train': 800, 'val': 200, 'test': 797}
    """
    source, rest = _find(name)
    source.describe(rest)  # refuses a name that means nothing before a disk is touched
    options = _Options(model, None if root is None else Path(root), imagenet_statistics, check, progress)
    return dataclasses.replace(source.open(rest, options), name=name)


def _find(name: str) -> tuple[_Source, str]:
    """Return the source that a name names, and what follows its colon."""
    prefix, colon, rest = name.partition(":")
    source = _SOURCES.get(prefix)
    if source is None or bool(colon) != (":" in source.form) or bool(colon) != bool(rest):
        forms = [each.form for each in _SOURCES.values()]
        hint = nearest(name, [*forms, *(f"vtab:{task}" for task in VTAB)])
        raise DataError("task", expected=f"one of {', '.join(forms)}", got=f"{name!r}{hint}")
    return source, rest


def _vtab_task(rest: str) -> Task:
    if rest not in VTAB:
        hint = nearest(f"vtab:{rest}", [f"vtab:{task}" for task in VTAB])
        raise DataError("task", expected=f"vtab: and one of {', '.join(VTAB)}", got=f"'vtab:{rest}'{hint}")
    return VTAB[rest]


def _few_shot_parts(rest: str) -> tuple[str, int, int]:
    name, _, numbers = rest.partition(":")
    shots, _, seed = numbers.partition(":")
    if not name or not (shots.isdecimal() and seed.isdecimal()):
        raise DataError("task", expected=_SOURCES["few-shot"].form, got=f"'few-shot:{rest}'")
    return name, int(shots), int(seed)


def _few_shot_task(rest: str) -> Task:
    name, _, _ = _few_shot_parts(rest)
    return FEW_SHOT.get(name, Task(name, None, "few-shot"))


def _open_fashion(_: str, o: _Options) -> Splits:
    own = None if o.root is None else o.root / "fashion-mnist"
    found = own if own is not None and own.is_dir() else None  # a root of other data leaves it where it usually is
    return fashion_mnist(o.model, root=found, imagenet_statistics=o.imagenet_statistics)


def _open_vtab(rest: str, o: _Options) -> Splits:
    folder = o.folder(f"vtab:{rest}", "vtab-1k")
    return vtab(folder, rest, o.model, imagenet_statistics=o.imagenet_statistics, check=o.check, progress=o.progress)


def _open_few_shot(rest: str, o: _Options) -> Splits:
    name, shots, seed = _few_shot_parts(rest)
    return few_shot(
        o.folder(f"few-shot:{rest}", "few-shot") / name,
        o.model,
        shots=shots,
        seed=seed,
        classes=_few_shot_task(rest).classes,
        imagenet_statistics=o.imagenet_statistics,
        check=o.check,
        progress=o.progress,
    )


def _open_folder(rest: str, o: _Options) -> Splits:
    path = (o.root or Path()) / rest
    return image_folder(path, o.model, imagenet_statistics=o.imagenet_statistics, check=o.check, progress=o.progress)


def _open_timm(rest: str, o: _Options) -> Splits:
    return timm_dataset(
        rest, o.model, root=o.root, imagenet_statistics=o.imagenet_statistics, check=o.check, progress=o.progress
    )


def _open_hf(rest: str, o: _Options) -> Splits:
    local = (o.root or Path()) / rest
    data = local if local.is_dir() else rest
    return hugging_face(data, o.model, imagenet_statistics=o.imagenet_statistics, check=o.check, progress=o.progress)


def _only_data_says(rest: str) -> Task:
    return Task(rest, None)


_SOURCES = {
    "digits": _Source(
        "digits", lambda _: Task("", 10), lambda _, o: digits(o.model, imagenet_statistics=o.imagenet_statistics)
    ),
    "fashion-mnist": _Source(
        "fashion-mnist",
        lambda _: Task("", 10),
        _open_fashion,
    ),
    "sprites-location": _Source(
        "sprites-location",
        lambda _: Task("", 16),
        lambda _, o: sprites("location", o.model, imagenet_statistics=o.imagenet_statistics),
    ),
    "sprites-orientation": _Source(
        "sprites-orientation",
        lambda _: Task("", 16),
        lambda _, o: sprites("orientation", o.model, imagenet_statistics=o.imagenet_statistics),
    ),
    "vtab": _Source("vtab:TASK", _vtab_task, _open_vtab),
    "few-shot": _Source("few-shot:TASK:SHOTS:SEED", _few_shot_task, _open_few_shot),
    "folder": _Source("folder:PATH", _only_data_says, _open_folder),
    "timm": _Source("timm:NAME", _only_data_says, _open_timm),
    "hf": _Source("hf:NAME", _only_data_says, _open_hf),
}
"""What stands before a name's colon, or is the whole name."""
