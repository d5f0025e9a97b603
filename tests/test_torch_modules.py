"""Modules of torch and torchvision-like models that read their weights in ways of their own."""

from __future__ import annotations

from typing import Any, cast

import pytest
import timm
import torch
from torch import Tensor, nn

from tensorfact import CP, Adapter, Format, Group, MatrixBatch, Rule, TensorizationPlan, TensorTrain, Tucker, adapt
from tests.helpers import difference, draw, infer, randomise, state_bits

FORMATS = (TensorTrain(2), Tucker(2), CP(2), MatrixBatch(2))


def same_when_merged(model: nn.Module, adapter: Adapter, x: Any, tolerance: float = 1e-4) -> None:
    """Check that the adapter acts, agrees with the merged model, and comes off bit for bit."""
    base = {name: held for name, held in state_bits(model).items() if not name.startswith("tensorfact.")}
    adapted = infer(model, x)
    with adapter.disabled():
        assert difference(infer(model, x), adapted) > 1e-3
    adapter.merge()
    assert difference(infer(model, x), adapted) < tolerance
    adapter.unmerge()
    assert {name: held for name, held in state_bits(model).items() if not name.startswith("tensorfact.")} == base
    assert torch.equal(infer(model, x), adapted)


# ----------------------------------------------------------------------------------------------------------- attention


def encoder(**options: Any) -> nn.Module:
    layer = nn.TransformerEncoderLayer(
        8, 2, 16, dropout=0.0, **{"batch_first": True, "activation": "gelu", **options}
    )  # fmt: skip
    return randomise(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)).eval()


def encoder_plan() -> TensorizationPlan:
    prefix = "layers.{layer}"
    rules = (
        Rule(f"{prefix}.self_attn.in_proj_weight", "(role out) in", role=["q", None, "v"]),
        Rule(f"{prefix}.self_attn.out_proj.weight", "out in", role="o"),
        Rule(f"{prefix}.linear1.weight", "(role out) in", role=["up0", "up1"]),
        Rule(f"{prefix}.linear2.weight", "out (role in)", role=["down0", "down1"]),
    )
    return TensorizationPlan((Group("encoder", "(layer role) in out", rules),))


@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize("fast", [True, False])
def test_a_transformer_encoder_is_adapted_on_its_fast_path_too(format: Format, fast: bool) -> None:
    """In evaluation without gradients torch calls one fused kernel with the layer's weights."""
    model, x = encoder().requires_grad_(False), torch.randn(2, 5, 8)
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(fast)
    try:
        plain = infer(model, x)
        adapter = adapt(model, encoder_plan(), format, seed=0)
        assert torch.equal(infer(model, x), plain)
        draw(adapter)
        same_when_merged(model, adapter, x)
        adapted = infer(model, x)
        model.train()
        slow = model(x)
        assert difference(slow, adapted) < 1e-4, "training takes the other path"
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def test_the_fast_path_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """If torch changes that, the test above tests the plain path twice."""
    model, seen = encoder(), []
    kernel = torch._transformer_encoder_layer_fwd

    def recording(*arguments: Any, **options: Any) -> Tensor:
        seen.append(1)
        return kernel(*arguments, **options)

    monkeypatch.setattr(torch, "_transformer_encoder_layer_fwd", recording)
    draw(adapt(model, encoder_plan(), TensorTrain(2), seed=0))
    infer(model, torch.randn(2, 5, 8))
    assert len(seen) == 2


def test_a_frozen_slot_of_the_fused_projection_stays_exactly_as_it_was() -> None:
    model = encoder()
    name = "layers.0.self_attn.in_proj_weight"
    base = dict(model.named_parameters())[name].detach().clone()
    adapter = adapt(model, encoder_plan(), TensorTrain(2), seed=0)
    draw(adapter)
    effective = cast("nn.MultiheadAttention", model.get_submodule("layers.0.self_attn")).in_proj_weight
    assert torch.equal(effective[8:16], base[8:16])
    assert (effective[:8] != base[:8]).all()
    assert (effective[16:] != base[16:]).all()
    assert not adapter.delta(name)[8:16].any()


