"""The one task of a bank that trains while all others stay as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from .choice import TaskChoice


class Alone(nn.Module):
    """Rows of one task as parameters of their own, in the place of those of tensors (task, ...) of all tasks.

    An optimizer moves every entry of a parameter, by weight decay and momentum also where the gradient is zero. So the
    task that trains alone has parameters of its own, which go back into the tensors of all tasks at the end.

    Args:
        choice: The tasks, and which of them runs.
    """

    def __init__(self, choice: TaskChoice) -> None:
        super().__init__()
        self.choice, self.at = choice, -1
        self.rows = nn.ParameterDict()

    def begin(self, at: int, stacked: Mapping[str, nn.Parameter]) -> None:
        """Take the rows of one task out.

        Args:
            at: The position of the task.
            stacked: The trained tensors of all tasks; they no longer require gradients.
        """
        self.at = at
        for key, tensor in stacked.items():
            self.rows[key] = nn.Parameter(tensor.detach()[at].clone(), requires_grad=tensor.requires_grad)
            tensor.requires_grad_(False)

    def end(self, stacked: Mapping[str, nn.Parameter]) -> None:
        """Put the rows back.

        Args:
            stacked: The tensors of all tasks.
        """
        with torch.no_grad():
            for key, row in self.rows.items():
                stacked[key][self.at].copy_(row)
                stacked[key].requires_grad_(row.requires_grad)
        self.at = -1
        self.rows = nn.ParameterDict()

    def present(self, key: str, stacked: Tensor) -> Tensor:
        """Return the row of the present task.

        Args:
            key: The tensor's key.
            stacked: The tensor of all tasks.
        """
        if self.at < 0 or self.choice.at != self.at or key not in self.rows:
            return self.choice.of(stacked)
        return cast("Tensor", self.rows[key])

    def each(self, key: str, stacked: Tensor, rows: Tensor) -> Tensor:
        """Return the rows of the samples of a mixed batch (samples, ...).

        Args:
            key: The tensor's key.
            stacked: The tensor of all tasks, or a part of it.
            rows: The row of the task that trains alone, or the same part of it.
        """
        found = self.choice.each(stacked)
        if self.at < 0 or key not in self.rows:
            return found
        assert self.choice.rows is not None
        own = (self.choice.rows.to(found.device) == self.at).reshape(-1, *(1 for _ in found.shape[1:]))
        return torch.where(own, rows, found)

    def of_task(self, key: str, stacked: Tensor, at: int) -> Tensor:
        """Return the row of one task.

        Args:
            key: The tensor's key.
            stacked: The tensor of all tasks.
            at: The position of the task.
        """
        return self.rows[key] if at == self.at and key in self.rows else stacked[at]
