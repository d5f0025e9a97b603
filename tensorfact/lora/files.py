"""Read LoRA, LoHa and LoKr files of peft and LyCORIS as two matrices per layer."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..common.checks import AnyPath, file_path
from ..errors import CheckpointError, DataError, nearest
from ..model.parameters import base_parameters
from ..storage.description import FACTORS
from ..storage.files import StoredTensors
from .config import CONFIG, WEIGHTS, Config, read_config, scale_of
from .matrices import LowRankIncrement

PREFIX = "base_model.model."

_PART = re.compile(
    r"(?P<layer>.+)\.(?P<part>lora_(?:A|B|down|up)(?:\.\w+)?\.weight|hada_w[12]_[ab]|lokr_w[12](?:_[ab])?|alpha)"
)
_UNREADABLE = (
    *("lora_magnitude_vector", "dora_scale", "lora_embedding", "hada_t", "lokr_t", "lora_mid"),
    *("oft_", "boft_", "ia3_l", "vera_lambda", "hra_u", "fourierft_", "vblora_", "randlora_"),
)
_LYCORIS = re.compile(r"^(?:lycoris|lora_unet|lora_te\d?|lora_transformer|lora)_")


@dataclasses.dataclass(frozen=True, eq=False)
class StoredLayer:
    """A layer of a file, whose matrices fit its weight; nothing of the size of the weight is formed yet.

    Args:
        parts: The matrices by their names in peft.
        scale: What the product of the matrices is multiplied by.
        shape: The shape of the weight that they give (outputs, inputs).
    """

    parts: Mapping[str, Tensor]
    scale: float
    shape: tuple[int, int]

    @property
    def rank(self) -> int:
        """The rank of the increment's two matrices; nothing is computed."""
        down, _, _ = _halves({name: part.to("meta") for name, part in self.parts.items()}, self.shape)
        return down.shape[0]

    def increment(self) -> LowRankIncrement:
        """Return the increment as two matrices in fp64."""
        down, up, _ = _halves({name: part.double() for name, part in self.parts.items()}, self.shape)
        return LowRankIncrement(down, up * self.scale, 0.0, sum(part.numel() for part in self.parts.values()))


