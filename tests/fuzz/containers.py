"""Safetensors files taken apart, changed and put together again, sealed as tensorfact seals them."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from tensorfact.storage.files import DIGEST, ENTRY, _digest, _seal
from tests.fuzz.values import dumped, garbled, mutated

DTYPES = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.complex64)


NUMBERS = (0.0, float("nan"), float("inf"), 1e38, -1e-38)


def damaged(rng: Random, raw: bytes) -> bytes:
    """Return a sealed file with changes of one kind: to its bytes, container, description or tensors."""
    way = rng.random()
    if way < 0.15:
        return garbled(rng, raw)
    if way < 0.35:
        return container_changed(rng, raw)
    tensors, metadata = taken_apart(raw)
    body = json.loads(metadata[ENTRY][16:])
    if way < 0.8:
        body = mutated(rng, body, rng.choice((1, 1, 1, 2, 3)))
    if way > 0.7:
        tensors = tensors_changed(rng, tensors)
    return sealed(tensors, body)


def taken_apart(raw: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file."""
    header, _ = _split(raw)
    return load(raw), header["__metadata__"]


def sealed(tensors: dict[str, Tensor], body: Any) -> bytes:
    """Return a file whose digest and seal are right, whatever its description says."""
    if isinstance(body, dict) and DIGEST in body:
        body = {**body, DIGEST: _digest(tensors)}
    text = dumped(body)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    return save(tensors, metadata={ENTRY: _seal(text, shapes) + text})


def container_changed(rng: Random, raw: bytes) -> bytes:
    """Return a file with a changed safetensors header: names, shapes, dtypes, offsets, its length; sealed if it can."""
    header, data = _split(raw)
    metadata = header.pop("__metadata__", {})
    header = mutated(rng, header, rng.choice((1, 1, 2)))
    if isinstance(header, dict):
        header = {**header, "__metadata__": metadata}
    changed = _joined(header, data)
    if rng.random() < 0.2:
        return rng.randbytes(8) + changed[8:] if rng.random() < 0.5 else garbled(rng, changed)
    try:
        return sealed(load(changed), json.loads(metadata[ENTRY][16:]))
    except (SafetensorError, RuntimeError, KeyError, ValueError, TypeError):
        return changed


def tensors_changed(rng: Random, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors with one left out, added, swapped, or of other numbers, shape or dtype."""
    found = {name: tensor.clone() for name, tensor in tensors.items()}
    name, other = rng.choice(sorted(found)), rng.choice(sorted(found))
    value = found[name]
    ways: dict[str, Tensor | None] = {
        "missing": None,
        "other": found[other].clone(),
        "flat": value.reshape(-1),
        "wider": value.unsqueeze(0),
        "empty": value[:0].clone() if value.ndim else value.reshape(1)[:0],
        "dtype": value.to(rng.choice(DTYPES)),
        "number": torch.tensor(rng.choice(NUMBERS)).to(value.dtype).expand(value.shape),
        "large": torch.zeros(rng.choice(((0, 5), (1000,), (64, 64), (1, 1, 1, 1, 1)))),
    }
    changed = ways[rng.choice(sorted(ways))]
    key = name if rng.random() < 0.8 else rng.choice((f"{name}x", name[1:], "factors.", "", "head.x", "start.g.U", "."))
    del found[name]
    return found if changed is None else {**found, key: changed.contiguous()}


def _split(raw: bytes) -> tuple[Any, bytes]:
    length = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def _joined(header: Any, data: bytes) -> bytes:
    text = dumped(header).encode()
    return len(text).to_bytes(8, "little") + text + data
