"""Named tensors on disk: safetensors with a digest over everything, written atomically.

A file is untrusted until its digest is verified. `read_header` reads shapes and metadata without allocating a tensor,
so that a caller can refuse a file before it costs memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..common.aliases import JsonObject
from ..common.checks import AnyPath, file_path
from ..errors import CheckpointError

ENTRY = "tensorfact"
"""The only metadata entry: a checksum over names, shapes and description, then description and digest as JSON."""

DIGEST = "sha256"
_SEAL = 16


@dataclasses.dataclass(frozen=True)
class Header:
    """A file's description and shapes, read before any tensor.

    Args:
        path: The file.
        metadata: The file's description as JSON data, without the digest.
        shapes: The shapes of all tensors by name.
        digest: The digest of the tensors' bytes.
    """

    path: Path = dataclasses.field(compare=False)
    metadata: JsonObject
    shapes: Mapping[str, tuple[int, ...]]
    digest: str

    def tensors(self) -> dict[str, Tensor]:
        """Read all tensors of the file and verify the digest.

        Returns:
            The tensors by name, on the CPU.

        Raises:
            CheckpointError: The digest does not match, or the file can no longer be read.
        """
        with _opened(self.path) as file:
            tensors = {name: file.get_tensor(name) for name in self.shapes}
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
    path = file_path(path, "path", CheckpointError)
    if not path.name or "\0" in str(path):
        raise CheckpointError(
            f"cannot write {str(path)!r}",
            expected="the path of a file",
            fix="write to a path such as 'adapter.safetensors'",
        )
    plain = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    body = json.dumps({**metadata, DIGEST: _digest(plain)}, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    shapes = {name: tuple(tensor.shape) for name, tensor in plain.items()}
    stored = save(plain, metadata={ENTRY: _seal(body, shapes) + body})
    _replace(path, stored)


def _replace(path: Path, contents: bytes) -> None:
    """Write a file atomically: first a temporary file beside it, which is then renamed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with open(temporary, "wb") as sink:
            sink.write(contents)
            sink.flush()
            os.fsync(sink.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise CheckpointError(
            f"cannot write {path}",
            got=_reason(error),
            cause="the folder does not exist, is not writable, or the disk is full",
            fix="create the folder or choose another path; an existing file is unchanged",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_plain(path: AnyPath, tensors: Mapping[str, Tensor]) -> None:
    """Write a plain safetensors file without a description; on failure, an existing file is unchanged.

    Args:
        path: The file; its folder must exist.
        tensors: What to store, by name.

    Raises:
        CheckpointError: The file cannot be written.
    """
    plain = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    _replace(file_path(path, "path", CheckpointError), save(plain, metadata={"format": "pt"}))


def write_text(path: AnyPath, text: str) -> None:
    """Write a text file; on failure, an existing file is unchanged.

    Args:
        path: The file; its folder must exist.
        text: The contents, written as UTF-8.

    Raises:
        CheckpointError: The file cannot be written.
    """
    _replace(file_path(path, "path", CheckpointError), text.encode())


def make_folder(folder: AnyPath) -> None:
    """Create a folder and its parents if they do not exist.

    Args:
        folder: The folder's path.

    Raises:
        CheckpointError: It cannot be created.
    """
    try:
        file_path(folder, "folder", CheckpointError).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"cannot create the folder {folder}", got=str(error), fix="choose another folder"
        ) from error


def read_header(path: AnyPath) -> Header:
    """Read a file's metadata and shapes without allocating a tensor.

    Args:
        path: A file that `write_tensors` wrote.

    Returns:
        The header, with its checksum verified.

    Raises:
        CheckpointError: The file is missing, damaged or not a tensorfact file.
    """
    with _opened(path) as file:
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
        return Header(Path(path), metadata, shapes, str(metadata.pop(DIGEST)))
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
    with _opened(path) as file:
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
        with _opened(path) as file:
            self.shapes = {name: tuple(file.get_slice(name).get_shape()) for name in list(file.keys())}
            self.metadata: dict[str, str] = file.metadata() or {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.shapes:
            raise KeyError(name)
        with _opened(self.path) as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor

    def __contains__(self, name: object) -> bool:
        return name in self.shapes  # without reading it

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


@contextlib.contextmanager
def _opened(path: AnyPath) -> Iterator[Any]:
    file_path(path, "path", CheckpointError)
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError, RuntimeError) as error:  # RuntimeError: torch's, if the file shrank meanwhile
        raise CheckpointError(
            f"cannot read {path}",
            expected="a safetensors file",
            got=_reason(error),
            cause="a wrong path, or a truncated or damaged file",
            fix="check the path, or restore the file from a copy",
        ) from error


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _seal(body: str, shapes: Mapping[str, tuple[int, ...]]) -> str:
    return hashlib.sha256(repr((body, sorted(shapes.items()))).encode()).hexdigest()[:_SEAL]


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "No such file or directory"
    return (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or type(error).__name__