def read_layers(model: nn.Module, path: AnyPath) -> tuple[dict[str, StoredLayer], dict[str, Tensor]]:
    """Read a file's layers and the parameters that it stores whole.

    Args:
        model: The base model, whose names the file's layers have.
        path: A folder of peft, or a safetensors file of peft or LyCORIS.

    Returns:
        The layers, and the parameters stored whole, both by parameter name.

    Raises:
        CheckpointError: A file is missing or damaged, or its description cannot be read.
        DataError: The model does not have a layer of the file, or a layer is of a kind that cannot be read.
    """
    path = file_path(path, "from_lora: path", DataError)
    weights = _weights(path)
    config = read_config(path, weights)
    parameters = base_parameters(model)
    modules = {name.removesuffix(".weight"): name for name in parameters if name.endswith(".weight")}
    spelled: dict[str, list[str]] = {}
    for module in modules:
        spelled.setdefault(module.replace(".", "_"), []).append(module)
    parts: dict[str, dict[str, Tensor]] = {}
    kept: dict[str, Tensor] = {}
    for key in weights:
        name = key.removeprefix(PREFIX)
        if any(word in key for word in _UNREADABLE):
            raise DataError(
                f"from_lora: {path} holds {key!r}",
                expected="LoRA, LoHa or LoKr of linear layers",
                cause="DoRA, OFT or another method, an embedding, or a convolution",
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
            own[part] = _finite(path, key, weights[key], whole=part == "alpha")
        elif name in parameters:
            kept[name] = _finite(path, key, weights[key])
            if kept[name].shape != parameters[name].shape:
                expected, got = tuple(parameters[name].shape), tuple(kept[name].shape)
                raise DataError(f"from_lora: {key!r}", expected=f"shape {expected}", got=f"shape {got}")
        else:
            raise _foreign(path, key)
    layers = {}
    for layer, each in parts.items():
        name = modules[_module_of(layer, modules, spelled)]
        layers[name] = _stored(path, layer, each, config, tuple(parameters[name].shape))
    if not layers:
        raise DataError(f"from_lora: {path} holds no layers", expected="LoRA, LoHa or LoKr matrices")
    return layers, kept


def _weights(path: Path) -> StoredTensors:
    """Return the tensors of a folder of peft, or of a file."""
    if not os.path.isdir(path):
        return StoredTensors(path)
    if not (path / WEIGHTS).exists() and (path / "adapter_model.bin").exists():
        raise DataError(
            f"from_lora: {path} holds adapter_model.bin, a pickle, which is not read",
            expected=WEIGHTS,
            fix="load it in peft, and call save_pretrained(folder, safe_serialization=True)",
        )
    if not (path / CONFIG).exists():
        raise CheckpointError(
            f"{path} is not a folder of peft",
            expected=f"{CONFIG} and {WEIGHTS}",
            got=", ".join(sorted(each.name for each in path.iterdir())[:5]) or "an empty folder",
            cause="another folder, or a process that was killed while it replaced the adapter",
            fix="pass the folder that peft's save_pretrained wrote",
        )
    return StoredTensors(path / WEIGHTS)


def _module_of(layer: str, modules: Mapping[str, str], spelled: Mapping[str, list[str]]) -> str:
    """Return the module of a layer, whose name LyCORIS writes with underscores in place of dots."""
    found = [layer] if layer in modules else spelled.get(_LYCORIS.sub("", layer), [])
    if len(found) > 1:
        raise DataError(
            f"from_lora: {layer!r} may be any of {', '.join(found)}",
            cause="LyCORIS writes underscores in place of dots, and these modules then have one name",
            fix="rename the key to the module that it belongs to, with dots",
        )
    if not found:
        raise DataError(
            f"from_lora: the model has no layer {layer!r}",
            got=f"{layer!r}{nearest(layer, modules)}",
            cause="a file for another model",
            fix="pass the base model it was trained on",
        )
    return found[0]


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


def _part(spelled: str) -> str:
    """Return a matrix's name without the name of the adapter, LyCORIS's names translated to peft's."""
    word = spelled.split(".")[0]
    return {"lora_down": "lora_A", "lora_up": "lora_B"}.get(word, word)


def _finite(path: Path, key: str, tensor: Tensor, *, whole: bool = False) -> Tensor:
    """Return a tensor of finite floating-point values; with `whole`, integers are accepted too."""
    if whole and not tensor.is_floating_point() and not tensor.is_complex():
        return tensor.double()
    if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
        raise DataError(
            f"from_lora: {key!r} of {path} holds NaN or infinity, or is not floating point",
            fix="use an earlier checkpoint",
        )
    return tensor


def _stored(path: Path, layer: str, parts: Mapping[str, Tensor], config: Config, shape: tuple[int, ...]) -> StoredLayer:
    """Return one layer, once the sizes of its matrices are known to be those of its weight."""
    matrices = {name: part for name, part in parts.items() if name != "alpha"}
    try:
        # without values: a later layer may be damaged, and small matrices may have a large product
        down, up, rank = _halves({name: part.to("meta") for name, part in matrices.items()}, shape)
        if not down.shape[0] or down.shape[0] != up.shape[1] or parts.get("alpha", torch.ones(())).numel() != 1:
            raise ValueError("ranks differ")  # noqa: TRY301
    except (KeyError, RuntimeError, ValueError) as error:
        raise DataError(
            f"from_lora: layer {layer!r} of {path}",
            expected=f"the matrices of LoRA, LoHa or LoKr for a weight of shape {shape}",
            got=", ".join(f"{name} {tuple(part.shape)}" for name, part in parts.items())[:200],
            cause="a convolution, an incomplete file, or a file for another model",
            fix="pass the base model it was trained on",
        ) from error
    return StoredLayer(matrices, scale_of(layer, parts, config, rank), (up.shape[0], down.shape[1]))


def _halves(parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> tuple[Tensor, Tensor, int | None]:
    """Return the lower and the upper matrix of an increment, and the rank that its scale is divided by."""
    kind = next((kind for kind in _KINDS if any(name.startswith(kind) for name in parts)), "")
    return _KINDS[kind](parts, shape)


def _lora(parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> tuple[Tensor, Tensor, int | None]:
    down, up = parts["lora_A"], parts["lora_B"]
    _require_matrices(down, up)
    _require_sizes(up.shape[0], down.shape[1], shape)
    rank = down.shape[0]
    if rank > min(shape):
        up, down = _halved(up @ down)
    return down, up, rank


def _loha(parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> tuple[Tensor, Tensor, int | None]:
    """The elementwise product of two low-rank matrices has the product of their ranks."""
    b1, a1, b2, a2 = (parts[f"hada_w{k}"] for k in ("1_a", "1_b", "2_a", "2_b"))
    _require_matrices(b1, a1, b2, a2)
    _require_sizes(b1.shape[0], a1.shape[1], shape)
    if b1.shape[0] != b2.shape[0] or a1.shape[1] != a2.shape[1]:
        raise ValueError("two matrices of different sizes")
    if a1.shape[0] * a2.shape[0] > min(shape):
        up, down = _halved((b1 @ a1) * (b2 @ a2))
    else:
        down = torch.einsum("ri,si->rsi", a1, a2).flatten(0, 1)
        up = torch.einsum("or,os->ors", b1, b2).flatten(1)
    return down, up, a1.shape[0]


def _lokr(parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> tuple[Tensor, Tensor, int | None]:
    """The factors of a Kronecker product are the Kronecker products of its matrices' factors."""
    (up1, down1), (up2, down2) = (_factored(parts, f"lokr_w{k}") for k in (1, 2))
    _require_sizes(up1.shape[0] * up2.shape[0], down1.shape[1] * down2.shape[1], shape)
    rank = next((part.shape[0] for name, part in parts.items() if name.endswith("_b")), None)
    if up1.shape[1] * up2.shape[1] > min(shape):
        (up1, down1), (up2, down2) = _halved(up1 @ down1), _halved(up2 @ down2)
    return torch.kron(down1, down2), torch.kron(up1, up2), rank


def _factored(parts: Mapping[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    """Return a matrix of LoKr as a product; a matrix stored whole is multiplied by the identity."""
    if name not in parts:
        _require_matrices(parts[f"{name}_a"], parts[f"{name}_b"])
        return parts[f"{name}_a"], parts[f"{name}_b"]
    _require_matrices(parts[name])
    return _halved(parts[name])


def _halved(whole: Tensor) -> tuple[Tensor, Tensor]:
    """Return a matrix as a product with the identity, of the rank of its shorter side."""
    rows, columns = whole.shape
    return (whole.new_ones(rows).diag(), whole) if rows <= columns else (whole, whole.new_ones(columns).diag())


def _require_matrices(*parts: Tensor) -> None:
    if any(part.ndim != 2 for part in parts):
        raise ValueError("not a matrix")


def _require_sizes(rows: int, columns: int, shape: tuple[int, ...]) -> None:
    """Check the sizes before anything of that size is allocated: those of a file need not be true."""
    if sorted((rows, columns)) != sorted(shape):
        raise ValueError(f"matrices of a layer ({rows}, {columns})")


_KINDS: dict[str, Callable[[Mapping[str, Tensor], tuple[int, ...]], tuple[Tensor, Tensor, int | None]]] = {
    "lora": _lora,
    "hada": _loha,
    "lokr": _lokr,
}
