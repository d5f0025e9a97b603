"""Ranks within a parameter budget: an even split at the start, then growth, and truncation an epoch or more later."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from ...adapters import Adapter
from ...algebra.allocation import by_least_squares, even_split, size_at
from ...algebra.growth import grown_format
from ...common.checks import AnyPath
from ...errors import CheckpointError, FormatError, TrainingError
from ...formats import Format
from ...network import Mode
from ...storage.files import read_header
from .engine import TrainingEngine
from .optimizers import the_adapter
from .saved import Ranks, stored_ranks
from .schedule import Schedule

_GROWN, _TRUNCATED = 0.1, 0.2
"""The fractions of the epochs after which ranks grow, and are truncated: early, as the optimizer starts anew."""
_FEWEST = 4
"""The fewest epochs in which ranks change."""
_GROWTH = 0.5
"""The fraction of a rank by which it grows."""


def changes_before(epochs: int) -> tuple[int, ...]:
    """Return the indices of the epochs before which the ranks grow, and are truncated; none in a short run.

    Args:
        epochs: Number of epochs of the run.

    Examples:
        >>> changes_before(100), changes_before(4), changes_before(3)
        ((10, 20), (1, 2), ())
    """
    if epochs < _FEWEST:
        return ()
    grown = max(1, round(_GROWN * epochs))
    return grown, max(grown + 1, round(_TRUNCATED * epochs))


class RankBudget:
    """The ranks of a model's adapter during a run with a parameter budget.

    Args:
        engine: Runs the model.
        schedule: Hyperparameters of the run, with a budget.

    Raises:
        TrainingError: There are several processes, the model does not have exactly one adapter, a format has no rank,
            or rank 1 exceeds the budget. The model is unchanged.
    """

    def __init__(self, engine: TrainingEngine, schedule: Schedule) -> None:
        assert schedule.budget is not None
        if engine.processes > 1 or engine.module is not engine.model:
            raise TrainingError(
                "fit: budget needs a single process that holds the whole model",
                got=f"{engine.processes} processes" if engine.processes > 1 else "FSDP2",
                fix="pass budget=None, or train in one process",
            )
        self.budget, self.seed = schedule.budget, schedule.seed
        self.adapter = the_adapter(engine.module, "fit: budget", "budget=None")
        slow = any(map(by_least_squares, self.adapter.formats.values()))
        self.changes = () if slow else changes_before(schedule.epochs)
        self._before = self.adapter._links, dict(self.adapter.scales), _copies(self.adapter)
        self._highest = _highest(self.adapter)
        least = size_at(self._highest, _modes(self.adapter), 1)
        if least > self.budget:
            raise TrainingError(
                f"fit: budget of {self.budget:,} parameters",
                expected=f"at least {least:,}, the size of the adapter at rank 1",
                fix=f"pass budget={least}",
            )

    @property
    def settled(self) -> int:
        """The index of the first epoch with the final ranks."""
        return self.changes[-1] if self.changes else 0

    @property
    def ranks(self) -> Ranks:
        """The present ranks, for a checkpoint."""
        return Ranks(dict(self.adapter.formats), dict(self.adapter.scales))

    def start(self) -> None:
        """Give the adapter the highest rank, one for all bonds of all tensors, within the budget."""
        self._resize(even_split(self._highest, _modes(self.adapter), self.budget), self.seed)
        self.adapter.balance()

    def undo(self) -> None:
        """Give the adapter the ranks and values that it had before the run; the factors are the parameters of then."""
        links, scales, cores = self._before
        self.adapter._exchange(links)
        links.rescale(scales)
        with torch.no_grad():
            for name, core in self.adapter.named_cores().items():
                core.copy_(cores[name])

    def change(self, index: int) -> bool:
        """Change the ranks if that is due before an epoch: grow them the first time, and truncate them the second.

        Args:
            index: Index of the epoch.

        Returns:
            Whether the adapter has new parameters.
        """
        if index not in self.changes:
            return False
        if index == self.settled:
            if self.adapter.num_parameters > self.budget:
                self.adapter.round(budget=self.budget, spread="energy")
        else:
            modes = _modes(self.adapter)
            grown = {name: grown_format(format, modes[name], _GROWTH) for name, format in self.adapter.formats.items()}
            self._resize(grown, self.seed + index)
        self.adapter.balance()
        return True

    def lr_factor(self, done: float) -> float:
        """Return a factor of the learning rate, which rises from 0 to 1 after each change of the ranks.

        The optimizer starts anew there, and its first steps have the full size of the learning rate, whatever the
        gradients. The rise takes as long as the ranks are higher.

        Args:
            done: The number of epochs that are done, with fractions.
        """
        since = min((done - change for change in self.changes if change < done), default=math.inf)
        return min(1.0, since / (self.changes[-1] - self.changes[0])) if since < math.inf else 1.0

    def resume(self, path: AnyPath) -> None:
        """Give the adapter the ranks and scales that a checkpoint holds; its values are loaded afterwards.

        Args:
            path: An existing checkpoint file. One of a run without a budget changes nothing.

        Raises:
            CheckpointError: The file is damaged, or its adapter has other formats.
        """
        found = stored_ranks(path)
        if found is None:
            return
        own = self.adapter.formats
        other = CheckpointError(
            f"{path} belongs to another run",
            expected=_spelled(own),
            got=_spelled(found.formats),
            fix="pass the arguments and the model of that run, or another checkpoint path",
        )
        if found.formats.keys() != own.keys() or found.scales.keys() != own.keys():
            raise other
        modes, room = _modes(self.adapter), sum(map(math.prod, read_header(path).shapes.values()))
        try:
            if sum(format.num_parameters(modes[name]) for name, format in found.formats.items()) > room:
                raise other  # the file does not hold as many numbers, so none are allocated
            self._resize(found.formats, self.seed)
        except FormatError as error:
            raise other from error
        scales = torch.tensor([found.scales[name] for name in self.adapter.scales], dtype=torch.float32, device="cpu")
        self.adapter.scale_state.load_state_dict({"scales": scales})

    def _resize(self, formats: Mapping[str, Format], seed: int) -> None:
        modes = _modes(self.adapter)
        if any(format.network(modes[name]) != self._network(name) for name, format in formats.items()):
            self.adapter.resize(formats, seed=seed)

    def _network(self, name: str) -> object:
        return self.adapter.formats[name].network(_modes(self.adapter)[name])


def carry_moments(before: torch.optim.Optimizer, after: torch.optim.Optimizer) -> None:
    """Give an optimizer the state of the parameters that it shares with the one that it replaces.

    Args:
        before: The old optimizer.
        after: The new one.
    """
    for group in after.param_groups:
        for parameter in group["params"]:
            if parameter in before.state:
                after.state[parameter] = before.state[parameter]


def rank_budget(engine: TrainingEngine, schedule: Schedule) -> RankBudget | None:
    """Return the rank budget of a run, or None if it has no budget.

    Args:
        engine: Runs the model.
        schedule: Hyperparameters of the run.

    Raises:
        TrainingError: As in `RankBudget`.
    """
    return None if schedule.budget is None else RankBudget(engine, schedule)


def _copies(adapter: Adapter) -> dict[str, torch.Tensor]:
    return {name: core.detach().clone() for name, core in adapter.named_cores().items()}


def _modes(adapter: Adapter) -> dict[str, tuple[Mode, ...]]:
    return {tensor.name: tensor.modes for tensor in adapter.resolved.tensors}


def _highest(adapter: Adapter) -> dict[str, Format]:
    """Return the formats at the highest ranks that the modes admit."""
    found, modes = {}, _modes(adapter)
    for name, format in adapter.formats.items():
        if format.own_rank is None:
            raise TrainingError(
                "fit: budget needs formats with ranks",
                got=f"{format} of tensor {name!r}",
                fix="pass budget=None, or adapt the model with TensorTrain(rank=4)",
            )
        found[name] = format.with_rank("full").explicit(modes[name])
    return found


def _spelled(formats: Mapping[str, Format]) -> str:
    return ", ".join(f"{format} of {name}" for name, format in formats.items())
