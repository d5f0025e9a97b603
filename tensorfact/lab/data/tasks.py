"""Open data by the name of a task, such as `digits`, `vtab:cifar` or `folder:PATH`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from ...common.checks import AnyPath, file_path, flag, quoted, whole_number
from ...common.progress import Progress, silent
from ...errors import DataError, nearest
from .fashion import fashion_mnist
from .folders import image_folder, is_path
from .generated import sprites
from .in_memory import digits
from .layouts import LAYOUTS
from .libraries import hugging_face, timm_dataset
from .listed import FEW_SHOT, VTAB, Task, few_shot, vtab
from .mnist import mnist
from .real import REAL, split
from .splits import FRACTIONS, Fractions, Splits, check_fractions

_LISTED = 1000
"""The most files of a folder that a mistyped name is compared with."""


@dataclasses.dataclass(frozen=True)
class _Options:
    """Arguments of `open_task` that every source is opened with."""

    model: nn.Module
    root: Path | None
    imagenet_statistics: bool
    check: bool
    progress: Progress
    fractions: Fractions = FRACTIONS
    seed: int = 0

    def folder(self, name: str, *below: str) -> Path:
        """Return the folder of a benchmark: the first of these folders below the root, else the root itself."""
        if self.root is None:
            raise DataError(f"{name} needs a root", fix="pass root= the folder that holds the benchmark's tasks")
        return next((found for found in (self.root / part for part in below) if found.is_dir()), self.root)


@dataclasses.dataclass(frozen=True)
class _Source:
    """A source of data, chosen by the prefix of a task's name.

    Args:
        form: Form of its names, such as `vtab:TASK`, for messages.
        describe: Maps the text after the colon to a `Task`; `task_info` replaces its name.
        open: Maps the text after the colon, and the arguments, to the data.
        takes: Which of the arguments `fractions` and `seed` it takes.
    """

    form: str
    describe: Callable[[str], Task]
    open: Callable[[str, _Options], Splits]
    takes: tuple[str, ...] = ()

    def check(self, name: str, **given: tuple[Any, Any]) -> None:
        """Reject arguments that this source does not take.

        Args:
            name: Name of the task, for the message.
            given: Value and default of every argument.
        """
        for argument, (value, default) in given.items():
            if argument not in self.takes and value != default:
                raise DataError(
                    f"open_task: {argument} does not apply to {name!r}",
                    cause="this task is split already",
                    fix=f"leave out {argument}=",
                )


def task_info(name: str) -> Task:
    """Return the number of classes and the group of a task from its name; no data is read.

    Args:
        name: A name that `open_task` takes.

    Returns:
        The task: `classes` is None if only the data tells, `group` is empty outside benchmarks.

    Raises:
        DataError: The name is unknown.

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
    fractions: Fractions = FRACTIONS,
    seed: int = 0,
    imagenet_statistics: bool = False,
    check: bool = True,
    progress: Progress = silent,
) -> Splits:
    """Open data by name, or images by their path.

    | name | data | `root` |
    | --- | --- | --- |
    | `digits` | `digits` | |
    | `fashion-mnist` | `fashion_mnist` | optional: folder of its files in a subfolder `fashion-mnist` |
    | `mnist` | `mnist` | |
    | `sprites-location`, `sprites-orientation` | `sprites` | |
    | `real:NAME` | one of `real.REAL`, whose splits are fixed | |
    | `vtab:TASK` | `vtab` | folder of the 19 tasks, directly or in a subfolder `vtab-1k` |
    | `few-shot:TASK:SHOTS:SEED` | `few_shot` | folder of the tasks, directly or in a subfolder `few-shot` |
    | a path that exists: a folder, archive or csv file | `image_folder` | |
    | `folder:PATH` | `image_folder` | folder that PATH is relative to |
    | `timm:NAME` | `timm_dataset` | timm's root |
    | `hf:NAME` | `hugging_face` | folder that NAME is relative to, if it is a folder |

    Args:
        name: Name of the task, in one of the forms above; a name of the table has precedence over a path.
        model: A model with a timm data configuration, which sets size and normalisation.
        root: Folder of the data, as in the table.
        fractions: Fractions of train, val and test, for images on disk that are not split yet.
        seed: Seed of the split, for those images and for `fashion-mnist`, `mnist`, sprites, `timm:NAME` and `hf:NAME`.
        imagenet_statistics: Normalise with ImageNet's mean and standard deviation instead of the model's.
        check: Open every image now, so that an unreadable one raises before training. A sweep checks once; its
            workers do not check again.
        progress: Called after each checked image.

    Returns:
        The three splits, named `name`; those of a path are named after its folder or file.

    Raises:
        DataError: The name is unknown, a benchmark has no root, `fractions` or `seed` do not apply to the data, or the
            function in the table raises it.

    Examples:
        >>> from tensorfact.lab import nano, open_task
        >>> open_task("digits", nano()).sizes
        {'train': 800, 'val': 200, 'test': 797}
    """
    flag(check, "open_task: check", DataError)
    source, rest = _find(name)
    source.describe(rest)  # rejects an invalid name before anything is read
    folder = None if root is None else file_path(root, "open_task: root", DataError, example="data")
    shares = check_fractions(fractions, "open_task: fractions")
    seed = whole_number(seed, "open_task: seed", DataError, least=0)
    source.check(name, fractions=(shares, FRACTIONS), seed=(seed, 0))
    found = source.open(rest, _Options(model, folder, imagenet_statistics, check, progress, shares, seed))
    return found if source is _PATH else dataclasses.replace(found, name=name)


