"""Accelerators are made where several processes, mixed precision or a tracker need one."""

from __future__ import annotations

import pytest

from tensorfact.errors import TrainingError
from tensorfact.lab.training import accelerator_for
from tests.helpers import refused


@pytest.mark.usefixtures("make")
def test_a_tracker_that_is_not_there_is_said_to_be() -> None:
    with refused(TrainingError, "wandb"):
        accelerator_for("cpu", tracker="wandb")
    assert accelerator_for("cpu") is None
