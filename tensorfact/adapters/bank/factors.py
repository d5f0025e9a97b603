"""The cores of one tensor for several tasks: shared ones, and those that every task has for itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from ...network import Mode, Network
from ...network.initial import fresh
from ...network.tasks import owned_cores, with_tasks
from ..factors import Factors
from .choice import TaskChoice


class TaskFactors(Factors):
    """The cores of one tensor for all tasks of a bank; increments are made of those of the present task.

    Args:
        network: The network of one task.
        modes: The tensor's modes.
        extents: As in `Factors`.
        given: As in `Factors`.
        choice: The tasks, and which of them runs.
        owned: Names of the cores that every task has for itself.
        dtype: Dtype of the cores.
        device: Device of the cores.
        generator: As in `Factors`; it draws the cores of the first task.
        others: A CPU generator for the owned cores of the other tasks.
    """

    def __init__(
        self,
        network: Network,
        modes: Sequence[Mode],
        extents: Mapping[str, int] | None,
        given: Mapping[str, Tensor] | None,
        choice: TaskChoice,
        owned: Collection[str],
        *,
        dtype: torch.dtype,
        device: torch.device,
        generator: torch.Generator,
        others: torch.Generator,
    ) -> None:
        super().__init__(network, modes, extents, given, dtype=dtype, device=device, generator=generator)
        self.choice, self.network = choice, with_tasks(network, len(choice.names), owned)
        self.owned = owned_cores(self.network)
        rows = [fresh(network, self.deviations, given, others) for _ in choice.names[1:]]
        for name in self.owned:
            first = self.cores[name]
            stacked = torch.stack([first.detach(), *(row[name].to(device, dtype) for row in rows)])
            self.cores[name] = nn.Parameter(stacked, requires_grad=first.requires_grad)

    def tensors(self) -> list[Tensor]:
        """Return the cores of the present task."""
        stored = zip(self._names, self.stored(), strict=True)
        return [self.choice.of(core) if name in self.owned else core for name, core in stored]

    def of_task(self, at: int) -> dict[str, Tensor]:
        """Return the cores of one task by name.

        Args:
            at: The position of the task.
        """
        return {name: core[at] if name in self.owned else core for name, core in self.named_cores().items()}
