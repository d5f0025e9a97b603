"""Methods with one tensor for all layers: shared biases, stages, heads of several sizes."""

from __future__ import annotations

import pytest
import torch

from tensorfact import recipes
from tensorfact.errors import PlanError
from tensorfact.lab.models import model_shapes
from tests.helpers import refused
from tests.recipes.formulas import LAYERS, small


def test_swin_has_a_tensor_a_stage() -> None:
    swin = model_shapes("swin_base_patch4_window7_224")
    assert recipes.fact_tt(swin, rank=16).num_parameters(swin) == 135_168


def test_cara_trains_three_biases_that_all_layers_share() -> None:
    model = small()
    adapter = recipes.cara(model, rank=4, scale=0.5).adapt(model, seed=0)
    with torch.no_grad():
        for core in adapter.parameters():
            core.normal_()
    for tensor, parameter in {"bias_o": "attn.proj", "bias_up": "mlp.fc1", "bias_down": "mlp.fc2"}.items():
        for layer in range(LAYERS):
            found = adapter.delta(f"blocks.{layer}.{parameter}.bias")
            assert torch.equal(found, 0.5 * adapter.named_cores()[f"{tensor}.V"])


def test_heads_of_several_sizes_are_refused() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "intermediate_size": 96, "vocab_size": 50}
    llama = transformers.LlamaModel(transformers.LlamaConfig(num_attention_heads=4, num_key_value_heads=2, **sizes))
    with refused(PlanError, "grouped-query", "roles"):
        recipes.metatt5(llama, rank=2)
    assert recipes.metatt5(llama, rank=2, roles=["q"]).num_parameters(llama) > 0
