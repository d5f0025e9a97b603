"""The bundled model: a small ViT, pretrained on Fashion-MNIST by `examples/pretrain_nano.py`."""

from __future__ import annotations

from pathlib import Path

import timm
from torch import nn

from ..common.checks import flag, whole_number
from ..errors import DataError
from ..model.origin import ModelOrigin, record_origin
from ..storage.files import read_tensors

CHECKPOINT = Path(__file__).parent / "assets" / "nano.safetensors"
MEAN, STD = 0.2860, 0.3530
"""Mean and standard deviation of the pixels, scaled to 0 to 1, of Fashion-MNIST's 60,000 training images."""


def nano(*, pretrained: bool = True, num_classes: int = 10) -> nn.Module:
    """Build the bundled ViT: 6 layers, width 96, 3 heads, 7 x 7 patches of 28 x 28 grey images.

    It is timm's `VisionTransformer`, so code for it also works on timm's larger ViTs.

    Args:
        pretrained: Load the bundled Fashion-MNIST weights. With another `num_classes` the head is newly initialised.
        num_classes: Number of classes.

    Returns:
        The model in evaluation mode, fp32, on the CPU. Input: (batch, 1, 28, 28).

    Raises:
        DataError: An argument has another type.
        CheckpointError: The bundled file is damaged.

    Examples:
        >>> import torch
        >>> from tensorfact.lab import nano
        >>> nano()(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """
    flag(pretrained, "nano: pretrained", DataError)
    num_classes = whole_number(num_classes, "nano: num_classes", DataError, least=0, example=10)
    config = {
        "input_size": (1, 28, 28),
        "mean": (MEAN,),
        "std": (STD,),
        "num_classes": num_classes,
        "architecture": "nano",
        "tag": "",
        "url": "",
        "hf_hub_id": None,
    }
    model: nn.Module = timm.create_model(
        "vit_tiny_patch16_224",
        pretrained_cfg_overlay={**config, "fixed_input_size": True, "crop_pct": 1.0},
        img_size=28,
        patch_size=7,
        in_chans=1,
        embed_dim=96,
        depth=6,
        num_heads=3,
        num_classes=num_classes,
    )
    record_origin(model, ModelOrigin("nano", pretrained=pretrained))
    if pretrained:
        weights = read_tensors(CHECKPOINT)
        if num_classes != len(weights["head.bias"]):
            fresh = {name: tensor for name, tensor in model.state_dict().items() if name.startswith("head.")}
            weights = {name: tensor for name, tensor in weights.items() if not name.startswith("head.")} | fresh
        model.load_state_dict(weights)
    return model.eval()
