"""The folder of an adapter: its file, a description of what surrounds it, and a model card."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import inspect
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, cast

import torch

from ..common.aliases import JsonObject
from ..common.checks import AnyPath, file_path, quoted
from ..errors import CheckpointError
from ..formats import format_label
from ..model.origin import ModelOrigin
from ..model.outputs import OutputSample
from .card import card, is_card, picture
from .files import read_header
from .located import ABOUT, CARD, FILE, PICTURE
from .reading import read_text
from .state import AdapterState
from .writing import make_folder, write_text

T = TypeVar("T")

VERSION = 1
"""The version of the layout of `adapter.json`."""


@dataclasses.dataclass(frozen=True)
class AdapterInfo:
    """What a folder holds beside the adapter's file: all that is needed to use the adapter on new data.

    Args:
        origin: Where the base model comes from.
        classes: The names of the classes, by index; empty if they are not known.
        transform: timm's data configuration, which describes the preprocessing of images; None if it is not known.
        metrics: Results, such as `{"val_accuracy": 0.93}`.
        data: What the adapter was trained on: name, sizes and how it was split.
        output: Values of the adapted model's output, by which another model is noticed; None if they are not known.
    """

    origin: ModelOrigin = dataclasses.field(default_factory=ModelOrigin)
    classes: tuple[str, ...] = ()
    transform: JsonObject | None = None
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    data: JsonObject = dataclasses.field(default_factory=dict)
    output: OutputSample | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))
        if not all(isinstance(name, str) for name in self.classes):
            raise TypeError("classes that are not a list of names")
        object.__setattr__(self, "metrics", _numbers(self.metrics))

    def without_path(self) -> AdapterInfo:
        """Return the description to share: without the folder of the base weights, which says nothing elsewhere."""
        file = None if self.origin.checkpoint is None else Path(self.origin.checkpoint).name
        return dataclasses.replace(self, origin=dataclasses.replace(self.origin, checkpoint=file))

    @classmethod
    def read(cls, folder: AnyPath) -> AdapterInfo:
        """Read the description in a folder that `save_pretrained` wrote.

        Args:
            folder: The folder.

        Raises:
            CheckpointError: The description is missing, damaged, or belongs to another adapter file.
        """
        path = Path(folder) / ABOUT
        text = read_text(path)
        try:
            stored = _parsed(text)
            info = cls(
                _filled(ModelOrigin, stored, "base_model"),
                stored["classes"],
                stored["transform"],
                stored["metrics"],
                stored["data"],
                None if stored["output"] is None else _filled(OutputSample, stored, "output"),
            )
        except (TypeError, ValueError) as error:
            raise CheckpointError(
                f"{path} does not describe an adapter",
                expected=f"the description of version {VERSION} that save_pretrained writes",
                got=str(error),
                fix="write the folder again with adapter.save_pretrained(folder), or use its adapter.safetensors",
            ) from error
        digest = stored["digest"]
        if (found := read_header(path.parent / FILE).digest) != digest:
            raise CheckpointError(
                f"{path} belongs to another {FILE}",
                expected=f"digest {digest[:16]}",
                got=found[:16],
                cause="one of the two files was replaced",
                fix="write the folder again with adapter.save_pretrained(folder)",
            )
        return info


def write_adapter_folder(state: AdapterState, folder: AnyPath, info: AdapterInfo, *, name: str = "") -> None:
    """Write an adapter's file, its description and its card into a folder, which is created if it is missing.

    Each file is replaced as a whole; other files in the folder are left alone. The description names the digest of the
    adapter's file, so that a mixture of two adapters is noticed.

    Args:
        state: The adapter.
        folder: The folder.
        info: What surrounds the adapter.
        name: What to call the adapter in its card; default: the folder.

    Raises:
        CheckpointError: A file cannot be written, or the folder has a README.md that is not the card of an adapter.
        FormatError: A format has no registered name.
    """
    path = file_path(folder, "save_pretrained: folder", CheckpointError, example="digits")
    require_own_card(path)
    make_folder(path)
    state.save(path / FILE)
    about = _about(state, info, read_header(path / FILE).digest)
    write_text(path / ABOUT, json.dumps(about, indent=2, ensure_ascii=False) + "\n")
    write_text(path / PICTURE, picture(state.description))
    write_text(path / CARD, card(state.description, info.origin, info.classes, info.metrics, name or path.name))


def require_own_card(folder: AnyPath) -> None:
    """Raise if a folder has a README that is not the model card of an adapter in it, and would be overwritten.

    Args:
        folder: The folder; it may be missing.

    Raises:
        CheckpointError: There is such a README.
    """
    path = Path(folder) / CARD
    if not path.exists():
        return
    try:
        own = (path.parent / ABOUT).exists() and is_card(read_text(path))
    except CheckpointError:  # it is not a text
        own = False
    if not own:
        raise CheckpointError(
            f"{path} would be overwritten by the model card",
            expected=f"no {CARD}, or the card of an adapter that was saved there before",
            got="a file that tensorfact did not write",
            fix=f"choose another folder, or move the file: mv {path} {path.with_name('NOTES.md')}",
        )


def _numbers(metrics: object) -> dict[str, float]:
    """Return results as floats by name; raise a TypeError if they are anything else."""
    try:
        numbers = {name: float(value) for name, value in dict(cast("Any", metrics)).items()}
        if all(isinstance(name, str) for name in numbers) and all(map(math.isfinite, numbers.values())):
            return numbers
    except (TypeError, ValueError, OverflowError):
        pass
    raise TypeError("metrics that are not finite numbers by name")


_ENTRIES: dict[str, tuple[type | UnionType, str]] = {
    "digest": (str, "a text"),
    "base_model": (dict, "an object"),
    "classes": (list, "a list of names"),
    "transform": (dict | None, "an object or null"),
    "metrics": (dict, "an object of finite numbers by name"),
    "data": (dict, "an object"),
    "output": (dict | None, "an object or null"),
}
"""What `read` takes from a description beside its version: the type of each entry, and the type in words."""


def _parsed(text: str) -> JsonObject:
    """Return the entries of a description; raise a ValueError for other texts."""
    try:
        stored = json.loads(text.removeprefix("\ufeff"))  # which some editors on Windows write
    except json.JSONDecodeError as error:
        raise ValueError(f"a text that is not JSON, from line {error.lineno}, column {error.colno}") from error
    except RecursionError as error:
        raise ValueError("lists within lists without an end") from error
    if not isinstance(stored, dict):
        raise TypeError("JSON data that is not an object")
    for name in ("version", *_ENTRIES):
        if name not in stored:
            raise ValueError(f"no entry {name!r}")
    if stored["version"] != VERSION:
        raise ValueError(f"version {quoted(stored['version'])}")
    for name, (kind, words) in _ENTRIES.items():
        if not isinstance(stored[name], kind):
            raise TypeError(f"{name} that {'are' if name.endswith('s') else 'is'} not {words}")
    return stored


def _filled(made: Callable[..., T], stored: JsonObject, entry: str) -> T:
    """Return a dataclass with the values of an entry of a description; raise a ValueError if it has other names."""
    known = inspect.signature(made).parameters
    if unknown := [name for name in stored[entry] if name not in known]:
        raise ValueError(f"an unknown entry {quoted(unknown[0])} in {entry}")
    if missing := [n for n, each in known.items() if each.default is each.empty and n not in stored[entry]]:
        raise ValueError(f"no entry {missing[0]!r} in {entry}")
    return made(**stored[entry])


def _about(state: AdapterState, info: AdapterInfo, digest: str) -> JsonObject:
    description = state.description
    return {
        "version": VERSION,
        "digest": digest,
        "base_model": dataclasses.asdict(info.origin),
        "classes": list(info.classes),
        "transform": info.transform,
        "metrics": dict(info.metrics),
        "data": info.data,
        "output": None if info.output is None else dataclasses.asdict(info.output),
        "parameters": {
            "factors": state.num_parameters,
            "beside": sum(tensor.numel() for tensor in state.head.values()),
        },
        "tensors": {
            name: {
                "format": format_label(format),
                "shape": [mode.size for mode in description.modes[name]],
                "modes": [mode.name for mode in description.modes[name]],
                "parameters": format.num_parameters(description.modes[name]),
                "scale": description.scales[name],
            }
            for name, format in description.formats.items()
        },
        "plan": json.loads(description.plan.to_json()),
        "versions": {"tensorfact": importlib.metadata.version("tensorfact"), "torch": str(torch.__version__)},
    }
