"""Make an `accelerate.Accelerator` where a command needs one."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING

from ...common.aliases import Options
from ...common.checks import AnyPath
from ...errors import TrainingError

if TYPE_CHECKING:
    from accelerate import Accelerator


def accelerator_for(
    device: str, *, precision: str = "no", tracker: str | None = None, folder: AnyPath | None = None
) -> Accelerator | None:
    """Return an accelerator if one is needed: for several processes, mixed precision, or a tracker.

    The number of processes, and DDP or FSDP2, come from the environment that `torchrun` or `accelerate launch` sets.

    Args:
        device: Device to train on; with several GPUs each process uses its own.
        precision: "no" for the model's dtype, "bf16", or another mixed precision of accelerate.
        tracker: Name of an accelerate tracker: `tensorboard`, `wandb`, ...
        folder: Folder that the tracker writes to.

    Returns:
        The accelerator; None if plain single-process training is enough.

    Raises:
        TrainingError: accelerate is not installed, or does not know the precision or tracker.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes == 1 and precision == "no" and tracker is None:
        return None
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise TrainingError(
            "--precision, --tracker and multi-process training need accelerate", fix='pip install "tensorfact[train]"'
        ) from error
    options: Options = {"mixed_precision": precision, "log_with": tracker, "project_dir": folder}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "`log_with=")  # a tracker that is not installed is a warning
            made = Accelerator(cpu=device == "cpu", **options)
    except (ValueError, ImportError, UserWarning) as error:
        raise TrainingError(
            f"cannot make an accelerator for device {device}, precision {precision}, tracker {tracker}",
            got=str(error),
            fix="use --precision no or bf16; for a tracker, pip install its package",
        ) from error
    if tracker is not None:
        made.init_trackers("tensorfact")
    return made
