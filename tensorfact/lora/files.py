"""Read LoRA, LoHa and LoKr files of peft and LyCORIS as two matrices per layer."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..common.aliases import Options
from ..common.checks import AnyPath
from ..errors import CheckpointError, DataError, nearest
from ..model.parameters import base_parameters
from ..storage.description import FACTORS
from ..storage.files import StoredTensors
from .matrices import LowRankIncrement

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."

Config = Options
"""The content of peft's `adapter_config.json`; empty for a file without one."""

_PART = re.compile(
    r"(?P<layer>.+)\.(?P<part>lora_(?:A|B|down|up)(?:\.\w+)?\.weight|hada_w[12]_[ab]|lokr_w[12](?:_[ab])?|alpha)"
)
_UNCHANGING = (True, False, "gaussian", "eva", "orthogonal")
"""Values of peft's `init_lora_weights` that keep the base weights. The others change them before training."""

_UNREADABLE = ("lora_magnitude_vector", "dora_scale", "lora_embedding", "hada_t", "lokr_t", "lora_mid")
_LYCORIS = re.compile(r"^(?:lycoris|lora_unet|lora_te\d?|lora_transformer|lora)_")


def read_layers(model: nn.Module, path: AnyPath) -> tuple[dict[str, LowRankIncrement], dict[str, Tensor]]:
    """Read a file's increments, scale included, and the parameters that it stores whole.

    Args:
        model: The base model, whose names the file's layers have.
        path: A folder of peft, or a safetensors file of peft or LyCORIS.

    Returns:
        The increments, and the parameters stored whole, both by parameter name.

    Raises:
        CheckpointError: A file is missing or damaged, or its description cannot be read.
        DataError: The model does not have a layer of the file, or a layer is of a kind that cannot be read.
    """
    path = Path(path)
    config = _config(path / CONFIG) if path.is_dir() else {}
    weights = StoredTensors(path / WEIGHTS if path.is_dir() else path)
    parameters = base_parameters(model)
    modules = {name.removesuffix(".weight"): name for name in parameters if name.endswith(".weight")}
    spelled = {module.replace(".", "_"): module for module in modules}
    parts: dict[str, dict[str, Tensor]] = {}
    kept: dict[str, Tensor] = {}
    for key in weights:
        name = key.removeprefix(PREFIX)
        if any(word in key for word in _UNREADABLE):
            raise DataError(
                f"from_lora: {path} holds {key!r}",
                expected="LoRA, LoHa or LoKr of linear layers",
                cause="DoRA, an embedding or a convolution",
                fix="merge it with the library that wrote it, and extract() the difference",
            )
        if found := _PART.fullmatch(name):
            own, part = parts.setdefault(found["layer"], {}), _part(found["part"])
            if part in own:
                raise DataError(
                    f"from_lora: {path} holds {part!r} of layer {found['layer']!r} twice",
                    cause="several adapters in one file",
                    fix="save one adapter per file",
                )
            own[part] = _finite(path, key, weights[key])
        elif name in parameters:
            kept[name] = _finite(path, key, weights[key])
            if kept[name].shape != parameters[name].shape:
                expected, got = tuple(parameters[name].shape), tuple(kept[name].shape)
                raise DataError(f"from_lora: {key!r}", expected=f"shape {expected}", got=f"shape {got}")
        else:
            raise _foreign(path, key)
    layers = {}
    for layer, each in parts.items():
        module = layer if layer in modules else spelled.get(_LYCORIS.sub("", layer), "")
        if not module:
            raise DataError(
                f"from_lora: the model has no layer {layer!r}",
                got=f"{layer!r}{nearest(layer, modules)}",
                cause="a file for another model",
                fix="pass the base model it was trained on",
            )
        layers[modules[module]] = _two(path, layer, each, config)
    if not layers:
        raise DataError(f"from_lora: {path} holds no layers", expected="LoRA, LoHa or LoKr matrices")
    return layers, kept


def _foreign(path: Path, key: str) -> DataError:
    """Return the error for a tensor that belongs neither to LoRA nor to the model."""
    if key.startswith(FACTORS):
        return DataError(
            f"from_lora: {path} is a tensorfact adapter, not LoRA",
            fix="load_adapter(model, path); convert() changes its format",
        )
    return DataError(
        f"from_lora: {path} holds {key!r}, which is neither a LoRA matrix nor a parameter of the model",
        cause="a file for another model",
        fix="pass a LoRA file and its base model",
    )


def _config(path: Path) -> Config:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        kind = config["peft_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"cannot read {path}",
            expected="the JSON of a peft adapter",
            got=repr(error),
            fix="pass the folder that peft's save_pretrained wrote",
        ) from error
    if config.get("init_lora_weights", True) not in _UNCHANGING:
        raise DataError(
            f"from_lora: {path}",
            expected="an init_lora_weights that keeps the base model's weights",
            got=repr(config["init_lora_weights"]),
            fix="convert it in peft: save_pretrained(..., path_initial_model_for_weight_conversion=...)",
        )
    _check_numbers(path, config)
    if kind not in ("LORA", "LOHA", "LOKR") or config.get("use_dora") or config.get("bias", "none") != "none":
        raise DataError(
            f"from_lora: {path}",
            expected="LORA, LOHA or LOKR without DoRA and without biases",
            got=f"{kind}, use_dora={config.get('use_dora')}, bias={config.get('bias')!r}",
            fix="merge it in peft and extract() the difference",
        )
    return dict(config)


