"""What an adapter file holds, read and written without a model."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from ..errors import CheckpointError, TensorfactError
from ..formats import Format, format_from_dict, format_to_dict
from ..network import Dropout, Mode, Side
from ..network.initial import deviations, fresh
from ..plan import TensorizationPlan
from .files import read_header, read_tensors, write_tensors

KIND = "adapter"
FACTORS, START, HEAD = "factors.", "start.", "head."
_SAMPLES = 1024
_MOST = 1 << 28
"""Numbers that a file may ask to be drawn: 1 GiB."""


@dataclasses.dataclass(frozen=True)
class AdapterFile:
    """An adapter as a file describes it.

    Args:
        plan: The plan.
        formats: Formats by tensor name.
        scales: Scales by tensor name.
        dropout: The dropout it was trained with: a probability, or probabilities by name.
        fingerprint: The fingerprint of the base model's adapted parameters.
        modes: The modes of every tensor, by its name.
        shapes: The shape of every tensor: `factors.TENSOR.CORE`, `start.TENSOR.CORE`, `head.PARAMETER`.
        extents: Over how many coordinates of every mode one slice of a tensor runs, where that is known.
        seed: What the first values of the cores were drawn from; None where they were not drawn.
        subtracts_start: Whether the increment is that of `factors` less that of `start`.
    """

    plan: TensorizationPlan
    formats: Mapping[str, Format]
    scales: Mapping[str, float]
    dropout: float | Mapping[str, float]
    fingerprint: str
    modes: Mapping[str, tuple[Mode, ...]]
    shapes: Mapping[str, tuple[int, ...]]
    extents: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict)
    seed: int | None = None
    subtracts_start: bool = False

    def write(self, path: str | Path, tensors: Mapping[str, Tensor]) -> None:
        """Write description and tensors; an old file stays whole on failure.

        What training does not change, frozen cores and the start that is subtracted, is left out where it can be drawn
        again, bit for bit.

        Args:
            path: The file.
            tensors: The tensors that `shapes` describes.

        Raises:
            CheckpointError: The file cannot be written.
            FormatError: A format has no registered name.
        """
        formats = {name: format_to_dict(format) for name, format in self.formats.items()}
        drawn = self._drawn()
        left_out = {n: core for n, core in drawn.items() if torch.equal(core.to(tensors[n]), tensors[n])}
        metadata = {
            "kind": KIND,
            "tensors": list(self.formats),
            "plan": json.loads(self.plan.to_json()),
            "formats": _merged(formats),
            "scales": _merged(self.scales),
            "dropout": self.dropout,
            "fingerprint": self.fingerprint,
            "modes": _merged(
                {name: [dataclasses.astuple(mode) for mode in modes] for name, modes in self.modes.items()}
            ),
            "extents": _merged(self.extents),
            "seed": self.seed,
            "subtracts_start": self.subtracts_start,
            "drawn": {"names": sorted(left_out), "digest": _digest(left_out)},
        }
        write_tensors(path, {name: core for name, core in tensors.items() if name not in left_out}, metadata)

    @classmethod
    def read(cls, path: str | Path) -> AdapterFile:
        """Read the description and the shapes; no tensor is allocated.

        Args:
            path: A file that `Adapter.save` wrote.

        Returns:
            The description.

        Raises:
            CheckpointError: The file is missing, damaged or no adapter.
        """
        header = read_header(path)
        if header.metadata.get("kind") != KIND:
            raise CheckpointError(
                f"{path} holds no adapter", expected=f"kind {KIND!r}", got=repr(header.metadata.get("kind"))
            )
        try:
            body = header.metadata
            plan = TensorizationPlan.from_json(json.dumps(body["plan"]))
            names = [str(name) for name in body["tensors"]]
            formats = {name: format_from_dict(value) for name, value in _split(body["formats"], names).items()}
            scales = {name: float(value) for name, value in _split(body["scales"], names).items()}
            modes = {name: _modes(value) for name, value in _split(body["modes"], names).items()}
            dropout = Dropout.of(body["dropout"]).plain
            extents = {name: _extents(value) for name, value in _split(body["extents"], names).items()}
            seed = None if body["seed"] is None else torch.Generator().manual_seed(int(body["seed"])).initial_seed()
            fingerprint, subtracts = str(body["fingerprint"]), bool(body["subtracts_start"])
            left_out, _ = {str(name) for name in body["drawn"]["names"]}, str(body["drawn"]["digest"])
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
            if isinstance(error, TensorfactError):
                raise CheckpointError(f"{path}: {error}") from error
            raise CheckpointError(f"{path} is damaged: its description cannot be read", got=repr(error)) from error
        file = cls(plan, formats, scales, dropout, fingerprint, modes, header.shapes, extents, seed, subtracts)
        try:
            unchanged = file._unchanged()
            if seed is None:  # then only what the formats give can be had
                unchanged = {n: shape for n, shape in unchanged.items() if n in file._drawn()}
        except (KeyError, TensorfactError) as error:
            raise CheckpointError(f"{path} is damaged: its formats do not fit its tensors", got=str(error)) from error
        if not left_out <= unchanged.keys() or sum(math.prod(unchanged[name]) for name in left_out) > _MOST:
            raise CheckpointError(f"{path} is damaged: it leaves out what cannot be drawn again")
        return dataclasses.replace(file, shapes={**header.shapes, **{name: unchanged[name] for name in left_out}})

    def tensors(self, path: str | Path) -> dict[str, Tensor]:
        """Read the tensors, held against the file's digest, and draw those that it leaves out.

        Args:
            path: The file that this was read from.

        Raises:
            CheckpointError: The file is damaged, or this version of torch draws other random numbers.
        """
        tensors = read_tensors(path)
        described = read_header(path).metadata["drawn"]
        if not described["names"]:
            return tensors
        drawn = {name: core for name, core in self._drawn().items() if name in described["names"]}
        if _digest(drawn) != described["digest"]:
            raise CheckpointError(
                f"{path}: the cores that it leaves out come out otherwise",
                expected=f"digest {described['digest']}",
                got=_digest(drawn),
                cause="a version of torch that draws other random numbers from a seed",
                fix="load and save it with the version of torch that it was made with, under another seed's cores",
            )
        for name, core in drawn.items():
            tensor = name.partition(".")[2].rpartition(".")[0]
            like = next(value for key, value in tensors.items() if key.startswith(f"{FACTORS}{tensor}."))
            tensors[name] = core.to(like.dtype)
        return tensors

    def _unchanged(self) -> dict[str, tuple[int, ...]]:
        """Return what training does not change, by name, and its shape."""
        found: dict[str, tuple[int, ...]] = {}
        for name, format in self.formats.items():
            network = format.network(self.modes[name])
            for core, shape in zip(network.cores, network.shapes().values(), strict=True):
                found |= {} if core.trained else {f"{FACTORS}{name}.{core.name}": shape}
                found |= {f"{START}{name}.{core.name}": shape} if self.subtracts_start else {}
        return found

    def _drawn(self) -> dict[str, Tensor]:
        """Return what of that can be had again, in fp32: what the formats give, and what the seed tells."""
        unchanged = self._unchanged()
        found: dict[str, Tensor] = {}
        if not unchanged:
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
        return {name: value for name, value in found.items() if name in unchanged}


def fingerprint(parameters: Mapping[str, Tensor], names: Sequence[str]) -> str:
    """Return a short name for the base weights an adapter belongs to.

    Names, shapes and up to 1,024 evenly spaced values of each parameter, rounded to bf16, so that one model has one
    fingerprint in fp32 and in bf16, and a model of any size is read in no time.

    Args:
        parameters: The base parameters by name.
        names: Which of them the adapter changes.
    """
    digest = hashlib.sha256()
    for name in sorted(names):
        parameter = parameters[name].detach()
        flat = parameter.reshape(-1)
        values = flat[:: max(1, flat.numel() // _SAMPLES)][:_SAMPLES].to("cpu", torch.bfloat16)
        digest.update(repr((name, tuple(parameter.shape))).encode())
        digest.update(values.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _merged(values: Mapping[str, Any]) -> Any:
    """Write a value once where all tensors share it."""
    distinct = list(values.values())
    return (
        {"all": distinct[0]} if distinct and all(value == distinct[0] for value in distinct) else {"each": dict(values)}
    )


def _split(stored: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return dict(stored["each"]) if "each" in stored else dict.fromkeys(names, stored["all"])


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _extents(stored: Mapping[str, Any]) -> dict[str, int]:
    extents = {str(name): int(size) for name, size in stored.items()}
    if any(size < 1 for size in extents.values()):
        raise ValueError(f"extents {stored}")
    return extents


def _modes(stored: Sequence[Any]) -> tuple[Mode, ...]:
    modes = tuple(Mode(str(name), int(size), side) for name, size, side in stored)
    if not modes or any(mode.size < 1 or mode.side not in get_args(Side) for mode in modes):
        raise ValueError(f"modes {stored}")
    return modes
