"""Models for LoRA, and folders of them that peft itself has written."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any, cast

import peft
import timm
import torch
from torch import Tensor, nn

from tests.helpers import randomise


def vit(classes: int = 5) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm.create_model("vit_tiny_patch16_224", num_classes=classes).eval()


class Small(nn.Module):
    """Layers of three names in blocks, and a head."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        names = ("q", "k", "fc")
        self.blocks = nn.ModuleList(nn.ModuleDict({n: nn.Linear(width, width) for n in names}) for _ in range(2))
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        for each in self.blocks:
            block = cast("nn.ModuleDict", each)
            x = x + torch.tanh(block["q"](x)) * torch.sigmoid(block["k"](x)) + block["fc"](x)
        return cast("Tensor", self.head(x))


CONFIGS: dict[str, Any] = {
    "lora": lambda: peft.LoraConfig(r=2, lora_alpha=5, target_modules=["q", "fc"]),
    "patterns": lambda: peft.LoraConfig(
        r=2, lora_alpha=5, target_modules=["q", "fc"], rank_pattern={"0.q": 3}, alpha_pattern={"fc": 7}
    ),
    "a layer switched off": lambda: peft.LoraConfig(
        r=2, lora_alpha=5, target_modules=["q", "fc"], alpha_pattern={r".*\.0\.q": 0, "blocks.1.fc": 3}
    ),
    "an alpha of 0": lambda: peft.LoraConfig(r=2, lora_alpha=0, target_modules=["q"], alpha_pattern={"1.q": 4}),
    "patterns with groups": lambda: peft.LoraConfig(
        r=2, target_modules=["q", "k"], rank_pattern={r"^blocks\.(0|1)\.k$": 4}, alpha_pattern={r"blocks\.\d+\.q": 1}
    ),
    "rslora": lambda: peft.LoraConfig(r=4, use_rslora=True, target_modules=["q", "k"], modules_to_save=["head"]),
    "loha": lambda: peft.LoHaConfig(r=2, alpha=3, target_modules=["q", "fc"]),
    "lokr": lambda: peft.LoKrConfig(r=2, alpha=3, target_modules=["q", "k"]),
    "lokr, both": lambda: peft.LoKrConfig(r=1, alpha=3, target_modules=["q", "k"], decompose_both=True),
    "lokr, whole": lambda: peft.LoKrConfig(r=8, alpha=3, target_modules=["q", "fc"]),
}


def saved_by_peft(config: Any, folder: Path) -> tuple[Small, Any]:
    """Return a base model, and peft's model of it with random factors, saved."""
    base = randomise(Small()).eval()
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model = peft.get_peft_model(copy.deepcopy(base), config).eval()
        for parameter in model.parameters():
            if parameter.requires_grad:
                nn.init.normal_(parameter, std=0.2)
        model.save_pretrained(str(folder))
    return base, model
