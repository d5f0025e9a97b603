"""An adapter without a model: what a file holds, in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from ..errors import AdaptError, CheckpointError, PlanError
from ..formats import Format
from ..network import Mode, Network
from ..plan import ResolvedPlan
from .description import FACTORS, HEAD, START, AdapterFile


@dataclasses.dataclass(frozen=True, eq=False)
class AdapterState:
    """The plan, formats and numbers of an adapter; `adapter.state`, or what a file holds.

    Args:
        file: The description.
        tensors: The numbers: `factors.TENSOR.CORE`, `start.TENSOR.CORE`, `head.PARAMETER`.

    Examples:
        >>> import tensorfact as tf
        >>> model = tf.nano()
        >>> state = tf.adapt(model, tf.plan_for(model), tf.TensorTrain(rank=4)).state
        >>> state.num_parameters, sorted(state.cores("encoder"))
        (1920, ['S1', 'U', 'V'])
    """

    file: AdapterFile
    tensors: Mapping[str, Tensor]

    @classmethod
    def load(cls, path: str | Path) -> AdapterState:
        """Read a file that `Adapter.save` or `save` wrote.

        Args:
            path: The file.

        Raises:
            CheckpointError: The file is missing, damaged or no adapter.
        """
        file = AdapterFile.read(path)
        for name, format in file.formats.items():
            found = {core: file.shapes.get(f"{FACTORS}{name}.{core}") for core in _shapes(file, name, format)}
            if found != _shapes(file, name, format):
                raise CheckpointError(f"{path}: the cores of tensor {name!r} are not those of {format}")
        return cls(file, file.tensors(path))

    def save(self, path: str | Path) -> None:
        """Write everything to one safetensors file, atomically.

        Args:
            path: The file; its folder must exist.

        Raises:
            CheckpointError: It cannot be written; a file that was there is unchanged.
            FormatError: A format has no registered name.
        """
        self.file.write(path, self.tensors)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the plan's tensors."""
        return tuple(self.file.formats)

    def network(self, tensor: str) -> Network:
        """Return the network of one of the plan's tensors.

        Args:
            tensor: The tensor's name.
        """
        return self.file.formats[tensor].network(self.file.modes[tensor])

    def cores(self, tensor: str) -> dict[str, Tensor]:
        """Return the cores of one of the plan's tensors, by name.

        Args:
            tensor: The tensor's name.
        """
        return self._below(f"{FACTORS}{tensor}.")

    def start(self, tensor: str) -> dict[str, Tensor]:
        """Return the cores whose increment is subtracted from that of `cores`, by name; empty if none is.

        Args:
            tensor: The tensor's name.
        """
        return self._below(f"{START}{tensor}.")

    def _below(self, prefix: str) -> dict[str, Tensor]:
        return {
            name.removeprefix(prefix): core.detach() for name, core in self.tensors.items() if name.startswith(prefix)
        }

    def resolve(self, model: nn.Module) -> ResolvedPlan:
        """Find the plan's tensors on a model.

        Args:
            model: The model.

        Raises:
            PlanError: The plan does not fit the model, or its tensors have other sizes there.
        """
        resolved = self.file.plan.resolve(model)
        for tensor in resolved.tensors:
            own = self.file.modes.get(tensor.name, ())
            if own != tensor.modes:
                raise PlanError(
                    f"the adapter does not fit the model at tensor {tensor.name!r}",
                    expected=sizes_of(own) or "no such tensor",
                    got=sizes_of(tensor.modes),
                    cause="a model of another size",
                    fix="use the model it was made for",
                )
        return resolved

    @property
    def head(self) -> dict[str, Tensor]:
        """The stored head, by parameter name."""
        return {name.removeprefix(HEAD): value for name, value in self.tensors.items() if name.startswith(HEAD)}

    @property
    def num_parameters(self) -> int:
        """How many numbers the trained factors hold, the head apart."""
        return sum(format.num_parameters(self.file.modes[name]) for name, format in self.file.formats.items())

    def replaced(
        self,
        formats: Mapping[str, Format],
        cores: Mapping[str, Mapping[str, Tensor]],
        head: Mapping[str, Tensor] | None = None,
    ) -> AdapterState:
        """Return a state with other factors.

        Args:
            formats: Formats by tensor name.
            cores: The cores of every tensor, by its name.
            head: Another head; by default, this one's.
        """
        tensors = {f"{FACTORS}{t}.{name}": core for t, each in cores.items() for name, core in each.items()}
        tensors |= {f"{HEAD}{name}": value for name, value in (self.head if head is None else head).items()}
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        file = dataclasses.replace(self.file, formats=dict(formats), shapes=shapes, seed=None, subtracts_start=False)
        return AdapterState(file, tensors)


class HasState(Protocol):
    """What an adapter without a model can be had of, such as an `Adapter`."""

    @property
    def state(self) -> AdapterState:
        """The adapter without its model."""
        ...


Source = HasState | AdapterState | str | Path
"""Where an adapter comes from: one on a model, one without, or a file."""


def state_of(adapter: Source) -> AdapterState:
    """Return an adapter without its model.

    Args:
        adapter: An adapter on a model, one without, or a file.

    Raises:
        CheckpointError: The file is missing, damaged or no adapter.
        AdaptError: This is none of them.
    """
    if isinstance(adapter, (str, Path)):
        return AdapterState.load(adapter)
    state = adapter if isinstance(adapter, AdapterState) else getattr(adapter, "state", None)
    if not isinstance(state, AdapterState):
        raise AdaptError("an adapter", expected="an Adapter, an AdapterState or a file", got=repr(adapter)[:80])
    return state


def sizes_of(modes: Sequence[Mode]) -> str:
    """Spell modes and their sizes, for messages."""
    return " x ".join(f"{mode.name}={mode.size}" for mode in modes)


def _shapes(file: AdapterFile, name: str, format: Format) -> dict[str, tuple[int, ...]]:
    return format.network(file.modes[name]).shapes()
