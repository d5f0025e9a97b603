"""An accelerator for a process that a launcher started, or that asks for what only accelerate has."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

from ...common.checks import AnyPath
from ...errors import TrainingError

if TYPE_CHECKING:
    from accelerate import Accelerator


def accelerator_for(
    device: str, *, precision: str = "no", tracker: str | None = None, folder: AnyPath | None = None
) -> Accelerator | None:
    """Return an accelerator where one is needed: for several processes, another precision, or a tracker.

    How many processes there are, and whether by DDP or FSDP2, is what `torchrun` or `accelerate launch` left in the
    environment.

    Args:
        device: What to train on; of several GPUs each process takes its own.
        precision: "no" for the model's dtype, "bf16", or what else accelerate knows.
        tracker: A tracker that accelerate knows: `tensorboard`, `wandb`, ...
        folder: Where the tracker writes.

    Returns:
        The accelerator; None where this process alone will do.

    Raises:
        TrainingError: Accelerate is not installed, or knows no such precision or tracker.
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
    options: dict[str, Any] = {"mixed_precision": precision, "log_with": tracker, "project_dir": folder}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "`log_with=")  # a tracker that is not installed
            made = Accelerator(cpu=device == "cpu", **options)
    except (ValueError, ImportError, UserWarning) as error:
        raise TrainingError(
            f"an accelerator for {device}, {precision}, {tracker}", got=str(error), fix="install what is missing"
        ) from error
    if tracker is not None:
        made.init_trackers("tensorfact")
    return made
