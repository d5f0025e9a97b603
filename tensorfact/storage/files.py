"""Named tensors on disk: safetensors with a digest over everything, written atomically.

A file is untrusted until its digest is verified. `read_header` reads shapes and metadata without allocating a tensor,
so that a caller can refuse a file before it costs memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from ..common.aliases import JsonObject
from ..common.checks import AnyPath, file_path
from ..errors import CheckpointError
from .reading import OpenFile
from .writing import reason, write_bytes

ENTRY = "tensorfact"
"""The only metadata entry: a checksum over names, shapes and description, then description and digest as JSON."""

DIGEST = "sha256"
_SEAL = 16
_ATTEMPTS = 100


@dataclasses.dataclass(frozen=True)
class Header:
    """A file's description and shapes, read before any tensor.

    Args:
        path: The file.
        metadata: The file's description as JSON data, without the digest.
        shapes: The shapes of all tensors by name.
        digest: The digest of the tensors' bytes.
        source: The open file, which stays the same if another one is saved to its path.
    """

    path: Path = dataclasses.field(compare=False)
    metadata: JsonObject
    shapes: Mapping[str, tuple[int, ...]]
    digest: str
    source: OpenFile = dataclasses.field(compare=False, repr=False)

    def tensors(self) -> dict[str, Tensor]:
        """Read all tensors of the file and verify the digest.

        Returns:
            The tensors by name, on the CPU.

        Raises:
            CheckpointError: The digest does not match, or the file can no longer be read.
        """
        with _explained(self.path):
            tensors = load(self.source.read())  # not mapped: the tensors must not change with the file
        found = _digest(tensors)
        if found != self.digest:
            raise CheckpointError(
                f"{self.path} is damaged",
                expected=f"digest {self.digest[:16]}",
                got=found[:16],
                cause="the file was changed after it was saved",
                fix="restore it from a copy",
            )
        return tensors


def write_tensors(path: AnyPath, tensors: Mapping[str, Tensor], metadata: Mapping[str, object]) -> None:
    """Write tensors and a description to one safetensors file; on failure, an existing file is unchanged.

    Equal contents give identical files.

    Args:
        path: The file; its folder must exist.
        tensors: What to store, by name.
        metadata: The description to store with them, as JSON data.

    Raises:
        CheckpointError: The file cannot be written.
    """
    plain = _plain(tensors)
    body = json.dumps({**metadata, DIGEST: _digest(plain)}, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    shapes = {name: tuple(tensor.shape) for name, tensor in plain.items()}
    write_bytes(path, save(plain, metadata={ENTRY: _seal(body, shapes) + body}))


def packed(tensors: Mapping[str, Tensor]) -> bytes:
    """Return the contents of a plain safetensors file, without a description.

    Args:
        tensors: What to store, by name.
    """
    return save(_plain(tensors), metadata={"format": "pt"})


def read_header(path: AnyPath) -> Header:
    """Read a file's metadata and shapes without allocating a tensor.

    Args:
        path: A file that `write_tensors` wrote.

    Returns:
        The header, with its checksum verified.

    Raises:
        CheckpointError: The file is missing, damaged or not a tensorfact file.
    """
    with _opened(path) as (file, source):
        stored = (file.metadata() or {}).get(ENTRY, "")
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    seal, body = stored[:_SEAL], stored[_SEAL:]
    if not stored or seal != _seal(body, shapes):
        raise CheckpointError(
            f"{path} is damaged" if stored else f"{path} is not a tensorfact file",
            expected="a header that matches its checksum",
            got=f"checksum {seal!r}" if stored else "a plain safetensors file, or a damaged header",
            fix="pass a file that tensorfact saved, or restore it from a copy",
        )
    try:
        metadata = json.loads(body)
        return Header(Path(path), metadata, shapes, str(metadata.pop(DIGEST)), source)
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is damaged: it has no readable description",
            got=type(error).__name__,
            fix="restore it from a copy",
        ) from error


def read_tensors(path: AnyPath) -> dict[str, Tensor]:
    """Read all tensors of a file and verify its digest.

    Args:
        path: A file that `write_tensors` wrote.

    Returns:
        The tensors by name, on the CPU.

    Raises:
        CheckpointError: The file is missing, or its digest does not match.
    """
    return read_header(path).tensors()


def read_plain(path: AnyPath) -> dict[str, Tensor]:
    """Read all tensors of any safetensors file; if it has a digest, verify it.

    Args:
        path: A safetensors file of tensorfact or of another library.

    Returns:
        The tensors by name, on the CPU.

    Raises:
        CheckpointError: The file is missing or damaged.
    """
    with _opened(path) as (file, _):
        if ENTRY not in (file.metadata() or {}):
            return {name: file.get_tensor(name) for name in list(file.keys())}
    return read_tensors(path)


class StoredTensors(Mapping[str, Tensor]):
    """The tensors of a safetensors file, each read on access.

    A digest is not verified, since that would read all tensors.

    Args:
        path: A safetensors file of tensorfact or of another library.

    Raises:
        CheckpointError: The file is missing or damaged.
    """

    def __init__(self, path: AnyPath) -> None:
        self.path = file_path(path, "path", CheckpointError)
        with _opened(path) as (file, self._source):
            self.shapes = {name: tuple(file.get_slice(name).get_shape()) for name in list(file.keys())}
            self.metadata: dict[str, str] = file.metadata() or {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.shapes:
            raise KeyError(name)
        with _opened(self.path) as (file, _):
            if not self._source.is_at(self.path):
                raise CheckpointError(f"{self.path} was replaced while it was read", fix="read it again")
            tensor: Tensor = file.get_tensor(name)
            return tensor.clone()  # it is mapped, and must not change with the file

    def __contains__(self, name: object) -> bool:
        return name in self.shapes  # without reading it

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


@contextlib.contextmanager
def _opened(path: AnyPath) -> Iterator[tuple[Any, OpenFile]]:
    """Open a safetensors file, both with the library and to read its bytes."""
    path = file_path(path, "path", CheckpointError)
    with _explained(path):
        file, source = _both(path)
        with file:
            yield file, source


def _both(path: Path) -> tuple[Any, OpenFile]:
    """Open a file twice, again and again until nobody has replaced it in between.

    The library itself opens a path twice, and mixes two files if another one is saved there in between.
    """
    for _ in range(_ATTEMPTS):
        source = OpenFile(path)
        try:
            file = safe_open(path, framework="pt")
            if source.is_at(path):
                return file, source
        except (OSError, SafetensorError, RuntimeError):
            if source.is_at(path):
                raise
    raise OSError("it is replaced all the time")


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn the errors of the system and of the library into one that names the file and the cause."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:  # RuntimeError: torch's, if the file shrank meanwhile
        cause, fix = _cause(path)
        raise CheckpointError(
            f"cannot read {path}", expected="a safetensors file", got=reason(error)[:200], cause=cause, fix=fix
        ) from error


def _cause(path: Path) -> tuple[str, str]:
    """Return the usual cause and the fix for a file that cannot be read, from its first bytes."""
    try:
        start = OpenFile(path).read(40)
    except OSError:
        start = b""
    zipped = start.startswith(b"PK\x03\x04")
    pickled = start[:1] == b"\x80" and start[1:2] <= b"\x05" and any(start[2:8])  # not the length of a header
    if zipped or pickled:
        converted = f"save_file(torch.load({path.name!r}, weights_only=True), {path.stem + '.safetensors'!r})"
        return "it is a pickle, as torch.save writes it, which is not read", f"safetensors.torch.{converted}"
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS, not the file itself", "git lfs pull"
    beside = path.parent / "adapter_model.bin"  # the path may be "."
    if path.name == "adapter_model.safetensors" and not path.exists() and beside.exists():
        return (
            "the folder holds adapter_model.bin, a pickle, which is not read",
            "load it in peft, and call save_pretrained(folder, safe_serialization=True)",
        )
    return "a wrong path, or a truncated or damaged file", "check the path, or restore the file from a copy"


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _seal(body: str, shapes: Mapping[str, tuple[int, ...]]) -> str:
    return hashlib.sha256(repr((body, sorted(shapes.items()))).encode()).hexdigest()[:_SEAL]
