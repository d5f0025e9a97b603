"""What an adapter file holds, read and written without a model."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from .errors import CheckpointError, FormatError, PlanError
from .files import read_header, read_tensors, write_tensors
from .formats import Format, format_from_dict, format_to_dict
from .network import Mode, Side
from .plan import TensorizationPlan

KIND = "adapter"
FACTORS, HEAD = "factors.", "head."
_SAMPLES = 1024


@dataclasses.dataclass(frozen=True)
class AdapterFile:
    """An adapter as a file describes it.

    Args:
        plan: The plan.
        formats: Formats by tensor name.
        scales: Scales by tensor name.
        dropout: The dropout it was trained with.
        fingerprint: The fingerprint of the base model's adapted parameters.
        modes: The modes of every tensor, by its name.
        shapes: The shape of every stored tensor: `factors.TENSOR.CORE`, `head.PARAMETER`.
    """

    plan: TensorizationPlan
    formats: Mapping[str, Format]
    scales: Mapping[str, float]
    dropout: float
    fingerprint: str
    modes: Mapping[str, tuple[Mode, ...]]
    shapes: Mapping[str, tuple[int, ...]]

    def write(self, path: str | Path, tensors: Mapping[str, Tensor]) -> None:
        """Write description and tensors; an old file stays whole on failure.

        Args:
            path: The file.
            tensors: The tensors that `shapes` describes.

        Raises:
            CheckpointError: The file cannot be written.
            FormatError: A format has no registered name.
        """
        formats = {name: format_to_dict(format) for name, format in self.formats.items()}
        metadata = {
            "kind": KIND,
            "plan": json.loads(self.plan.to_json()),
            "formats": _merged(formats),
            "scales": _merged(self.scales),
            "dropout": self.dropout,
            "fingerprint": self.fingerprint,
            "modes": _merged(
                {name: [dataclasses.astuple(mode) for mode in modes] for name, modes in self.modes.items()}
            ),
        }
        write_tensors(path, tensors, metadata)

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
            cores = [name.removeprefix(FACTORS) for name in sorted(header.shapes) if name.startswith(FACTORS)]
            names = list(dict.fromkeys(core.rpartition(".")[0] for core in cores))
            formats = {name: format_from_dict(value) for name, value in _split(body["formats"], names).items()}
            scales = {name: float(value) for name, value in _split(body["scales"], names).items()}
            modes = {name: _modes(value) for name, value in _split(body["modes"], names).items()}
            fingerprint, dropout = str(body["fingerprint"]), float(body["dropout"])
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError) as error:
            if isinstance(error, (PlanError, FormatError)):
                raise CheckpointError(f"{path}: {error}") from error
            raise CheckpointError(f"{path} is damaged: its description cannot be read", got=repr(error)) from error
        return cls(plan, formats, scales, dropout, fingerprint, modes, header.shapes)

    @staticmethod
    def tensors(path: str | Path) -> dict[str, Tensor]:
        """Read the tensors, held against the file's digest.

        Args:
            path: The file.

        Raises:
            CheckpointError: The file is damaged.
        """
        return read_tensors(path)


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
    return {"all": distinct[0]} if all(value == distinct[0] for value in distinct) else {"each": dict(values)}


def _split(stored: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return dict(stored["each"]) if "each" in stored else dict.fromkeys(names, stored["all"])


def _modes(stored: Sequence[Any]) -> tuple[Mode, ...]:
    modes = tuple(Mode(str(name), int(size), side) for name, size, side in stored)
    if not modes or any(mode.size < 1 or mode.side not in get_args(Side) for mode in modes):
        raise ValueError(f"modes {stored}")
    return modes
