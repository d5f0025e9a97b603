"""The cores of one tensor for several tasks: shared ones, and those that every task has for itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from ...formats.common import zero_core
from ...network import Mode, Network
from ...network.initial import fresh
from ...network.tasks import owned_cores, with_tasks
from ..factors import Factors
from .alone import Alone
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
        self.owned, self.alone = owned_cores(self.network), Alone(choice)
        rows = [fresh(network, self.deviations, given, others) for _ in choice.names[1:]]
        for name in self.owned:
            first = self.cores[name]
            stacked = torch.stack([first.detach(), *(row[name].to(device, dtype) for row in rows)])
            self.cores[name] = nn.Parameter(stacked, requires_grad=first.requires_grad)

    def tensors(self) -> list[Tensor]:
        """Return the cores of the present task."""
        stored = zip(self._names, self.stored(), strict=True)
        return [self.alone.present(name, core) if name in self.owned else core for name, core in stored]

    def of_task(self, at: int) -> dict[str, Tensor]:
        """Return the cores of one task by name.

        Args:
            at: The position of the task.
        """
        return {
            name: self.alone.of_task(name, core, at) if name in self.owned else core
            for name, core in self.named_cores().items()
        }

    def owned_parameters(self) -> dict[str, nn.Parameter]:
        """Return the trained cores that every task has for itself, of all tasks, by name."""
        return {name: self.cores[name] for name in self.owned}

    def shared_parameters(self) -> list[nn.Parameter]:
        """Return the trained cores that the tasks share."""
        trained = {core.name for core in self.network.cores if core.trained}
        return [core for name, core in self.cores.items() if name in trained and name not in self.owned]

    def fill(self, at: int, row: Mapping[str, Tensor]) -> None:
        """Overwrite the cores of a task.

        Args:
            at: The position of the task.
            row: Its owned cores by name.
        """
        with torch.no_grad():
            for name, core in self._owned():
                core[at].copy_(row[name])

    def extend(self, row: Mapping[str, Tensor]) -> None:
        """Add a task behind the others; its cores become new parameters together with theirs.

        Args:
            row: Its owned cores by name.
        """
        self._replace({name: torch.cat([core.detach(), row[name][None].to(core)]) for name, core in self._owned()})

    def fresh_row(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Return owned cores of a new task, whose increment is zero, with entries of the size of the others'.

        The core that starts at zero is zero if the task owns it, or else if no task has trained yet; otherwise the last
        owned core is zero.

        Args:
            generator: A CPU generator.
        """
        zero = zero_core(self.applied).name
        if zero not in self.owned and bool(self.cores[zero].any()):
            zero = self.owned[-1]
        found = {}
        for name, core in self._owned():
            values = torch.randn(core.shape[1:], generator=generator, dtype=torch.float64, device="cpu")
            size = float(core.detach().double().square().mean().sqrt()) or self.deviations[name]
            found[name] = torch.zeros_like(core[0]) if name == zero else (values * size).to(core)
        return found

    def shrink(self, at: int) -> None:
        """Remove a task; the cores of the others become new parameters.

        Args:
            at: Its position.
        """
        self._replace({name: torch.cat([core.detach()[:at], core.detach()[at + 1 :]]) for name, core in self._owned()})

    def _owned(self) -> list[tuple[str, nn.Parameter]]:
        return list(self.owned_parameters().items())

    def _replace(self, cores: Mapping[str, Tensor]) -> None:
        for name, core in cores.items():
            self.cores[name] = nn.Parameter(core, requires_grad=self.cores[name].requires_grad)
        count = len(next(iter(cores.values())))
        self.network = with_tasks(self.applied, count, self.owned)