@pytest.mark.parametrize("options", [{}, {"batch_first": False}, {"kdim": 6, "vdim": 6}, {"bias": False}], ids=str)
def test_attention_of_every_kind(options: dict[str, Any]) -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, **{"batch_first": True, **options})

        def forward(self, x: tuple[Tensor, Tensor]) -> Tensor:
            query, other = x
            return cast("Tensor", self.attention(query, other, other)[0])

    model = randomise(Attending()).requires_grad_(False).eval()
    if "kdim" in options:
        rules: tuple[Rule, ...] = tuple(Rule(f"attention.{r}_proj_weight", "out in", role=r) for r in "kv")
    else:
        rules = (Rule("attention.in_proj_weight", "(role out) in", role=["q", "k", "v"]),)
    plan = TensorizationPlan((Group("g", "role in out", rules),))
    adapter = adapt(model, plan, TensorTrain(2), seed=0)
    draw(adapter)
    other = torch.randn(2, 5, 6 if "kdim" in options else 8)
    same_when_merged(model, adapter, (torch.randn(2, 5, 8), other))


def test_a_decoder_layer_with_two_attentions() -> None:
    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.TransformerDecoderLayer(8, 2, 16, dropout=0.0, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return cast("Tensor", self.layer(x, x.flip(1)))

    model = randomise(Decoder()).requires_grad_(False).eval()
    names = ("self_attn", "multihead_attn")
    rules = tuple(
        Rule(f"layer.{name}.in_proj_weight", "(role out) in", role=[f"{name}_{r}" for r in "qkv"]) for name in names
    )
    adapter = adapt(model, TensorizationPlan((Group("g", "role in out", rules),)), CP(3), seed=0)
    draw(adapter)
    same_when_merged(model, adapter, torch.randn(2, 5, 8))


# ------------------------------------------------------------------------------------------------------- convolutions


@pytest.mark.sampled(4)
@pytest.mark.parametrize("format", [TensorTrain(3), Tucker((1, 3, 1, 3)), CP(2), MatrixBatch(2)], ids=str)
@pytest.mark.parametrize("modes", ["block in kw (out kh)", "block (in kh) kw out"])
def test_resnet_s_3x3_convolutions(format: Format, modes: str) -> None:
    model: nn.Module = timm.create_model("resnet10t", num_classes=5)
    randomise(model).requires_grad_(False).eval()
    rule = Rule("layer{stage}.{block}.conv2.weight", "out in kh kw")
    plan = TensorizationPlan((Group("convolutions", modes, (rule,), partition="stage"),))
    adapter = adapt(model, plan, format, seed=0)
    assert len(adapter.resolved.tensors) == 4
    draw(adapter, size=1.0)
    x = torch.randn(2, 3, 64, 64)
    same_when_merged(model, adapter, x)
    model.train()
    model(x).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in adapter.parameters())


def test_convnext_s_1x1_and_depthwise_convolutions() -> None:
    model: nn.Module = timm.create_model("convnext_atto", num_classes=5, conv_mlp=True)
    randomise(model).requires_grad_(False).eval()
    prefix = "stages.{stage}.blocks.{layer}"
    up, down = ([f"{name}{k}" for k in range(4)] for name in ("up", "down"))
    groups = (
        Group("mlp", "(layer role) in out", (
            Rule(f"{prefix}.mlp.fc1.weight", "(role out) in 1 1", role=up),
            Rule(f"{prefix}.mlp.fc2.weight", "out (role in) 1 1", role=down),
        ), partition="stage"),
        Group("depthwise", "layer out (kh kw)", (
            Rule(f"{prefix}.conv_dw.weight", "out 1 kh kw"),
        ), partition="stage"),
    )  # fmt: skip
    adapter = adapt(model, TensorizationPlan(groups), TensorTrain(2), seed=0)
    draw(adapter)
    same_when_merged(model, adapter, torch.randn(1, 3, 64, 64))


# ---------------------------------------------------------------------------------------------------------------- roots


