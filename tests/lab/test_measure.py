"""Memory is counted, and the floor is what it claims to be."""

from __future__ import annotations

import torch
from torch import nn

from tensorfact.lab import nano
from tensorfact.lab.measure import TrainingStep, freeze_to_floor, peak_bytes, step_ratios


def test_peak_counts_live_tensors_once() -> None:
    model = nn.Linear(10, 10, bias=False)
    x, y = torch.zeros(100, 10), torch.zeros(100, dtype=torch.long)
    peak = peak_bytes(TrainingStep(model, x, y))
    parameters, data = 4 * 100, 4 * 1000 + 8 * 100
    logits = 4 * 1000
    at_least = 4 * parameters + data + logits  # weight, gradient and AdamW's two moments; data; logits
    assert at_least <= peak <= at_least + 4 * logits  # and what the loss and its backward make of the logits


def test_the_floor_passes_gradients_through_every_block_and_trains_the_head() -> None:
    model = nano()
    freeze_to_floor(model, "blocks.0.attn.qkv.weight")
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained == ["blocks.0.attn.qkv.bias", "head.weight", "head.bias"]


def test_a_step_is_as_long_as_itself() -> None:
    model, x, y = nano(), torch.zeros(4, 1, 28, 28), torch.zeros(4, dtype=torch.long)
    freeze_to_floor(model, "blocks.0.attn.qkv.weight")
    step = TrainingStep(model, x, y)
    assert step_ratios(step, {"same": step}, rounds=3)["same"] > 0
