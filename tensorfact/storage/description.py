"""`AdapterDescription`: an adapter without its numbers, in a file's header, checked against file and model."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor, nn

from ..common.aliases import JsonObject
from ..common.checks import AnyPath
from ..errors import CheckpointError, FingerprintError, PlanError, TensorfactError, naming
from ..formats import Format, format_from_dict, format_to_dict
from ..model.parameters import base_tensors, each_once
from ..network import Dropout, Mode, Network, Side
from ..network.initial import deviations, fresh
from ..network.starts import GIVEN
from ..plan import ResolvedPlan, TensorizationPlan
from ..plan.nesting import nesting
from .files import Header, read_header
from .fingerprint import AnyFingerprint, read_fingerprint
from .left_out import LeftOutCores
from .located import adapter_file, stated_name

KIND = "adapter"
FACTORS, START, HEAD = "factors.", "start.", "head."
_MOST = 1 << 28
"""The most numbers that a file may leave out to be drawn from its seed: 1 GiB in fp32."""


@dataclasses.dataclass(frozen=True)
class AdapterDescription:
    """An adapter as described in a file's header: everything but the numbers.

    Args:
        plan: The plan.
        formats: Formats by tensor name.
        scales: Scales by tensor name.
        dropout: The dropout in training: a probability, or probabilities by name.
        fingerprint: The fingerprint of the base model, without what `head` lists.
        modes: The modes of every tensor, by its name.
        head: The shapes of what is stored beside the factors, by the names in the model: the head's parameters and
            buffers, and all else that changed.
        extents: By tensor name, the number of coordinates of each mode in one slice; may be empty.
        seed: The seed of the cores' initial values; None if they were not drawn.
        subtracts_start: Whether the increment is that of `factors` minus that of `start`.
    """

    plan: TensorizationPlan
    formats: Mapping[str, Format]
    scales: Mapping[str, float]
    dropout: float | Mapping[str, float]
    fingerprint: AnyFingerprint
    modes: Mapping[str, tuple[Mode, ...]]
    head: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    extents: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict)
    seed: int | None = None
    subtracts_start: bool = False

    @classmethod
    def read(cls, path: AnyPath) -> AdapterDescription:
        """Read an adapter file's description without allocating a tensor.

        Args:
            path: A file that `Adapter.save` wrote, or a folder or repository as in `AdapterState.load`.

        Returns:
            The description; the names and shapes of the file's tensors match it.

        Raises:
            CheckpointError: The file is missing, damaged or not an adapter file.
        """
        return cls.of(read_header(adapter_file(path)))[0]

    @classmethod
    def of(cls, header: Header) -> tuple[AdapterDescription, LeftOutCores]:
        """Return the description in a header, and the cores that its file leaves out.

        Args:
            header: The header of an adapter file.

        Raises:
            CheckpointError: It does not describe an adapter, or does not match the file's tensors.
        """
        path, body = header.path, header.metadata
        if body.get("kind") != KIND:
            raise CheckpointError(
                f"{path} is not an adapter file",
                expected=f"kind {KIND!r}",
                got=repr(body.get("kind")),
                fix="pass a file that adapter.save(path) wrote",
            )
        heads = {name.removeprefix(HEAD): shape for name, shape in header.shapes.items() if name.startswith(HEAD)}
        found, left_out = cls.parsed(path, body, heads)
        found._check(header, left_out)
        return found, left_out

    @classmethod
    def parsed(
        cls, path: Path, body: JsonObject, heads: Mapping[str, tuple[int, ...]]
    ) -> tuple[AdapterDescription, LeftOutCores]:
        """Return the description in the metadata of a file, which is not compared with the file's tensors.

        Args:
            path: The file, for messages.
            body: Its metadata.
            heads: The shapes of what is stored beside the factors.

        Raises:
            CheckpointError: It does not describe an adapter.
        """
        try:
            plan = TensorizationPlan.from_json(json.dumps(body["plan"]))
            names = [str(name) for name in body["tensors"]]
            formats = {name: format_from_dict(value) for name, value in _split(body["formats"], names).items()}
            scales = {name: _finite(value) for name, value in _split(body["scales"], names).items()}
            modes = {name: _modes(value) for name, value in _split(body["modes"], names).items()}
            dropout = Dropout.of(body["dropout"]).plain
            extents = {
                name: {mode.name: mode.size for mode in modes[name]} | _extents(value)
                for name, value in _split(body["extents"], names).items()
            }
            seed = None if body["seed"] is None else torch.Generator().manual_seed(int(body["seed"])).initial_seed()
            fingerprint, subtracts = read_fingerprint(body["fingerprint"]), bool(body["subtracts_start"])
            left_out = LeftOutCores(frozenset(map(str, body["drawn"]["names"])), str(body["drawn"]["digest"]))
            if not formats.keys() == scales.keys() == modes.keys():
                raise KeyError("tensors")
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
            if isinstance(error, TensorfactError):
                raise CheckpointError(f"{path}: {error}") from error
            raise CheckpointError(
                f"{path} is damaged: its description cannot be read", got=repr(error), fix="restore it from a copy"
            ) from error
        return cls(plan, formats, scales, dropout, fingerprint, modes, heads, extents, seed, subtracts), left_out

    def _check(self, header: Header, left_out: LeftOutCores) -> None:
        """Check the names and shapes of a file's tensors against the formats, before any is allocated."""
        try:
            expected, unchanged = self.shapes, self._redrawable()
        except TensorfactError as error:
            raise CheckpointError(
                f"{header.path} is damaged: its formats do not fit its tensors",
                got=str(error),
                fix="restore it from a copy",
            ) from error
        drawn = {name: unchanged[name] for name in left_out.names if name in unchanged}
        stored = {**header.shapes, **drawn}
        for name in sorted(expected.keys() | stored.keys()):
            if expected.get(name) != stored.get(name):
                raise CheckpointError(
                    f"{header.path} is damaged: tensor {name!r} does not match its description",
                    expected=f"shape {expected.get(name, 'none')}",
                    got=f"{stored.get(name, 'none')}",
                    fix="restore it from a copy",
                )
        if drawn.keys() != left_out.names or sum(map(math.prod, drawn.values())) > _MOST:
            raise CheckpointError(
                f"{header.path} is damaged: it leaves out cores that cannot be rebuilt", fix="restore it from a copy"
            )

    def metadata(self, left_out: LeftOutCores) -> JsonObject:
        """Return the description as JSON data for a file's header.

        Args:
            left_out: The cores that the file leaves out.

        Raises:
            FormatError: A format has no registered name.
        """
        modes = {name: [dataclasses.astuple(mode) for mode in modes] for name, modes in self.modes.items()}
        return {
            "kind": KIND,
            "tensors": list(self.formats),
            "plan": json.loads(self.plan.to_json()),
            "formats": _merged({name: format_to_dict(format) for name, format in self.formats.items()}),
            "scales": _merged(self.scales),
            "dropout": self.dropout,
            "fingerprint": self.fingerprint.plain(),
            "modes": _merged(modes),
            "extents": _merged({name: self._shorter(name, own) for name, own in self.extents.items()}),
            "seed": self.seed,
            "subtracts_start": self.subtracts_start,
            "drawn": {"names": sorted(left_out.names), "digest": left_out.digest},
        }

    def _shorter(self, tensor: str, extents: Mapping[str, int]) -> dict[str, int]:
        """Return the numbers of coordinates in one slice that are not those of the whole modes."""
        sizes = {mode.name: mode.size for mode in self.modes[tensor]}
        return {name: count for name, count in extents.items() if count != sizes.get(name)}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of all stored tensors: `factors.TENSOR.CORE`, `start.TENSOR.CORE`, `head.PARAMETER`."""
        prefixes = (FACTORS, START) if self.subtracts_start else (FACTORS,)
        cores = {
            f"{prefix}{tensor}.{core}": shape
            for prefix in prefixes
            for tensor in self.formats
            for core, shape in self.network(tensor).shapes().items()
        }
        return {**cores, **{f"{HEAD}{name}": shape for name, shape in self.head.items()}}

    def network(self, tensor: str) -> Network:
        """Return the network of one of the plan's tensors.

        Args:
            tensor: The tensor's name.
        """
        return self.formats[tensor].network(self.modes[tensor])

    def resolve(self, model: nn.Module) -> ResolvedPlan:
        """Resolve the plan on a model and check its sizes.

        Args:
            model: The model; it is only read.

        Raises:
            PlanError: The plan does not fit the model.
            CheckpointError: A tensor has another size on this model.
        """
        resolved = self.plan.resolve(model)
        self._check_modes(resolved, "the adapter")
        return resolved

    def _check_modes(self, resolved: ResolvedPlan, source: str) -> None:
        found = {tensor.name: tensor.modes for tensor in resolved.tensors}
        for name in sorted(found.keys() | self.modes.keys()):
            if found.get(name) != self.modes.get(name):
                raise CheckpointError(
                    f"{source} does not fit the model at tensor {name!r}",
                    expected=sizes_of(self.modes.get(name, ())) or "no such tensor",
                    got=sizes_of(found.get(name, ())) or "no such tensor",
                    cause="a model of another size",
                    fix="pass the model it was trained on",
                )

    def check_fits(
        self, model: nn.Module, *, check_base: bool = True, source: str = "the adapter", folder: Path | None = None
    ) -> None:
        """Check that the base weights, the tensors' sizes and the head fit a model.

        Args:
            model: The model; it is only read.
            check_base: Refuse a model whose base weights are not those the adapter was trained on.
            source: What to call the adapter in error messages.
            folder: The folder of the adapter, which may state the name of its base model.

        Raises:
            PlanError: The plan does not fit the model.
            FingerprintError: The adapter was made for another base model.
            CheckpointError: A tensor, or the head, has another size on this model.
        """
        with naming(source):
            resolved = self._resolved(model, source, folder)
        if check_base:
            self.check_base(each_once(base_tensors(model), self.head), resolved.parameters, source)
        self._check_modes(resolved, source)
        head = {name: tuple(tensor.shape) for name, tensor in self.head_of(model).items()}
        for name in sorted(head.keys() | self.head.keys()):
            if head.get(name) != self.head.get(name):
                raise CheckpointError(
                    f"{source} does not fit the model at parameter {name!r}",
                    expected=f"shape {self.head.get(name, 'none')}",
                    got=f"{head.get(name, 'none')}",
                    cause="a head with another number of classes, or another model",
                    fix="create the model with the num_classes the adapter was trained with",
                )

    def _resolved(self, model: nn.Module, source: str, folder: Path | None) -> ResolvedPlan:
        try:
            return self.plan.resolve(model)
        except PlanError as error:
            if not isinstance(model, nn.Module):
                raise
            if found := nesting(self.plan, model):
                raise type(error)(f"the plan of the adapter does not fit {type(model).__name__}", fix=found) from error
            name = "" if folder is None else stated_name(folder)
            raise type(error)(
                f"{source} is an adapter of {repr(name) if name else 'another model'}, and does not fit this "
                f"{type(model).__name__}",
                got=error.problem,
                cause="a base model of another family or size",
                fix="pass the model it was trained on" + (f", or call tensorfact.load({source!r})" if folder else ""),
            ) from error

    def check_base(self, base: Mapping[str, Tensor], adapted: Collection[str], source: str) -> None:
        """Check that the adapter was trained on these base weights.

        Args:
            base: The base model's tensors by name, each once, without those that the adapter stores.
            adapted: Names of those that the adapter changes.
            source: What to call the adapter in error messages.

        Raises:
            FingerprintError: It was trained on others.
        """
        found = self.fingerprint.again(base, adapted)
        if differing := self.fingerprint.difference(found):
            raise FingerprintError(
                f"{source} was made for another base model: {differing} differ",
                expected=f"base fingerprint {self.fingerprint}",
                got=str(found),
                cause="other pretrained weights, or weights that were merged or trained afterwards",
                fix="load the base weights it was trained on, or pass check_base=False to use these",
            )

    def head_of(self, model: nn.Module) -> dict[str, Tensor]:
        """Return those parameters and buffers of a model that the adapter stores, by name.

        Args:
            model: A model with the head's parameters.
        """
        named = {**base_tensors(model), **dict(model.named_buffers(remove_duplicate=False))}
        return {name: named[name] for name in self.head if name in named}

    def _redrawable(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the cores that can be rebuilt: not trained, and drawn from the seed or given."""
        found: dict[str, tuple[int, ...]] = {}
        for name in self.formats:
            network = self.network(name)
            for core, shape in zip(network.cores, network.shapes().values(), strict=True):
                if self.seed is None and core.start != GIVEN:
                    continue
                found |= {} if core.trained else {f"{FACTORS}{name}.{core.name}": shape}
                found |= {f"{START}{name}.{core.name}": shape} if self.subtracts_start else {}
        return found

    def drawn(self, names: Collection[str] | None = None) -> dict[str, Tensor]:
        """Rebuild the cores that training does not change, from the seed and from what the formats give.

        Args:
            names: The names of the cores, as in a file; by default, all that can be rebuilt.

        Returns:
            The cores by name, in fp32 on the CPU.
        """
        wanted = self._redrawable().keys() if names is None else names
        found: dict[str, Tensor] = {}
        if not wanted:
            return {}
        generator = torch.Generator().manual_seed(self.seed or 0)
        for name, format in self.formats.items():
            network, given = format.network(self.modes[name]), format.given(self.modes[name])
            cores = given
            if self.seed is not None:
                sizes = deviations(network, self.modes[name], self.extents.get(name))
                cores = fresh(network, sizes, given, generator)
            for core, value in cores.items():
                found |= {f"{prefix}{name}.{core}": value.float() for prefix in (FACTORS, START)}
        return {name: value for name, value in found.items() if name in wanted}


