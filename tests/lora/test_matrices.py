"""Increments as two matrices: their ranks, and the best of a lower rank."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tensorfact import CP, MatrixBatch, TensorTrain, adapt, plan_for
from tests.helpers import draw, layers, layers_plan, randomise
from tests.lora.saved import vit


def test_a_rank_through_every_layer_is_the_network_s(tmp_path: Path) -> None:
    model = vit()
    plan = plan_for(model)
    ranks = {}
    for format in (TensorTrain(4), CP(6), MatrixBatch(2)):
        adapter = adapt(model, plan, format, seed=0)
        draw(adapter)
        ranks[type(format).__name__] = {layer.module: layer.rank for layer in adapter.to_lora(tmp_path).layers}
        adapter.remove()
    assert set(ranks["TensorTrain"].values()) == {4}
    assert set(ranks["CP"].values()) == {6}
    block = {
        name.removeprefix("blocks.0."): r for name, r in ranks["MatrixBatch"].items() if name.startswith("blocks.0.")
    }
    assert block == {"attn.qkv": 6, "attn.proj": 2, "mlp.fc1": 8, "mlp.fc2": 8}


def test_a_lower_rank_is_the_best_of_its_rank(tmp_path: Path) -> None:
    model = randomise(layers(3, 12))
    adapter = adapt(model, layers_plan(), TensorTrain(6), seed=0, check=False)
    draw(adapter)
    written = adapter.to_lora(tmp_path, rank=2)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    for layer in written.layers:
        delta = adapter.delta(f"{layer.module}.weight").detach()
        singular = torch.linalg.svdvals(delta)
        best = float(singular[2:].norm() / singular.norm())
        found = (
            weights[f"base_model.model.{layer.module}.lora_B.weight"]
            @ weights[f"base_model.model.{layer.module}.lora_A.weight"]
        )
        assert layer.rank == 2
        assert layer.error == pytest.approx(best, rel=1e-4)
        assert float((found - delta).norm() / delta.norm()) == pytest.approx(best, rel=1e-4)
