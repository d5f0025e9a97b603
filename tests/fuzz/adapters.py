"""Adapter files: damaged in every way, and read by every function that reads them."""

from __future__ import annotations

import copy
import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import nn

from tensorfact import (
    CP,
    Adapter,
    AdapterState,
    Format,
    MatrixBatch,
    TensorTrain,
    Tucker,
    adapt,
    combine,
    convert,
    load,
    load_adapter,
    round_ranks,
    to_lora,
)
from tensorfact.formats import Each, Started, TensorRing
from tensorfact.storage import AdapterDescription
from tests.fuzz.case import Case
from tests.fuzz.containers import damaged
from tests.fuzz.values import dumped, garbled, mutated
from tests.helpers import draw, ids
from tests.storage.saved import PLAN, base

FORMATS: dict[str, tuple[Format, dict[str, Any]]] = {
    "tt": (TensorTrain(2), {"seed": 0}),
    "tucker, started": (Tucker(2), {"seed": 1, "subtract_start": True}),
    "cp, dropout": (CP(3, weights=True), {"dropout": {"rank": 0.1, "factors": 0.2}, "train_head": False}),
    "ring": (TensorRing((2, 2, 2)), {"scale": 0.5}),
    "each": (Each(TensorTrain(1)), {}),
    "matrices, started": (Started(MatrixBatch(2), {"A": "orthogonal"}), {"seed": 3}),
}
"""Formats and options of the files that are damaged."""


@functools.cache
def model() -> nn.Module:
    """Return the base model of the files; cases use copies."""
    return base().eval()


@functools.cache
def files() -> tuple[bytes, ...]:
    """Return the files, undamaged."""
    found = []
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
        torch.manual_seed(0)
        path = Path(folder, "a.safetensors")
        for format, options in FORMATS.values():
            adapter = adapt(copy.deepcopy(model()), PLAN, format, check=False, **options)
            draw(adapter)
            adapter.save(path)
            found.append(path.read_bytes())
    return tuple(found)


@functools.cache
def shared() -> dict[str, bytes]:
    """Return the files of a folder that `save_pretrained` wrote."""
    transform = {"input_size": [3, 32, 32], "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3}
    with tempfile.TemporaryDirectory() as folder:
        adapter = adapt(copy.deepcopy(model()), PLAN, TensorTrain(2), check=False, seed=0)
        adapter.save_pretrained(
            folder, classes=["a", "b", "c"], transform={**transform, "crop_pct": 0.9, "crop_mode": "center"}
        )
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def folder_case(rng: Random, folder: Path) -> Case:
    """Read a damaged folder of an adapter."""
    place, host = folder / "shared", copy.deepcopy(model())
    place.mkdir()
    for name, raw in shared().items():
        (place / name).write_bytes(raw)
    path, way = place / "adapter.json", rng.random()
    if way < 0.8:
        path.write_text(dumped(mutated(rng, json.loads(shared()["adapter.json"]), rng.choice((1, 1, 2)))))
    elif way < 0.9:
        path.write_bytes(garbled(rng, shared()["adapter.json"]))
    else:
        (place / rng.choice(sorted(shared()))).unlink()
    return Case("folder", lambda: load(place, model=host), place, (host,), lambda found: _used(host, host.tensorfact))


def adapter_case(rng: Random, folder: Path) -> Case:
    """Read a damaged adapter file."""
    if rng.random() < 0.1:
        return folder_case(rng, folder)
    raw = damaged(rng, rng.choice(files()))
    path, host = folder / "adapter.safetensors", copy.deepcopy(model())
    path.write_bytes(raw)
    name = rng.choice(("load", "load", "load", *READERS))
    named = path if name in LOADERS else None  # an error of the others may be one of the call
    return Case(name, lambda: READERS[name](path, host), named, (host,), functools.partial(_used, host))


READERS: dict[str, Callable[[Path, nn.Module], Any]] = {
    "load": lambda path, host: load_adapter(host, path, check=False),
    "load, any base": lambda path, host: load_adapter(host, path, check_base=False),
    "state": lambda path, host: AdapterState.load(path),
    "state for a model": lambda path, host: AdapterState.load(path, host),
    "description": lambda path, host: AdapterDescription.read(path),
    "convert": lambda path, host: convert(path, MatrixBatch(1)),
    "round": lambda path, host: round_ranks(path, rank=1),
    "budget": lambda path, host: round_ranks(path, budget=60),
    "combine": lambda path, host: combine({path: 0.5}),
    "lora": lambda path, host: to_lora(path, host, path.parent / "lora", head=False),
    "start": lambda path, host: adapt(host, PLAN, TensorTrain(2), init=path, check=False),
}
"""The functions that read an adapter file."""

LOADERS = {"load", "load, any base", "state", "state for a model", "description"}


def _used(host: nn.Module, result: object) -> None:
    """Use what was read: run the model and save the adapter beside its file."""
    if isinstance(result, Adapter):
        with torch.no_grad():
            host(ids())
        result.state  # noqa: B018
        result.remove()
    elif isinstance(result, AdapterState):
        result.check()
