"""Methods with one tensor for all layers: shared biases, stages, heads of several sizes."""

from __future__ import annotations

from typing import cast

import pytest
import torch
import transformers
from torch import Tensor, nn

from tensorfact import Format, Tucker, adapt, convert, plan_for, recipes
from tensorfact.adapters.factors import Factors
from tensorfact.errors import FormatError, PlanError
from tensorfact.formats import ReshapedTucker
from tensorfact.lab import nano
from tensorfact.lab.models import model_shapes
from tests.helpers import draw, refused
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


# ------------------------------------------------------------------------------------------------- FacT-TK as released


@pytest.mark.parametrize(
    "name", ["convnext_atto", "mixer_s32_224", "eva02_tiny_patch14_224", "resnet18", "hf:LlamaModel", "hf:T5Model"]
)
def test_fact_tk_released_refuses_layers_with_other_matrices(name: str) -> None:
    model = _small_llama() if name == "hf:LlamaModel" else _small_t5() if name == "hf:T5Model" else model_shapes(name)
    with refused(PlanError, "fact_tk_released", "q, k, v, o", "recipes.fact_tk(model)"):
        recipes.fact_tk_released(model, rank=4)


def _small_llama() -> nn.Module:
    sizes = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    return cast("nn.Module", transformers.LlamaModel(transformers.LlamaConfig(**sizes, vocab_size=20)))


def _small_t5() -> nn.Module:
    config = transformers.T5Config(d_model=32, d_kv=8, d_ff=128, num_layers=2, num_heads=4)
    return cast("nn.Module", transformers.T5Model(config))


def test_reshaped_tucker_needs_the_matrices_of_a_layer_in_a_mode_of_their_own() -> None:
    model = nano()
    with refused(FormatError, "(layer role)", "plan.arranged('layer role in out')"):
        adapt(model, plan_for(model), ReshapedTucker(4))
    plan = plan_for(model).arranged("layer role in out")
    with refused(FormatError, "whole=6"):
        adapt(model, plan, ReshapedTucker(4, whole=5))
    adapter = adapt(model, plan, ReshapedTucker("full"))
    assert adapter.formats["encoder"].explicit(adapter.resolved["encoder"].modes) == ReshapedTucker(96)


def test_reshaped_tucker_converts_to_tucker_and_not_back() -> None:
    model = nano()
    adapter = recipes.fact_tk_released(model, rank=2).adapt(model, seed=0)
    draw(adapter)
    found = convert(adapter, Tucker("full"), tolerance=1e-3)
    assert found.changes[0].error < 1e-3
    assert found.changes[0].numbers == adapter.num_parameters
    with refused(FormatError, "no decomposition", "Tucker(rank=8)"):
        convert(found.state, {"encoder": ReshapedTucker(2)})


# ------------------------------------------------------------------------------------------------------ released starts


def what_the_zero_core_meets(recipe: recipes.Recipe, model: nn.Module) -> Tensor:
    """Return, for inputs of variance 1, what the zero core is applied to in the first slice."""
    (tensor,) = recipe.plan.resolve(model).tensors
    format = recipe.format
    assert isinstance(format, Format)
    generator = torch.Generator().manual_seed(0)
    made = Factors(
        format.network(tensor.modes), tensor.modes, tensor.extents, format.given(tensor.modes), generator=generator
    )
    cores = {name: core.detach() for name, core in made.named_cores().items()}
    x = torch.randn(2000, 768, generator=generator)
    if "S1" in cores:
        return x @ cores["U"] @ cores["S1"][:, 0]
    return x @ cores["U1"] @ torch.einsum("abc,c->ab", cores["C"], cores["U2"][0, 0])


def test_the_released_starts_are_as_small_as_those_of_the_released_code() -> None:
    """Its deviations for ViT-B, measured with the code of `FacT/` in JieShibo/PETL-ViT: 0.332 and 0.066."""
    model = model_shapes("vit_base_patch16_224")
    train = what_the_zero_core_meets(recipes.fact_tt(model, rank=16, released_start=True), model)
    assert float(train.std()) == pytest.approx(0.332, rel=0.1)
    tucker = what_the_zero_core_meets(recipes.fact_tk_released(model, rank=8, released_start=True), model)
    assert float(tucker.std()) == pytest.approx(0.066, rel=0.35)