def _check_numbers(path: Path, config: Config) -> None:
    """Check the ranks, alphas and patterns of a configuration."""
    patterns = {key: config.get(key) or {} for key in ("rank_pattern", "alpha_pattern")}
    try:
        numbers = [config.get("r", 8), config.get("lora_alpha", config.get("alpha", 8))]
        numbers += [value for pattern in patterns.values() for value in pattern.values()]
        for pattern in patterns.values():
            for key in pattern:
                re.compile(key)
        if all(isinstance(n, (int, float)) and not isinstance(n, bool) and math.isfinite(n) for n in numbers):
            ranks = [config.get("r", 8), *patterns["rank_pattern"].values()]
            if all(isinstance(rank, int) and rank > 0 for rank in ranks):
                return
    except (AttributeError, TypeError, re.error):
        pass
    raise CheckpointError(
        f"{path} is damaged",
        expected="a rank r of at least 1, a number lora_alpha, and patterns with such values",
        got=", ".join(f"{key}={config.get(key)!r}" for key in ("r", "lora_alpha", "alpha", *patterns)),
        fix="restore it from a copy",
    )


def _part(spelled: str) -> str:
    """Return a matrix's name without the name of the adapter, LyCORIS's names translated to peft's."""
    word = spelled.split(".")[0]
    return {"lora_down": "lora_A", "lora_up": "lora_B"}.get(word, word)


def _finite(path: Path, key: str, tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
        raise DataError(
            f"from_lora: {key!r} of {path} holds NaN or infinity, or is not floating point",
            fix="use an earlier checkpoint",
        )
    return tensor


def _two(path: Path, layer: str, parts: Mapping[str, Tensor], config: Config) -> LowRankIncrement:
    """Return one layer's increment as two matrices."""
    wide = {name: part.double() for name, part in parts.items() if name != "alpha"}
    kind = next((kind for kind in _KINDS if any(name.startswith(kind) for name in wide)), "")
    try:
        down, up, rank = _KINDS[kind](wide)
        if not down.shape[0] or down.shape[0] != up.shape[1] or parts.get("alpha", torch.ones(())).numel() != 1:
            raise ValueError("ranks differ")  # noqa: TRY301
    except (KeyError, RuntimeError, ValueError) as error:
        raise DataError(
            f"from_lora: layer {layer!r} of {path}",
            expected="the matrices of LoRA, LoHa or LoKr on a linear layer",
            got=", ".join(f"{name} {tuple(part.shape)}" for name, part in parts.items()),
            cause="a convolution, or an incomplete file",
        ) from error
    scale = _scale(layer, parts, config, rank)
    return LowRankIncrement(down, up * scale, 0.0, sum(part.numel() for part in wide.values()))


def _scale(layer: str, parts: Mapping[str, Tensor], config: Config, rank: int | None) -> float:
    """Return the scale of a layer's product: alpha / rank, or alpha / sqrt(rank) with rsLoRA."""
    if "alpha" in parts:  # LyCORIS; the scale is 1 if no matrix is factored
        return float(parts["alpha"]) / rank if rank else 1.0
    if not config:
        return 1.0
    own = int(_pattern(layer, config.get("rank_pattern")) or config.get("r", 8))
    if rank is not None and rank != own:
        raise DataError(f"from_lora: layer {layer!r}", expected=f"rank {own} of its configuration", got=str(rank))
    usual = config.get("lora_alpha", config.get("alpha", own))
    alpha = float(_pattern(layer, config.get("alpha_pattern")) or usual)
    return alpha / (math.sqrt(own) if config.get("use_rslora") else own)


def _pattern(layer: str, patterns: Mapping[str, float] | None) -> float | None:
    """Return the value of the first pattern that matches a layer, by peft's rule."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", layer):
            return value
    return None


def _lora(parts: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, int | None]:
    down, up = parts["lora_A"], parts["lora_B"]
    _require_matrices(down, up)
    return down, up, down.shape[0]


def _loha(parts: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, int | None]:
    """The elementwise product of two low-rank matrices has the product of their ranks."""
    b1, a1, b2, a2 = (parts[f"hada_w{k}"] for k in ("1_a", "1_b", "2_a", "2_b"))
    _require_matrices(b1, a1, b2, a2)
    down = torch.einsum("ri,si->rsi", a1, a2).flatten(0, 1)
    up = torch.einsum("or,os->ors", b1, b2).flatten(1)
    return down, up, a1.shape[0]


def _lokr(parts: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, int | None]:
    """The factors of a Kronecker product are the Kronecker products of its matrices' factors."""
    (up1, down1), (up2, down2) = (_factored(parts, f"lokr_w{k}") for k in (1, 2))
    rank = next((part.shape[0] for name, part in parts.items() if name.endswith("_b")), None)
    return torch.kron(down1, down2), torch.kron(up1, up2), rank


def _factored(parts: Mapping[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    """Return a matrix of LoKr as a product; a matrix stored whole is multiplied by the identity."""
    if name not in parts:
        _require_matrices(parts[f"{name}_a"], parts[f"{name}_b"])
        return parts[f"{name}_a"], parts[f"{name}_b"]
    whole = parts[name]
    _require_matrices(whole)
    rows, columns = whole.shape
    return (torch.eye(rows).to(whole), whole) if rows <= columns else (whole, torch.eye(columns).to(whole))


def _require_matrices(*parts: Tensor) -> None:
    if any(part.ndim != 2 for part in parts):
        raise ValueError("not a matrix")


_KINDS: dict[str, Callable[[Mapping[str, Tensor]], tuple[Tensor, Tensor, int | None]]] = {
    "lora": _lora,
    "hada": _loha,
    "lokr": _lokr,
}