def sizes_of(modes: Sequence[Mode]) -> str:
    """Return modes and their sizes as text for error messages."""
    return " x ".join(f"{mode.name}={mode.size}" for mode in modes)


def _merged(values: Mapping[str, object]) -> JsonObject:
    """Return values by tensor name as JSON data, a common value only once."""
    listed = list(values.values())
    if listed and all(value == listed[0] for value in listed):
        return {"all": listed[0]}
    return {"each": dict(values)}


def _split(stored: JsonObject, names: Sequence[str]) -> JsonObject:
    """Return the values by tensor name: the inverse of `_merged`."""
    return dict(stored["each"]) if "each" in stored else dict.fromkeys(names, stored["all"])


def _finite(value: str | float) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"scale {number}")
    return number


def _extents(stored: Mapping[str, int]) -> dict[str, int]:
    extents = {str(name): int(size) for name, size in stored.items()}
    if any(size < 1 for size in extents.values()):
        raise ValueError(f"extents {stored}")
    return extents


def _modes(stored: Sequence[tuple[str, int, Side]]) -> tuple[Mode, ...]:
    modes = tuple(Mode(str(name), int(size), side) for name, size, side in stored)
    if not modes or any(mode.size < 1 or mode.side not in get_args(Side) for mode in modes):
        raise ValueError(f"modes {stored}")
    return modes
