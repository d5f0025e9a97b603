"""Throughput of a bank of tasks: batches of one task, and of a task for each sample, beside peft."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import peft
import torch
from torch import Tensor, nn

from tensorfact import Bank, Tasks, adapt, plan_for
from tensorfact.lab.measure import ForwardPass, all_step_ratios

from .peers import LINEAR, vit
from .result import Row, median_row
from .setting import Setting

RANK = 8
WORK = {"cpu": ("vit_small_patch16_224", "ViT-S/16", 32), "cuda": ("vit_base_patch16_224", "ViT-B/16", 64)}
"""The model, its name, and the number of images and tasks in a batch, by device."""
LEAST = {"cpu": (0.85, 0.92), "cuda": (0.95, 0.95)}
"""The least throughput of a batch of many tasks and of one task, as a fraction of that of the base model."""


class ForTasks(nn.Module):
    """A model with the tasks of its batches.

    Args:
        model: A model with a bank.
        names: The task of each sample, or one task for all samples.
    """

    def __init__(self, model: nn.Module, names: Sequence[str] | str) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch."""
        bank: Any = self.model.tensorfact
        if isinstance(self.names, str):
            bank.use(self.names)
            return self.model(x)  # type: ignore[no-any-return]
        with bank.batch(self.names):
            return self.model(x)  # type: ignore[no-any-return]


class ForNames(nn.Module):
    """A model of peft with the adapters of its batches.

    Args:
        model: A model with several adapters.
        names: The adapter of each sample.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch."""
        return self.model(x, adapter_names=self.names)  # type: ignore[no-any-return]


def filled(bank: Bank) -> Bank:
    """Give the cores of all tasks values."""
    with torch.no_grad():
        for parameter in bank.parameters():
            parameter.add_(torch.randn_like(parameter) / 50)
    return bank


def with_bank(model: nn.Module, names: Sequence[str]) -> nn.Module:
    """Attach a tensor train with shared U and V to a model."""
    filled(adapt(model, plan_for(model), f"tt:rank={RANK}", tasks=Tasks(names, ["U", "V"]), check=False))
    return model


def with_loras(model: nn.Module, names: Sequence[str]) -> nn.Module:
    """Attach a LoRA of peft to a model for each task, on the same layers."""
    config = peft.LoraConfig(r=RANK, target_modules=LINEAR, init_lora_weights=False)
    wrapped: Any = peft.get_peft_model(model, config, adapter_name=names[0])
    for name in names[1:]:
        wrapped.add_adapter(name, config)
    return wrapped  # type: ignore[no-any-return]


def mixed(setting: Setting) -> list[Row]:
    """Time of a forward pass of a batch of many tasks, and of one task, as a multiple of that of the base model."""
    architecture, label, count = WORK[setting.device]
    base, names = vit(architecture, setting.device), [f"t{at}" for at in range(count)]
    own = with_bank(copy.deepcopy(base), names)
    lora = with_loras(copy.deepcopy(base), names).to(setting.device)
    models = {
        f"bank, {count} tasks": ForTasks(own, names),
        "bank, 1 task": ForTasks(own, "t3"),
        f"peft, {count} tasks": ForNames(lora, names),
        "peft, 1 task": ForNames(lora, ["t3"] * count),
    }
    passes: dict[str, ForwardPass] = {name: setting.forward(model, count) for name, model in models.items()}
    bottom = setting.forward(base, count)
    ratios = all_step_ratios(bottom, passes, rounds=setting.rounds, warmup=1, seconds=setting.patience)
    most = dict(zip(passes, (round(1 / least, 3) for least in LEAST[setting.device]), strict=False))
    work = f"{label}, {count} images, {setting.device}"
    return [median_row("mixed", f"{name} / base", work, ratios[name], most.get(name)) for name in passes]
