"""Small models that take baselines, and a small space of NOAH's subnets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import timm
import torch
from torch import nn

from tensorfact.lab import Splits
from tensorfact.lab.baselines import BASELINES, Method, Space, Subnet, search_subnet

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
METHODS: dict[str, Callable[[], Method]] = {
    **BASELINES,
    "noah-subnet": lambda: BASELINES["noah-subnet"](adapters=[2, 0], ranks=[1, 2], prompts=[0, 3]),
    "peft-vera": lambda: BASELINES["peft-vera"](r=4),
    "peft-oft": lambda: BASELINES["peft-oft"](oft_block_size=8),
}


def small(name: str = "vit_base_patch16_224") -> nn.Module:
    torch.manual_seed(0)
    sizes = {"depth": 2, "embed_dim": 24, "num_heads": 3, "img_size": 32, "patch_size": 8, "num_classes": 5}
    return cast("nn.Module", timm.create_model(name, **sizes)).eval()


def swin(name: str = "swin_tiny_patch4_window7_224", **options: Any) -> nn.Module:
    torch.manual_seed(0)
    sizes = {"depths": (1, 1, 1, 1), "embed_dim": 12, "num_heads": (1, 1, 2, 2), "img_size": 64, "num_classes": 5}
    return cast("nn.Module", timm.create_model(name, **{"window_size": 2, **sizes, **options})).eval()


SPACE = Space(adapters=(0, 1, 3), ranks=(0, 2), prompts=(0, 1, 4))


def quick_search(model: nn.Module, data: Splits, **options: Any) -> Subnet:
    quick = {"epochs": 1, "batch_size": 8, "population": 4, "generations": 3, "space": SPACE}
    return search_subnet(model, data, **{**quick, **options})
