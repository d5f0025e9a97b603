"""`AdapterState`: an adapter without a model, in memory or in a file."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from ..common.checks import AnyPath, flag, quoted
from ..errors import AdaptError, CheckpointError
from ..formats import Format
from ..network import Network
from .description import FACTORS, HEAD, START, AdapterDescription
from .files import read_header, write_tensors
from .left_out import LeftOutCores
from .located import adapter_file

_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclasses.dataclass(frozen=True, eq=False)
class AdapterState:
    """An adapter without a model: plan, formats and numbers, as `adapter.state` or a file holds them.

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
            path: The adapter file; a folder that `save_pretrained` wrote; or `OWNER/NAME`, a repository on the Hub with
                such a folder.
            model: A model that the adapter must fit, checked before a tensor is read; by default there is no check.
            check_base: Refuse a model whose base weights are not those the adapter was trained on.

        Raises:
            CheckpointError: The file is missing, damaged, not an adapter file, or does not fit the model's sizes, or
                the Hub cannot be reached.
            FingerprintError: The file was made for another base model.
            PlanError: The file's plan does not fit the model.
        """
        flag(check_base, "AdapterState.load: check_base", CheckpointError)
        file = adapter_file(path)
        header = read_header(file)
        description, left_out = AdapterDescription.of(header)
        if model is not None:
            folder = None if file == Path(path) else file.parent
            description.check_fits(model, check_base=check_base, source=str(path), folder=folder)
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
        """Check the tensors' names, shapes and types against the description.

        Args:
            source: What to call the adapter in error messages.

        Raises:
            CheckpointError: A tensor is missing, unknown, of another shape or not finite, or a core is not floating
                point.
        """
        expected, found = self.description.shapes, {name: tuple(t.shape) for name, t in self.tensors.items()}
        for name in sorted(expected.keys() | found.keys()):
            if expected.get(name) != found.get(name):
                raise CheckpointError(
                    f"{source}: tensor {name!r} does not match the description",
                    expected=f"shape {expected.get(name, 'none')}",
                    got=f"{found.get(name, 'none')}",
                    fix="pass adapter.state, or AdapterState.load(path)",
                )
            tensor = self.tensors[name]
            if tensor.is_meta or not (tensor.dtype in _DTYPES or name.startswith(HEAD)):
                raise CheckpointError(
                    f"{source}: {name!r}",
                    expected="floating-point numbers",
                    got=f"{tensor.dtype} on {tensor.device}",
                    fix="save the adapter again in fp32, fp64, fp16 or bf16",
                )
            if tensor.dtype in _DTYPES and not bool(tensor.isfinite().all()):
                raise CheckpointError(
                    f"{source}: {name!r} holds NaN or infinity",
                    got=f"{int((~tensor.isfinite()).sum()):,} of {tensor.numel():,} values",
                    cause="diverged training",
                    fix="use an adapter from before training diverged",
                )

    def save(self, path: AnyPath) -> None:
        """Write everything to one safetensors file, atomically.

        Frozen cores and the subtracted start are left out where they can be rebuilt bit for bit.

        Args:
            path: The file; its folder must exist.

        Raises:
            CheckpointError: The file cannot be written; an existing file is unchanged.
            FormatError: A format has no registered name.
        """
        self.check()
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
        """Return the cores whose increment is subtracted, by name; empty without `subtract_start`.

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
        """The stored parameters and buffers of the head, by name."""
        return {name.removeprefix(HEAD): value for name, value in self.tensors.items() if name.startswith(HEAD)}

    @property
    def num_parameters(self) -> int:
        """The number of trained parameters of the factors, without the head."""
        formats, modes = self.description.formats, self.description.modes
        return sum(format.num_parameters(modes[name]) for name, format in formats.items())

    def replaced(
        self,
        formats: Mapping[str, Format],
        cores: Mapping[str, Mapping[str, Tensor]],
        head: Mapping[str, Tensor] | None = None,
    ) -> AdapterState:
        """Return a copy with other factors.

        Args:
            formats: The new formats by tensor name.
            cores: The new cores of every tensor, by its name.
            head: A new head; by default this one's.
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
    """An object that holds an adapter state, such as an `Adapter`."""

    @property
    def state(self) -> AdapterState:
        """The adapter without its model."""
        ...


AdapterSource = HasState | AdapterState | str | os.PathLike[str]
"""An adapter on a model, an adapter state, or what `AdapterState.load` takes: a file, a folder, or a repository."""


def state_of(adapter: AdapterSource, model: nn.Module | None = None, *, check_base: bool = True) -> AdapterState:
    """Return the state of an adapter, whether on a model, without a model, or in a file.

    Args:
        adapter: An adapter on a model, an adapter state, or the path of an adapter file.
        model: As in `AdapterState.load`.
        check_base: As in `AdapterState.load`.

    Raises:
        CheckpointError: The file is missing, damaged, not an adapter file, or does not fit the model's sizes.
        FingerprintError: The adapter was made for another base model.
        PlanError: Its plan does not fit the model.
        AdaptError: `adapter` is none of these.
    """
    if isinstance(adapter, (str, os.PathLike)):
        return AdapterState.load(adapter, model, check_base=check_base)
    state = adapter if isinstance(adapter, AdapterState) else getattr(adapter, "state", None)
    if not isinstance(state, AdapterState):
        raise AdaptError(
            "adapter",
            expected="an Adapter, an AdapterState or a path",
            got=quoted(adapter),
            fix="pass 'adapter.safetensors'",
        )
    if adapter is state:  # it may have been constructed by hand
        state.check()
    if model is not None:
        state.description.check_fits(model, check_base=check_base)
    return state