@pytest.mark.parametrize("route", ["activation", "formed", "weight"])
def test_a_sequential_as_the_root(route: Any) -> None:
    model = randomise(nn.Sequential(nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 2)))
    rules = tuple(Rule(f"{at}.weight", "out in", layer=at) for at in (0, 2))
    plan = TensorizationPlan((Group("g", "layer in out", rules),))
    adapter = adapt(model.requires_grad_(False), plan, TensorTrain(2), route=route, train_head="4")
    draw(adapter)
    same_when_merged(model, adapter, torch.randn(3, 6))
    assert len(model) == 6, "the adapter is the last child, and passes its input on"


def test_a_single_layer_as_the_root() -> None:
    model = randomise(nn.Linear(6, 4)).requires_grad_(False)
    plan = TensorizationPlan((Group("g", "in out", (Rule("weight", "out in"),)),))
    adapter = adapt(model, plan, TensorTrain(2))
    draw(adapter)
    same_when_merged(model, adapter, torch.randn(3, 6))


def test_a_module_list_and_dict_below_the_root() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branches = nn.ModuleDict({name: nn.ModuleList([nn.Linear(4, 4)] * 1) for name in ("left", "right")})

        def forward(self, x: Tensor) -> Tensor:
            left, right = (cast("nn.ModuleList", self.branches[name])[0](x) for name in ("left", "right"))
            return cast("Tensor", left * right)

    model = randomise(Branches()).requires_grad_(False)
    rule = Rule("branches.{side}.{at}.weight", "out in")
    adapter = adapt(model, TensorizationPlan((Group("g", "side at in out", (rule,)),)), Tucker(1))
    draw(adapter)
    assert adapter.resolved["g"].coordinates == {"side": ("left", "right"), "at": (0,)}
    same_when_merged(model, adapter, torch.randn(3, 4))


def test_parameters_in_lists_in_dicts_and_of_the_root_itself() -> None:
    class Loose(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.listed = nn.ParameterList([torch.randn(4, 4) for _ in range(2)])
            self.named = nn.ParameterDict({name: torch.randn(4, 4) for name in "ab"})
            self.own = nn.Parameter(torch.randn(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            for matrix in [*self.listed, *self.named.values(), self.named["a"], self.own]:
                x = x @ matrix
            return x

    model = Loose().double().requires_grad_(False)
    rules = (Rule("listed.{at}", "in out"), Rule("named.{at}", "in out"), Rule("own", "in out", at="own"))
    adapter = adapt(model, TensorizationPlan((Group("g", "at in out", rules),)), TensorTrain(2))
    draw(adapter)
    assert adapter.resolved["g"].coordinates == {"at": (0, 1, "a", "b", "own")}
    same_when_merged(model, adapter, torch.randn(3, 4, dtype=torch.float64))


def test_channels_last_convolutions_keep_their_layout_and_their_bits() -> None:
    model: nn.Module = timm.create_model("resnet10t", num_classes=5)
    randomise(model).requires_grad_(False).eval().to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 64, 64).to(memory_format=torch.channels_last)
    plain = infer(model, x)
    rule = Rule("layer{stage}.{block}.conv2.weight", "out in kh kw")
    plan = TensorizationPlan((Group("g", "block in out (kh kw)", (rule,), partition="stage"),))
    adapter = adapt(model, plan, TensorTrain(1), seed=0)
    assert torch.equal(infer(model, x), plain)
    draw(adapter, size=1.0)
    convolution = cast("nn.Conv2d", model.get_submodule("layer1.0.conv2"))
    assert convolution.weight.is_contiguous(memory_format=torch.channels_last)
    same_when_merged(model, adapter, x)


def test_a_shared_layer_is_adapted_wherever_it_is_called() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.second = self.first

        def forward(self, x: Tensor) -> Tensor:
            return cast("Tensor", self.second(self.first(x)))

    model = randomise(Twice()).requires_grad_(False)
    plan = TensorizationPlan((Group("g", "in out", (Rule("first.weight", "out in"),)),))
    adapter = adapt(model, plan, TensorTrain(2))
    draw(adapter)
    same_when_merged(model, adapter, torch.randn(3, 4))
