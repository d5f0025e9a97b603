"""The configuration of a LoRA file: its kind, and the scale alpha / rank of every layer."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from ..common.aliases import JsonObject, Options
from ..errors import CheckpointError, DataError
from ..storage.files import StoredTensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

Config = Options
"""The content of peft's `adapter_config.json`, or what a file's metadata says of it; empty for a file without one."""

_UNCHANGING = (True, False, "gaussian", "eva", "orthogonal")
"""Values of peft's `init_lora_weights` that keep the base weights. The others change them before training."""

_LARGEST = 1e30
"""Above every alpha and rank; NaN and infinity are not below it."""

_REPEATS = 3
"""Unbounded repetitions that a pattern may have: matching then takes at most the third power of a name's length."""


def read_config(path: Path, weights: StoredTensors) -> Config:
    """Return the configuration of a file.

    Args:
        path: A folder of peft, or a safetensors file.
        weights: The file's tensors and metadata.

    Returns:
        The content of `adapter_config.json` in the folder, or beside a file of peft's name; else the alpha and rank
        that diffusers (`lora_adapter_metadata`) or kohya's scripts (`ss_network_alpha`) write into the file's metadata.

    Raises:
        CheckpointError: The configuration cannot be read.
        DataError: It is of a kind that cannot be read.
    """
    beside = path / CONFIG if path.is_dir() else path.parent / CONFIG
    if path.is_dir() or (path.name == WEIGHTS and beside.is_file()):
        return _checked(path, _json(path, lambda: beside.read_text(encoding="utf-8")))
    if stored := weights.metadata.get("lora_adapter_metadata"):
        flat = _json(path, lambda: stored)
        return _checked(path, {key.rpartition(".")[2]: value for key, value in flat.items()} | {"peft_type": "LORA"})
    alpha, rank = (weights.metadata.get(f"ss_network_{name}") for name in ("alpha", "dim"))
    if alpha is None:
        return {}
    return _checked(path, {"peft_type": "LORA", "lora_alpha": _number(alpha), "r": _whole(rank)})


def scale_of(layer: str, parts: Mapping[str, Tensor], config: Config, rank: int | None) -> float:
    """Return the scale of a layer's product: alpha / rank, or alpha / sqrt(rank) with rsLoRA.

    Args:
        layer: The layer's name in the file.
        parts: The layer's tensors.
        config: The file's configuration.
        rank: The rank of the layer's matrices; None if no matrix is factored.

    Raises:
        DataError: The rank is not that of the configuration.
    """
    if "alpha" in parts:  # LyCORIS; the scale is 1 if no matrix is factored
        return float(parts["alpha"]) / rank if rank else 1.0
    if not config:
        return 1.0
    given = _matching(layer, config.get("rank_pattern"), config.get("r"))
    own = int(given) if given is not None else rank or 8
    if rank is not None and rank != own:
        raise DataError(f"from_lora: layer {layer!r}", expected=f"rank {own} of its configuration", got=str(rank))
    alpha = _matching(layer, config.get("alpha_pattern"), config.get("lora_alpha", config.get("alpha", own)))
    assert alpha is not None  # the default is a number
    return alpha / (math.sqrt(own) if config.get("use_rslora") else own)


def _matching(layer: str, patterns: Mapping[str, float] | None, default: float | None) -> float | None:
    """Return the value of the first pattern that matches a layer, by peft's rule."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", layer):
            return value
    return default


def _json(path: Path, read: Callable[[], str]) -> JsonObject:
    try:
        found = json.loads(read())
        if not isinstance(found, dict):
            raise TypeError(f"{type(found).__name__} instead of an object")  # noqa: TRY301
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"cannot read the configuration of {path}",
            expected="the JSON of a peft adapter",
            got=repr(error)[:200],
            fix="pass the folder that peft's save_pretrained wrote",
        ) from error
    return found


def _checked(path: Path, config: JsonObject) -> Config:
    """Return a configuration whose kind and numbers can be read."""
    kind = config.get("peft_type")
    if not isinstance(kind, str):
        raise CheckpointError(
            f"cannot read the configuration of {path}",
            expected="the JSON of a peft adapter",
            got=f"peft_type={kind!r}",
            fix="pass the folder that peft's save_pretrained wrote",
        )
    if kind not in ("LORA", "LOHA", "LOKR") or config.get("use_dora") or config.get("bias", "none") != "none":
        raise DataError(
            f"from_lora: {path}",
            expected="LORA, LOHA or LOKR without DoRA and without biases",
            got=f"{kind}, use_dora={config.get('use_dora')}, bias={config.get('bias')!r}"[:200],
            fix="merge it in peft and extract() the difference",
        )
    if config.get("init_lora_weights", True) not in _UNCHANGING:
        raise DataError(
            f"from_lora: {path}",
            expected="an init_lora_weights that keeps the base model's weights",
            got=repr(config["init_lora_weights"])[:200],
            fix="convert it in peft: save_pretrained(..., path_initial_model_for_weight_conversion=...)",
        )
    _check_numbers(path, config)
    return config


def _check_numbers(path: Path, config: Config) -> None:
    """Check the ranks, alphas and patterns of a configuration."""
    patterns = {key: config.get(key) or {} for key in ("rank_pattern", "alpha_pattern")}
    try:
        alphas = [config.get("lora_alpha", config.get("alpha", 8)), *patterns["alpha_pattern"].values()]
        ranks = [*patterns["rank_pattern"].values(), *([] if config.get("r") is None else [config["r"]])]
        for pattern in (*patterns["rank_pattern"], *patterns["alpha_pattern"]):
            re.compile(pattern)
            _check_pattern(path, pattern)
        if all(map(_is_number, alphas)) and all(_is_number(r) and isinstance(r, int) and r > 0 for r in ranks):
            return
    except (AttributeError, TypeError, re.error):
        pass
    keys = ("r", "lora_alpha", "alpha", *patterns)
    raise CheckpointError(
        f"{path} is damaged",
        expected="a rank r of at least 1, a number lora_alpha, and patterns with such values",
        got=", ".join(f"{key}={config.get(key)!r}" for key in keys)[:200],
        fix="restore it from a copy",
    )


def _check_pattern(path: Path, pattern: str) -> None:
    """Refuse a regular expression whose matching may not end in reasonable time.

    Raises:
        DataError: A group is repeated, or there are too many unbounded repetitions.
    """
    plain = re.sub(r"\\.|\[[^\]]*\]", "a", pattern)  # an escape and a set stand for one character
    unbounded = re.findall(r"[*+]|\{\d*,\d*\}", plain)
    if re.search(r"\)[*+{]|\(\?[^:]", plain) or len(unbounded) > _REPEATS or len(pattern) > 2000:
        raise DataError(
            f"from_lora: {path}: the pattern {pattern[:100]!r} may take too long to match",
            expected=f"no repeated groups, and at most {_REPEATS} of * and +",
            fix="write the names of the layers into rank_pattern and alpha_pattern",
        )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _LARGEST


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None