def require_data(name: str, root: AnyPath | None) -> None:
    """Raise if the files of a task are missing; nothing is read.

    Benchmarks are looked for if their root is given, images by their path.

    Args:
        name: Name of the task, as in `open_task`.
        root: Folder of the data, as in `open_task`.

    Raises:
        DataError: The name is unknown, or its folder or file does not exist.
    """
    source, rest = _find(name)
    source.describe(rest)
    base = None if root is None else file_path(root, "root", DataError, example="data")
    if base is not None and not base.is_dir():
        raise DataError(f"the folder of the data, {base}, does not exist", fix="check the path")
    path = images_path(name, base)
    if path is not None and not path.exists():
        raise DataError(f"{path} does not exist", expected=LAYOUTS, fix="check the path")


def images_path(name: str, root: Path | None = None) -> Path | None:
    """Return the path of the images on disk that a name means; None for other data.

    Args:
        name: Name of the task, as in `open_task`.
        root: Folder of the data, as in `open_task`.

    Raises:
        DataError: The name is unknown.
    """
    source, rest = _find(name)
    return Path(rest) if source is _PATH else (root or Path()) / rest if source is _SOURCES["folder"] else None


def _find(name: str) -> tuple[_Source, str]:
    """Return the source of a task, and the text after the colon of its name."""
    if not isinstance(name, str):
        raise DataError("task", expected="a name", got=quoted(name), fix="open_task('digits', model)")
    prefix, colon, rest = name.partition(":")
    source = _SOURCES.get(prefix)
    if source is None or bool(colon) != (":" in source.form) or bool(colon) != bool(rest):
        if is_path(name):
            return _PATH, name
        forms = [each.form for each in _SOURCES.values()]
        raise DataError(
            f"there is no folder or file {quoted(name)}, and no task of this name{_nearest_data(name)}",
            fix=f"give a folder of classes, an archive, a csv file, or one of {', '.join(forms)}",
        )
    return source, rest


