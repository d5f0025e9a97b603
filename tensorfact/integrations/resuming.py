"""Go on training from the folder of an adapter, for trainers whose optimizer has a state for each parameter."""

from __future__ import annotations

from ..adapters import Adapter
from ..common.checks import AnyPath
from ..errors import CheckpointError
from ..model.parameters import base_parameters
from ..storage import AdapterDescription


def resume(adapter: Adapter, folder: AnyPath) -> None:
    """Load the values of a checkpoint into an adapter that goes on training.

    Args:
        adapter: The adapter, as it was created for the first run.
        folder: The checkpoint.

    Raises:
        CheckpointError: It holds another adapter, or has no value of a parameter that trains beside the factors.
        FingerprintError: It was made for another base model.
    """
    stored = AdapterDescription.read(folder).head
    trained = [name for name, own in base_parameters(adapter.model).items() if own.requires_grad]
    if missing := [name for name in trained if name not in stored]:
        raise CheckpointError(
            f"{folder} has no value of {missing[0]!r}, which trains beside the factors",
            got=f"{len(missing)} such parameters",
            cause="it was written by a run with another train= or train_head=",
            fix="call adapt() as in that run",
        )
    adapter.load(folder)
