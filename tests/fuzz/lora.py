"""LoRA folders of peft, and single files of kohya, diffusers and LyCORIS, damaged and read."""

from __future__ import annotations

import copy
import functools
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import torch
from safetensors.torch import save
from torch import Tensor, nn

from tensorfact import Group, MatrixBatch, Rule, TensorizationPlan, TensorTrain, from_lora
from tensorfact.algebra import Recompression
from tests.fuzz.case import Case
from tests.fuzz.containers import container_changed, tensors_changed
from tests.fuzz.values import ODD, dumped, garbled, mutated
from tests.helpers import Tiny, randomise

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
LAYERS = {f"blocks.{layer}.{name}": size for layer in (0, 1) for name, size in (("proj", (4, 4)), ("fc1", (8, 4)))}
PATTERNS = (
    *("(a+)+$", "(.*)*x", "(a|a)*b", "(?=.*)*", "a{9999}{9999}", "(", "[", "fc1", r"\1"),
    *("(?P<a>x)(?P<a>y)", ".*.*.*.*"),
)
NAMES = (
    *("lora_A.weight", "lora_down.weight", "hada_w1_a", "lokr_w1", "lokr_w2_b", "alpha"),
    *("lora_magnitude_vector", "x"),
)
CONFIGURATION: dict[str, Any] = json.loads(r"""
{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "use_rslora": false, "use_dora": false, "bias": "none",
"target_modules": ["proj", "fc1"], "modules_to_save": null, "init_lora_weights": true, "fan_in_fan_out": false,
"rank_pattern": {"blocks\\.0\\.proj": 2}, "alpha_pattern": {"fc1": 3.0}, "base_model_name_or_path": null}
""")
WIDE = 32

Parts = dict[str, tuple[int, ...]]


@functools.cache
def model() -> tuple[nn.Module, TensorizationPlan]:
    """Return the base model, of which cases use copies, and its plan."""
    groups = [
        Group(name, "layer in out", (Rule(f"blocks.{{layer}}.{name}.weight", "out in"),)) for name in ("proj", "fc1")
    ]
    return randomise(Tiny()).eval(), TensorizationPlan(groups)  # type: ignore[arg-type]


def _lora(rows: int, columns: int) -> Parts:
    return {"lora_A.weight": (2, columns), "lora_B.weight": (rows, 2)}


def _kohya(rows: int, columns: int) -> Parts:
    return {"lora_down.weight": (2, columns), "lora_up.weight": (rows, 2), "alpha": ()}


def _loha(rows: int, columns: int) -> Parts:
    return {"hada_w1_a": (rows, 2), "hada_w1_b": (2, columns), "hada_w2_a": (rows, 2), "hada_w2_b": (2, columns)}


