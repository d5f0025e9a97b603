"""Named tensors on disk: safetensors with a digest over everything, written atomically.

A file is untrusted until its digest agrees. `read_header` reads sizes and metadata without
allocating a tensor, so that a caller can refuse a file before it costs memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .errors import CheckpointError

DIGEST = "sha256"
ENTRY = "tensorfact"


@dataclasses.dataclass(frozen=True)
class Header:
    """What a file says of itself before any tensor is read.

    Args:
        metadata: The file's own strings, without the digest.
        shapes: Shape of every tensor, by name.
        digest: The digest the file claims.
    """

    metadata: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    digest: str


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and strings to one safetensors file; the old file stays whole on failure.

    Args:
        path: The file; its folder must exist.
        tensors: What to store, by name.
        metadata: Strings to store beside them.

    Raises:
        CheckpointError: The file cannot be written.
    """
    path = Path(path)
    plain = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    # one entry: safetensors writes several in no fixed order, and equal contents shall make equal files
    stamped = {ENTRY: json.dumps({**metadata, DIGEST: _digest(plain, metadata)}, sort_keys=True)}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as sink:
            sink.write(save(plain, metadata=stamped))
            sink.flush()
            os.fsync(sink.fileno())
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise CheckpointError(
            f"cannot write {path}",
            got=_reason(error),
            cause="the folder does not exist, is not writable, or the disk is full",
            fix="create the folder or choose another path; a file that was there is unchanged",
        ) from error


def read_header(path: str | Path) -> Header:
    """Read a file's metadata and shapes without allocating a tensor.

    Args:
        path: A file made by `write_tensors`.

    Returns:
        The header.

    Raises:
        CheckpointError: The file is missing, damaged or not one of ours.
    """
    with _opened(path) as file:
        metadata = _unstamped(file.metadata())
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    digest = metadata.pop(DIGEST, "")
    if not digest:
        raise CheckpointError(
            f"{path} carries no digest",
            cause="it is a plain safetensors file, or its header is damaged",
            fix="pass a file that tensorfact saved",
        )
    return Header(metadata, shapes, digest)


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read every tensor of a file and hold them against its digest.

    Args:
        path: A file made by `write_tensors`.

    Returns:
        The tensors by name, on the CPU.

    Raises:
        CheckpointError: The file is missing, or its contents and digest disagree.
    """
    header = read_header(path)
    with _opened(path) as file:
        tensors = {name: file.get_tensor(name) for name in header.shapes}
    found = _digest(tensors, header.metadata)
    if found != header.digest:
        raise CheckpointError(
            f"{path} is damaged",
            expected=f"digest {header.digest[:16]}",
            got=found[:16],
            cause="the file was changed after it was saved",
            fix="restore it from a copy",
        )
    return tensors


def read_plain(path: str | Path) -> dict[str, Tensor]:
    """Read every tensor of any safetensors file, with a digest or without.

    Args:
        path: The file.

    Returns:
        The tensors by name, on the CPU.

    Raises:
        CheckpointError: The file is missing or damaged.
    """
    with _opened(path) as file:
        if _unstamped(file.metadata()).get(DIGEST) is None:
            return {name: file.get_tensor(name) for name in list(file.keys())}
    return read_tensors(path)


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"cannot read {path}",
            expected="a safetensors file",
            got=_reason(error),
            cause="a wrong path, or a truncated or damaged file",
            fix="check the path, or restore the file from a copy",
        ) from error


def _unstamped(stored: Mapping[str, str] | None) -> dict[str, str]:
    """Return the strings that `write_tensors` stored, nothing for any other file."""
    try:
        found = json.loads((stored or {}).get(ENTRY, "{}"))
    except ValueError:
        return {}
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256()
    for key in sorted(metadata):
        digest.update(repr((key, metadata[key])).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or type(error).__name__
