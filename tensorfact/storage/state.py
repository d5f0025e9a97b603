"""An adapter without a model: what a file holds, in memory."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from ..common.checks import AnyPath
from ..errors import AdaptError, CheckpointError
from ..formats import Format
from ..network import Network
from .description import FACTORS, HEAD, START, AdapterDescription, LeftOutCores
from .files import read_header, write_tensors


@dataclasses.dataclass(frozen=True, eq=False)
class AdapterState:
    """The plan, formats and numbers of an adapter; `adapter.state`, or what a file holds.

    Args:
        description: Everything but the numbers.
        tensors: The numbers: `factors.TENSOR.CORE`, `start.TENSOR.CORE`, `head.PARAMETER`.

    Examples:
        >>> from tensorfact import TensorTrain, adapt, plan_for
        >>> from tensorfact.lab import nano
        >>> model = nano()
        >>> state = adapt(model, plan_for(model), TensorTrain(rank=4)).state
        >>> state.num_parameters, sorted(state.cores("encoder"))
        (1920, ['S1', 'U', 'V'])
    """

    description: AdapterDescription
    tensors: Mapping[str, Tensor]

    @classmethod
    def load(cls, path: AnyPath, model: nn.Module | None = None, *, check_base: bool = True) -> AdapterState:
        """Read a file that `Adapter.save` or `save` wrote.

        Args:
            path: The file.
            model: A model that the adapter has to fit; it is held against it before a tensor is read.
            check_base: Refuse a model whose base weights are not those the adapter was trained on.

        Raises:
            CheckpointError: The file is missing, damaged, no adapter, or does not fit the model's sizes.
            FingerprintError: The file was made for another base model.
            PlanError: The file's plan does not fit the model.
        """
        header = read_header(path)
        description, left_out = AdapterDescription.of(header)
        if model is not None:
            description.check_fits(model, check_base=check_base, source=str(path))
        tensors = header.tensors()
        drawn = description.drawn(left_out.names)
        if (found := LeftOutCores.of(drawn)) != left_out:
            raise CheckpointError(
                f"{path}: cannot rebuild the frozen cores that the file leaves out",
                expected=f"digest {left_out.digest}",
                got=found.digest,
                cause="this version of torch draws other random numbers from the seed",
                fix="load it with the version of torch that wrote it",
            )
        for name, core in drawn.items():
            tensor = name.partition(".")[2].rpartition(".")[0]
            like = next(value for key, value in tensors.items() if key.startswith(f"{FACTORS}{tensor}."))
            tensors[name] = core.to(like.dtype)
        state = cls(description, tensors)
        state.check(str(path))
        return state

    def check(self, source: str = "the adapter") -> None:
        """Hold the tensors against the description.

        Args:
            source: Where they are from, for messages.

        Raises:
            CheckpointError: A tensor is missing, unknown, of another shape, or a core holds no real numbers.
        """
        expected, found = self.description.shapes, {name: tuple(t.shape) for name, t in self.tensors.items()}
        for name in sorted(expected.keys() | found.keys()):
            if expected.get(name) != found.get(name):
                raise CheckpointError(
                    f"{source} does not hold the tensors that it describes, at {name!r}",
                    expected=f"shape {expected.get(name, 'none')}",
                    got=f"{found.get(name, 'none')}",
                    fix="pass a state as `adapter.state` or `AdapterState.load` returns it",
                )
            tensor = self.tensors[name]
            if tensor.is_meta or not (tensor.is_floating_point() or name.startswith(HEAD)):
                raise CheckpointError(
                    f"{source}: {name!r}",
                    expected="floating-point numbers",
                    got=f"{tensor.dtype} on {tensor.device}",
                    fix="save the adapter again in fp32, fp64, fp16 or bf16",
                )

    def save(self, path: AnyPath) -> None:
        """Write everything to one safetensors file, atomically.

        What training does not change, frozen cores and the start that is subtracted, is left out where it can be drawn
        again, bit for bit.

        Args:
            path: The file; its folder must exist.

        Raises:
            CheckpointError: It cannot be written; a file that was there is unchanged.
            FormatError: A format has no registered name.
        """
        drawn, own = self.description.drawn(), self.tensors
        same = {name: core for name, core in drawn.items() if torch.equal(core.to(own[name]), own[name])}
        kept = {name: tensor for name, tensor in own.items() if name not in same}
        write_tensors(path, kept, self.description.metadata(LeftOutCores.of(same)))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the plan's tensors."""
        return tuple(self.description.formats)

    def network(self, tensor: str) -> Network:
        """Return the network of one of the plan's tensors.

        Args:
            tensor: The tensor's name.
        """
        return self.description.network(tensor)

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

    @property
    def head(self) -> dict[str, Tensor]:
        """The stored head, by parameter name."""
        return {name.removeprefix(HEAD): value for name, value in self.tensors.items() if name.startswith(HEAD)}

    @property
    def num_parameters(self) -> int:
        """How many numbers the trained factors hold, the head apart."""
        formats, modes = self.description.formats, self.description.modes
        return sum(format.num_parameters(modes[name]) for name, format in formats.items())

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
        head = self.head if head is None else head
        tensors = {f"{FACTORS}{t}.{name}": core for t, each in cores.items() for name, core in each.items()}
        tensors |= {f"{HEAD}{name}": value for name, value in head.items()}
        description = dataclasses.replace(
            self.description,
            formats=dict(formats),
            head={name: tuple(value.shape) for name, value in head.items()},
            seed=None,
            subtracts_start=False,
        )
        return AdapterState(description, tensors)


class HasState(Protocol):
    """What an adapter without a model can be had of, such as an `Adapter`."""

    @property
    def state(self) -> AdapterState:
        """The adapter without its model."""
        ...


AdapterSource = HasState | AdapterState | str | os.PathLike[str]
"""Where an adapter comes from: one on a model, one without, or a file."""


def state_of(adapter: AdapterSource, model: nn.Module | None = None, *, check_base: bool = True) -> AdapterState:
    """Return an adapter without its model.

    Args:
        adapter: An adapter on a model, one without, or a file.
        model: As in `AdapterState.load`.
        check_base: As in `AdapterState.load`.

    Raises:
        CheckpointError: The file is missing, damaged, no adapter, or does not fit the model's sizes.
        FingerprintError: The adapter was made for another base model.
        PlanError: Its plan does not fit the model.
        AdaptError: This is no adapter.
    """
    if isinstance(adapter, (str, os.PathLike)):
        return AdapterState.load(Path(adapter), model, check_base=check_base)
    state = adapter if isinstance(adapter, AdapterState) else getattr(adapter, "state", None)
    if not isinstance(state, AdapterState):
        raise AdaptError("an adapter", expected="an Adapter, an AdapterState or a file", got=repr(adapter)[:80])
    if adapter is state:  # it may have been put together by hand
        state.check()
    if model is not None:
        state.description.check_fits(model, check_base=check_base)
    return state