def _lokr(rows: int, columns: int) -> Parts:
    return {"lokr_w1": (2, 2), "lokr_w2_a": (rows // 2, 1), "lokr_w2_b": (1, columns // 2), "alpha": ()}


class Written(NamedTuple):
    """A kind of file: shapes of a layer's tensors, what is before its name, configuration and metadata."""

    parts: Callable[[int, int], Parts]
    prefix: str
    config: dict[str, Any] | None = None
    metadata: Mapping[str, str] = {}

    def name(self, layer: str) -> str:
        """Return the name of a layer in the file; some libraries write underscores in place of dots."""
        return self.prefix + (layer.replace(".", "_") if self.prefix.endswith("_") else layer)


WRITTEN = {
    "peft": Written(_lora, "base_model.model.", CONFIGURATION),
    "peft loha": Written(_loha, "base_model.model.", CONFIGURATION | {"peft_type": "LOHA", "alpha": 2}),
    "kohya": Written(_kohya, "lora_unet_", None, {"ss_network_alpha": "4"}),
    "diffusers": Written(_lora, "", None, {"lora_adapter_metadata": '{"t.r": 2, "t.lora_alpha": 4}'}),
    "lycoris": Written(_lokr, "lycoris_"),
}


@functools.cache
def wide() -> tuple[nn.Module, TensorizationPlan]:
    """Return a model whose weights have a thousand times the numbers of the matrices of LoKr that change them."""
    layers = [nn.Linear(WIDE**2, WIDE**2, bias=False, dtype=torch.bfloat16) for _ in range(8)]
    return nn.Sequential(*layers), TensorizationPlan((Group("w", "layer in out", (Rule("{layer}.weight", "out in"),)),))


def wide_case(rng: Random, folder: Path) -> Case:
    """Read a file of small matrices with a large product, of which one is damaged."""
    tensors = {f"{layer}.lokr_w{k}": torch.ones(WIDE, WIDE) for layer in range(8) for k in (1, 2)}
    name = rng.choice(sorted(tensors))
    value = tensors.pop(name)
    tensors |= rng.choice(
        (
            {},
            {f"8{name}": value},
            {name: value[:-1]},
            {name: value.flatten()},
            {name: value.long()},
            {name: value * rng.choice((float("nan"), float("inf")))},
        )
    )
    path = folder / "wide.safetensors"
    path.write_bytes(save(tensors))
    base, plan = wide()
    return Case("wide", lambda: from_lora(base, path, plan, TensorTrain(2)), path, (base,), _used)


def lora_case(rng: Random, folder: Path) -> Case:
    """Read a damaged LoRA file or folder."""
    if rng.random() < 0.03:
        return wide_case(rng, folder)
    kind = rng.choice(sorted(WRITTEN))
    written = WRITTEN[kind]
    config, metadata = written.config, dict(written.metadata)
    tensors: dict[str, Tensor] = {
        f"{written.name(layer)}.{part}": torch.full(shape, rng.choice((0.5, 1.0, -2.0)))
        for layer, size in LAYERS.items()
        for part, shape in written.parts(*size).items()
    }
    if rng.random() < 0.1:
        tensors["head.weight"] = torch.ones(3, 4)
    way = rng.random()
    if way < 0.35:
        for _ in range(rng.choice((1, 1, 2))):
            tensors = _renamed(rng, tensors_changed(rng, tensors) if tensors else tensors)
    if config is not None and way > 0.3:
        config = _configured(rng, config)
    if metadata and way > 0.5:
        metadata = _described(rng, metadata)
    raw = save(tensors, metadata={"format": "pt", **metadata})
    if config is None and way > 0.7:
        raw = garbled(rng, raw) if rng.random() < 0.3 else container_changed(rng, raw)
    place = folder / "lora"
    place.mkdir()
    path = place if config is not None else place / "lora.safetensors"
    (path / WEIGHTS if config is not None else path).write_bytes(raw)
    if config is not None:
        text = dumped(config)
        (path / CONFIG).write_bytes(garbled(rng, text.encode()) if rng.random() < 0.1 else text.encode())
        _misplaced(rng, path)
    host, plan = copy.deepcopy(model()[0]), model()[1]
    format = rng.choice((TensorTrain(2), MatrixBatch(1), MatrixBatch("full")))
    return Case(kind, lambda: from_lora(host, path, plan, format), path, (host,), _used)


def _renamed(rng: Random, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors of which one may have another name."""
    if not tensors or rng.random() < 0.6:
        return tensors
    name = rng.choice(sorted(tensors))
    layer, _, part = name.rpartition(".")
    new = rng.choice((f"{layer}.{rng.choice(NAMES)}", f"{name}.default", f"x{name}", part, f"{layer}.{layer}.{part}"))
    return {**{key: value for key, value in tensors.items() if key != name}, new: tensors[name]}


def _configured(rng: Random, config: dict[str, Any]) -> Any:
    """Return a configuration with some fields changed, patterns among them."""
    found = mutated(rng, config, rng.choice((1, 1, 2, 3)))
    if isinstance(found, dict) and rng.random() < 0.3:
        value = rng.choice((2, 3, rng.choice(ODD)))
        found[rng.choice(("rank_pattern", "alpha_pattern"))] = {rng.choice(PATTERNS): value}
    return found


def _described(rng: Random, metadata: dict[str, str]) -> dict[str, str]:
    """Return metadata, whose values are text, with one of them changed."""
    key = rng.choice(sorted(metadata))
    inner = json.loads(metadata[key])
    texts = (
        dumped(mutated(rng, inner)),
        dumped(rng.choice(ODD)),
        str(rng.choice(ODD)).encode(errors="replace").decode(),
    )
    more = (
        {"ss_network_dim": rng.choice(("2", "0", "-1", "x", "9" * 5000, "²"))} if "ss_network_alpha" in metadata else {}
    )
    return {**metadata, key: rng.choice(texts), **more}


def _misplaced(rng: Random, path: Path) -> None:
    """Sometimes take a file away, or put a folder in its place."""
    if rng.random() < 0.05:
        file = path / rng.choice((CONFIG, WEIGHTS))
        file.unlink()
        if rng.random() < 0.5:
            file.mkdir()
    if rng.random() < 0.02:
        shutil.rmtree(path)


def _used(found: Recompression) -> None:
    found.state.check()
