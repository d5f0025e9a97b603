"""Links between the factors of several tasks and a model."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch

from ...plan import TensorGroup
from ..factors import Factors
from ..links import Links
from ..options import Route
from .choice import TaskChoice
from .factors import TaskFactors
from .increment import TaskIncrement


class TaskLinks(Links):
    """Links whose factors have the cores of several tasks.

    Args:
        arguments: As for `Links`.
        choice: The tasks, and which of them runs.
        shared: Names of the cores that all tasks share.
        options: As for `Links`.
    """

    _made = TaskIncrement

    def __init__(self, *arguments: Any, choice: TaskChoice, shared: Collection[str], **options: Any) -> None:
        self.choice, self.shared = choice, frozenset(shared)
        self._others = torch.Generator()
        super().__init__(*arguments, **options)

    def _factors(
        self, tensor: TensorGroup, dtype: torch.dtype, device: torch.device, generator: torch.Generator
    ) -> Factors:
        format = self.formats[tensor.name]
        network = tensor.network(format)
        if not self.factors:  # of the first tensor
            self._others.manual_seed((self.options.seed or 0) ^ 0x7A5C)
        return TaskFactors(
            network,
            tensor.modes,
            tensor.extents,
            format.given(tensor.modes),
            self.choice,
            [core.name for core in network.cores if core.trained and core.name not in self.shared],
            dtype=dtype,
            device=device,
            generator=generator,
            others=self._others,
        )

    def _takes_activation(self, name: str, route: Route) -> bool:
        """Let every linear layer take the activation route, as mixed batches need; increments know the choice."""
        increment = self.slots[name].increment
        assert isinstance(increment, TaskIncrement)
        increment.forms = not super()._takes_activation(name, route)
        return self._is_linear(name)
