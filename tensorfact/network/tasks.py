"""The task as one more named axis: the cores with a leg for it are each task's own, all others are shared."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from ..errors import NetworkError
from .network import Network

TASK = "(task)"
"""The leg over tasks; no mode or bond has this name."""


def with_tasks(network: Network, tasks: int, owned: Collection[str]) -> Network:
    """Give some cores of a network a leg over tasks, in front of their own.

    Args:
        network: The network of one task.
        tasks: Number of tasks.
        owned: Names of the cores that every task has for itself.

    Returns:
        The network whose output has the tasks in front.

    Raises:
        NetworkError: No core is owned.

    Examples:
        >>> from tensorfact import TensorTrain
        >>> from tensorfact.network import Mode
        >>> modes = (Mode("layer", 12, "stack"), Mode("in", 64, "in"), Mode("out", 64, "out"))
        >>> print(with_tasks(TensorTrain(rank=4).network(modes), 1000, ["S1"]))
        U[in _1] S1[(task) _1 layer _2] V[_2 out] -> (task) layer in out
    """
    if not any(core.name in owned for core in network.cores):
        raise NetworkError(
            "with_tasks: no core is owned by the tasks, so that all of them are the same",
            expected=f"one or more of {[core.name for core in network.cores]}",
            got=str(sorted(owned)),
            fix=f"with_tasks(network, {tasks}, [{network.cores[0].name!r}])",
        )
    cores = tuple(
        dataclasses.replace(core, legs=(TASK, *core.legs)) if core.name in owned else core for core in network.cores
    )
    return Network(cores, (TASK, *network.output), {**network.sizes, TASK: tasks})


def owned_cores(network: Network) -> tuple[str, ...]:
    """Return the names of the cores that have a leg over tasks.

    Args:
        network: A network of `with_tasks`.
    """
    return tuple(core.name for core in network.cores if TASK in core.legs)
