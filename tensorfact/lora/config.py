"""The configuration of a LoRA file: its kind, and the scale alpha / rank of every layer."""

from __future__ import annotations

import functools
import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from ..common.aliases import JsonObject, Options
from ..errors import CheckpointError, DataError
from ..storage.files import StoredTensors
from ..storage.reading import read_text

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

Config = Options
"""The content of peft's `adapter_config.json`, or what a file's metadata says of it; empty for a file without one."""

_UNCHANGING = (True, False, "gaussian", "eva", "orthogonal")
"""Values of peft's `init_lora_weights` that keep the base weights. The others change them before training."""

_LARGEST = 1e30
"""Above every alpha and rank; NaN and infinity are not below it."""

_DIGITS = 20
"""More than any number of a file has."""

_PATTERNS = 10_000
"""The most patterns of a configuration: above the number of layers of any model."""

_LONGEST = 2000
"""The most characters of a pattern."""

_LENGTH, _STEPS = 100, 2_000_000
"""The length of a long name, and the most ways of matching all patterns against it: seconds for a whole model."""


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
    folder = os.path.isdir(path)
    beside = path / CONFIG if folder else path.parent / CONFIG
    if folder or (path.name == WEIGHTS and os.path.isfile(beside)):
        return _checked(path, _json(path, lambda: read_text(beside)))
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
        if _compiled(pattern).match(layer):
            return value
    return default


@functools.lru_cache(maxsize=2 * _PATTERNS)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(.*\.)?({pattern})$")


def _json(path: Path, read: Callable[[], str]) -> JsonObject:
    try:
        found = json.loads(read())
        if not isinstance(found, dict):
            raise TypeError(f"{type(found).__name__} instead of an object")  # noqa: TRY301
    except (ValueError, TypeError, RecursionError) as error:  # a CheckpointError is a ValueError
        raise CheckpointError(
            f"cannot read the configuration of {path}",
            expected="the JSON of a peft adapter",
            got=f"{type(error).__name__}: {error}",
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
    """Check the ranks, alphas, patterns and switches of a configuration."""
    patterns = {key: config.get(key, {}) for key in ("rank_pattern", "alpha_pattern")}
    patterns = {key: {} if value is None else value for key, value in patterns.items()}
    try:
        alphas = [config.get("lora_alpha", config.get("alpha", 8)), *patterns["alpha_pattern"].values()]
        ranks = [*patterns["rank_pattern"].values(), *([] if config.get("r") is None else [config["r"]])]
        _check_patterns(path, [*patterns["rank_pattern"], *patterns["alpha_pattern"]])
        whole = all(_is_number(r) and isinstance(r, int) and r > 0 for r in ranks)
        if whole and all(map(_is_number, alphas)) and isinstance(config.get("use_rslora") or False, bool):
            return
    except (AttributeError, TypeError, re.error, OverflowError, RecursionError):
        pass
    keys = ("r", "lora_alpha", "alpha", "use_rslora", *patterns)
    raise CheckpointError(
        f"the configuration of {path} is damaged",
        expected="a rank r of at least 1, a number lora_alpha, patterns with such values, and a bool use_rslora",
        got=", ".join(f"{key}={config.get(key)!r}" for key in keys)[:200],
        fix="restore it from a copy",
    )


def _check_patterns(path: Path, patterns: Sequence[str]) -> None:
    """Refuse regular expressions whose matching may not end in reasonable time.

    Raises:
        DataError: A group is repeated, or there are too many ways to match.
        re.error: A pattern is no regular expression.
    """
    steps = 0
    for pattern in patterns[: _PATTERNS + 1]:
        steps += _steps(pattern)
        if steps > _STEPS or len(patterns) > _PATTERNS:
            raise DataError(
                f"from_lora: {path}: the pattern {pattern!r} may take too long to match",
                expected="few of *, +, ? and |, no repeated groups, and fewer patterns",
                fix="write the names of the layers into rank_pattern and alpha_pattern",
            )
        re.compile(pattern)


def _steps(pattern: str) -> int:
    """Return a bound on the number of ways to match a pattern against a long name.

    Every repetition may end at any letter, every optional part may be missing, and every group may take any of its
    alternatives; where a group is repeated, there is no bound.
    """
    plain = re.sub(r"\\.|\[\^?\]?[^\]]*\]", "a", pattern[:_LONGEST])  # an escape and a set stand for one character
    plain = re.sub(r"\{\d*,\d*\}", "*", plain.replace("(?:", "("))
    if len(pattern) > _LONGEST or re.search(r"\)[*+{]|\(\?", plain):
        return _STEPS + 1
    ways = [[0, 1]]  # of every open group: its alternatives so far, and the last one's
    for letter in plain:
        if letter == "(":
            ways.append([0, 1])
        elif letter == ")" and len(ways) > 1:
            ways[-2][1] *= sum(ways.pop())
        elif letter == "|":
            ways[-1] = [sum(ways[-1]), 1]
        else:
            ways[-1][1] *= {"*": _LENGTH, "+": _LENGTH, "?": 2}.get(letter, 1)
        ways[-1][1] = min(ways[-1][1], _STEPS + 1)
    return sum(map(sum, ways))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _LARGEST


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() and len(text) < _DIGITS else None
