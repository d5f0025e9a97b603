"""Check a sweep before training starts, and refuse a folder whose runs used other data or weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ...common.progress import Progress, silent
from ...errors import SweepError
from ...storage.fingerprint import sampled_digest
from ..data import Splits, open_task
from ..data.contents import contents_digest
from ..models import load_model, model_shapes, with_head
from ..training import Schedule
from ..training.schedule import size_of
from .counts import parameters
from .definition import Sweep, SweepPart

Inputs = Mapping[str, object]
"""Inputs of the runs by name: the sizes and digests of the splits of a task, the fingerprint of a model's weights."""


def check_sweep(sweep: Sweep, root: Path | None, *, images: bool = True, progress: Progress = silent) -> Inputs:
    """Create every model, attach every method and open every task of a sweep, before training starts.

    Args:
        sweep: The sweep to check.
        root: Folder with the data of the benchmarks.
        images: Open every image, too.
        progress: Called as images are opened.

    Returns:
        The inputs that the runs will use.

    Raises:
        TensorfactError: Invalid setting, model, method or task, or damaged data.
    """
    settings = sweep.settings
    for lr in {settings.lr, *(rate for part in sweep.parts for row in part.rows for rate in row.rates)}:
        Schedule(settings.epochs, settings.batch_size, lr, settings.weight_decay, settings.warmup_epochs, 0)
    found: dict[str, object] = {}
    for part in sweep.parts:
        shapes = model_shapes(part.model)
        for row in part.rows:
            parameters(sweep, part, row, shapes)
        found |= _check_part(sweep, part, root, images, progress, found)
    return found


def compare_inputs(known: Inputs, found: Inputs, folder: Path) -> Inputs:
    """Merge the inputs of the finished runs with those found now.

    Args:
        known: Inputs of the runs in the folder.
        found: Inputs found by `check_sweep`.
        folder: Folder of runs, for the error message.

    Raises:
        SweepError: An input has changed.
    """
    for name in known.keys() & found.keys():
        if known[name] != found[name]:
            raise SweepError(
                f"{name} differs from the runs in {folder}",
                expected=str(known[name]),
                got=str(found[name]),
                cause="the data or the weights have changed since the first run",
                fix="pass another folder: --out runs/other",
            )
    return {**known, **found}


def _check_part(
    sweep: Sweep, part: SweepPart, root: Path | None, images: bool, progress: Progress, opened: Inputs
) -> dict[str, object]:
    options = {"drop_path_rate": sweep.settings.drop_path} if sweep.settings.drop_path else {}
    model = load_model(part.model, pretrained=part.pretrained, checkpoint=part.checkpoint, seed=0, **options)
    weights = dict(model.named_parameters())
    found: dict[str, object] = {
        f"model {part.model}, {part.pretrained}, {part.checkpoint}": sampled_digest(weights, tuple(weights))
    }
    for task in part.tasks:
        statistics = sweep.settings.imagenet_statistics
        check = images and f"task {task}" not in opened
        splits = open_task(task, model, root=root, imagenet_statistics=statistics, check=check, progress=progress)
        splits.require_test(f"the sweep's task {task}")
        _check_steps(sweep, task, splits)
        with_head(model, splits.classes, 0)
        found[f"task {task}"] = {**splits.sizes, "classes": splits.classes}
        digests = (contents_digest(part) for part in (splits.train, splits.val, splits.test))
        found[f"images of {task}"] = " ".join(digests)
    return found


def _check_steps(sweep: Sweep, task: str, splits: Splits) -> None:
    count, least = size_of(splits.final), sweep.settings.batch_size
    if sweep.settings.drop_last and count < least:
        raise SweepError(
            f"{task}: too few training samples for one full batch, and drop_last leaves out incomplete ones",
            expected=f"at least {least} training samples",
            got=str(count),
            fix=f"--batch-size {count}, or --protocol validated",
        )