def _nearest_data(name: str) -> str:
    """Return a hint at the name of a task, or of something in this folder, that is nearest to a name."""
    tasks = [prefix for prefix, source in _SOURCES.items() if ":" not in source.form]
    try:
        here = sorted(os.listdir())[:_LISTED]
    except OSError:  # a folder that was removed, or that may not be read
        here = []
    return nearest(name, [*here, *tasks, *(f"real:{task}" for task in REAL), *(f"vtab:{task}" for task in VTAB)])


def _vtab_task(rest: str) -> Task:
    if rest not in VTAB:
        hint = nearest(f"vtab:{rest}", [f"vtab:{task}" for task in VTAB])
        raise DataError("task", expected=f"vtab:TASK with one of {', '.join(VTAB)}", got=f"'vtab:{rest}'{hint}")
    return VTAB[rest]


def _real_task(rest: str) -> Task:
    if rest not in REAL:
        hint = nearest(f"real:{rest}", [f"real:{task}" for task in REAL])
        known = f"real:NAME with one of {', '.join(REAL)}"
        raise DataError("task", expected=known, got=f"'real:{rest}'{hint}", fix="open_task('real:mnist', model)")
    return Task(rest, len(REAL[rest].classes), "real")


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
    found = own if own is not None and own.is_dir() else None  # without that subfolder, the default folder is used
    return fashion_mnist(o.model, root=found, seed=o.seed, imagenet_statistics=o.imagenet_statistics)


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


def _open_path(path: AnyPath, o: _Options) -> Splits:
    return image_folder(
        path,
        o.model,
        fractions=o.fractions,
        seed=o.seed,
        imagenet_statistics=o.imagenet_statistics,
        check=o.check,
        progress=o.progress,
    )


def _open_folder(rest: str, o: _Options) -> Splits:
    return _open_path((o.root or Path()) / rest, o)


def _open_timm(rest: str, o: _Options) -> Splits:
    return timm_dataset(
        rest,
        o.model,
        root=o.root,
        seed=o.seed,
        imagenet_statistics=o.imagenet_statistics,
        check=o.check,
        progress=o.progress,
    )


def _open_hf(rest: str, o: _Options) -> Splits:
    local = (o.root or Path()) / rest
    data = local if local.is_dir() else rest
    return hugging_face(
        data,
        o.model,
        seed=o.seed,
        imagenet_statistics=o.imagenet_statistics,
        check=o.check,
        progress=o.progress,
    )


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
        ("seed",),
    ),
    "mnist": _Source(
        "mnist",
        lambda _: Task("", 10),
        lambda _, o: mnist(o.model, seed=o.seed, imagenet_statistics=o.imagenet_statistics),
        ("seed",),
    ),
    "sprites-location": _Source(
        "sprites-location",
        lambda _: Task("", 16),
        lambda _, o: sprites("location", o.model, seed=o.seed, imagenet_statistics=o.imagenet_statistics),
        ("seed",),
    ),
    "sprites-orientation": _Source(
        "sprites-orientation",
        lambda _: Task("", 16),
        lambda _, o: sprites("orientation", o.model, seed=o.seed, imagenet_statistics=o.imagenet_statistics),
        ("seed",),
    ),
    "real": _Source(
        "real:NAME", _real_task, lambda rest, o: split(REAL[rest], o.model, imagenet_statistics=o.imagenet_statistics)
    ),
    "vtab": _Source("vtab:TASK", _vtab_task, _open_vtab),
    "few-shot": _Source("few-shot:TASK:SHOTS:SEED", _few_shot_task, _open_few_shot),
    "folder": _Source("folder:PATH", _only_data_says, _open_folder, ("fractions", "seed")),
    "timm": _Source("timm:NAME", _only_data_says, _open_timm, ("seed",)),
    "hf": _Source("hf:NAME", _only_data_says, _open_hf, ("seed",)),
}
"""Sources by the prefix of a name, or by the whole name if it has no colon."""
_PATH = _Source("PATH", _only_data_says, _open_path, ("fractions", "seed"))
"""The source of names that are paths."""
