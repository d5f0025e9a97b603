"""The route `formed`: layers multiply by effective weights, and only the factors get gradients."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from tensorfact import CP, Adapter, Format, MatrixBatch, TensorTrain, Tucker, adapt, plan_by_shape, plan_for
from tensorfact.adapters.increments import effective
from tensorfact.adapters.increments.adapted import AdaptedLayer
from tensorfact.adapters.increments.halves import Halves
from tensorfact.adapters.increments.planned import Kind
from tests.helpers import difference, draw
from tests.plan.families.members import example_of, member

MODELS = ("vit_base_patch16_224", "hf:gpt2", "hf:bert", "mixer_s32_224")
"""A fused projection, weights of (inputs, outputs), separate projections, and tokens that are mixed."""
FORMATS = (TensorTrain(2), Tucker(2), CP(3), MatrixBatch(2))


@pytest.fixture
def formed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Form the effective weights of all layers at once, as on a GPU, and count them; one entry for each time."""
    monkeypatch.setattr(Kind, "at_once", lambda *_: True)
    counted: list[int] = []
    sums = effective.EffectiveWeights._sums

    def counting(self: effective.EffectiveWeights, *arguments: Any) -> effective.Sums:
        found = sums(self, *arguments)
        counted.append(len(found.effective))
        return found

    monkeypatch.setattr(effective.EffectiveWeights, "_sums", counting)
    return counted


@pytest.fixture(params=["at once", "in each call"])
def placed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Form the effective weights of all layers at once, as on a GPU, or in the call of each, as on a CPU."""
    monkeypatch.setattr(Kind, "at_once", lambda *_: request.param == "at once")


def adapted(
    name: str, format: Format, dtype: torch.dtype = torch.float64, **options: Any
) -> tuple[Any, dict[str, Any]]:
    model = member(name).to(dtype)
    example = example_of(model)
    draw(adapt(model, plan_for(model), format, train_head=False, seed=0, scale=1.0, check=False, **options))
    inputs = {f"{at}": value for at, value in enumerate(example.arguments)} | dict(example.keywords)
    if name == "hf:gpt2":
        inputs["use_cache"] = False
    return model, {n: v.to(dtype) if isinstance(v, Tensor) and v.is_floating_point() else v for n, v in inputs.items()}


def outputs(model: Any, inputs: dict[str, Any]) -> Tensor:
    positional = [value for name, value in inputs.items() if name.isdigit()]
    found = model(*positional, **{name: value for name, value in inputs.items() if not name.isdigit()})
    return cast("Tensor", found if isinstance(found, Tensor) else found[0])


def gradients(model: nn.Module, output: Tensor) -> list[Tensor]:
    parameters = [p for p in model.parameters() if p.requires_grad]
    return list(torch.autograd.grad(output.square().mean(), parameters))


def same(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-10) -> bool:
    pairs = [(a.detach(), b.detach()) for a, b in zip(found, expected, strict=True)]
    return all(float((a - b).abs().max()) <= tolerance * float(b.abs().max()) for a, b in pairs)


@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_outputs_and_gradients_are_those_of_narrow_products(name: str, format: Format, formed: list[int]) -> None:
    narrow, inputs = adapted(name, format, route="activation")
    expected = outputs(narrow, inputs)
    assert not formed
    model, _ = adapted(name, format, route="formed")
    found = outputs(model, inputs)
    adapter = cast("Adapter", model.tensorfact)
    assert sum(formed) == len(adapter.resolved.parameters)  # each once in a pass
    assert same([found], [expected])
    assert same(gradients(model, found), gradients(narrow, expected))
    with torch.no_grad():
        unrecorded = outputs(model, inputs)
        adapter.merge()
        assert same([unrecorded, outputs(model, inputs)], [expected, expected])


@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_a_layer_on_a_cpu_forms_its_own_weight(name: str, format: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    narrow, inputs = adapted(name, format, route="activation")
    expected = outputs(narrow, inputs)
    model, _ = adapted(name, format, route="formed")
    counted: list[bool] = []
    form = Halves.added_to

    def counting(*of: Any, **how: Any) -> Tensor:
        counted.append(True)
        return form(*of, **how)

    monkeypatch.setattr(Halves, "added_to", counting)
    found = outputs(model, inputs)
    adapter = cast("Adapter", model.tensorfact)
    assert len(counted) == len(adapter.resolved.parameters)
    assert same([found], [expected])
    assert same(gradients(model, found), gradients(narrow, expected))
    assert len(counted) > len(adapter.resolved.parameters)  # again in the backward pass, and none is kept
    with torch.no_grad():
        unrecorded = outputs(model, inputs)
        adapter.merge()
        assert same([unrecorded, outputs(model, inputs)], [expected, expected])


@pytest.mark.usefixtures("placed")
def test_every_pass_forms_anew_from_what_the_model_holds() -> None:
    model, inputs = adapted("vit_base_patch16_224", TensorTrain(2), route="formed")
    narrow, _ = adapted("vit_base_patch16_224", TensorTrain(2), route="activation")
    for change in range(3):
        for each in (model, narrow):
            with torch.no_grad():
                name = next(iter(each.tensorfact.resolved.parameters)) if change else ""
                changed = each.get_parameter(name) if change else next(each.tensorfact.parameters())
                changed.copy_(changed * 1.5 + change)
            if change == 2:
                each.blocks[0].attn.qkv._parameters["weight"] = nn.Parameter(changed + 0.1, requires_grad=False)
        assert same([outputs(model, inputs)], [outputs(narrow, inputs)])
    doubled = copy.deepcopy(model)
    with torch.no_grad():
        next(doubled.tensorfact.parameters()).mul_(2)
        next(narrow.tensorfact.parameters()).mul_(2)
    assert same([outputs(doubled, inputs)], [outputs(narrow, inputs)])
    state = {name: value.detach() * 1.1 for name, value in model.state_dict().items()}
    with torch.no_grad():
        swapped = [torch.func.functional_call(each, state, tuple(inputs.values())) for each in (model, narrow)]
    assert same(swapped[:1], swapped[1:])


@pytest.mark.usefixtures("formed")
def test_no_effective_weight_outlives_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = adapted("vit_base_patch16_224", TensorTrain(2), route="formed")
    found: list[weakref.ref[Tensor]] = []
    of = effective.Sums.of

    def noting(self: effective.Sums, at: int, weight: Tensor) -> Tensor | None:
        tensor = of(self, at, weight)
        assert tensor is not None
        found.append(weakref.ref(tensor))
        return tensor

    monkeypatch.setattr(effective.Sums, "of", noting)
    gradients(model, outputs(model, inputs))
    with torch.no_grad():
        outputs(model, inputs)
    gc.collect()
    assert found
    assert not [ref for ref in found if ref() is not None]


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_forms_what_a_layer_runs_again_with(reentrant: bool, formed: list[int]) -> None:
    model, inputs = adapted("vit_base_patch16_224", TensorTrain(2), route="formed")
    (x,) = inputs.values()
    expected = gradients(model, model(x))
    before = len(formed)
    model.set_grad_checkpointing()
    if reentrant:
        found = gradients_of_run(model, checkpoint(model, x.requires_grad_(), use_reentrant=True))
    else:
        found = gradients_of_run(model, model(x))
    assert len(formed) > before
    assert same(found, expected)


def gradients_of_run(model: nn.Module, output: Tensor) -> list[Tensor]:
    model.zero_grad()
    torch.autograd.backward(output.square().mean())
    return [p.grad for p in model.parameters() if p.requires_grad and p.grad is not None]


def test_autocast_rounds_the_sum_once_as_it_rounds_a_merged_weight() -> None:
    model, inputs = adapted("vit_base_patch16_224", TensorTrain(2), torch.float32, route="formed")
    with torch.autocast("cpu", torch.bfloat16):
        trained = outputs(model, inputs)
        assert all(bool(g.isfinite().all()) for g in gradients(model, trained.float()))
        with torch.no_grad():
            unrecorded = outputs(model, inputs)
            cast("Adapter", model.tensorfact).merge()
            merged = outputs(model, inputs)
    assert torch.equal(trained, unrecorded)
    assert float((trained - merged).detach().abs().max()) <= 0.02 * float(merged.abs().max())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision_takes_narrow_products(dtype: torch.dtype, formed: list[int]) -> None:
    narrow, inputs = adapted("vit_base_patch16_224", TensorTrain(2), dtype, route="activation")
    model, _ = adapted("vit_base_patch16_224", TensorTrain(2), dtype, route="formed")
    assert torch.equal(outputs(model, inputs), outputs(narrow, inputs))
    assert not formed


@pytest.mark.usefixtures("placed")
@pytest.mark.parametrize("options", [{"dropout": 0.3}, {"recompute": True}, {"subtract_start": True}])
def test_options_of_the_adapter_mean_the_same(options: dict[str, Any]) -> None:
    found = []
    for route in ("formed", "activation"):
        model, inputs = adapted("vit_base_patch16_224", TensorTrain(2), route=route, **options)
        torch.manual_seed(0)
        model.train()
        output = outputs(model, inputs)
        found.append([output.detach(), *gradients(model, output)])
    assert same(found[0], found[1])


@pytest.mark.usefixtures("placed")
@pytest.mark.parametrize("frozen", range(3))
def test_a_frozen_core_gets_no_gradient(frozen: int) -> None:
    found = []
    for route in ("formed", "activation"):
        model, inputs = adapted("vit_base_patch16_224", TensorTrain(2), route=route)
        list(model.tensorfact.parameters())[frozen].requires_grad_(False)
        found.append(gradients(model, outputs(model, inputs)))
    assert len(found[0]) == len(list(model.tensorfact.parameters())) - 1
    assert same(found[0], found[1])


@pytest.mark.usefixtures("placed")
def test_second_derivatives_are_those_of_narrow_products() -> None:
    found = []
    for route in ("formed", "activation"):
        model, inputs = adapted("vit_base_patch16_224", TensorTrain(2), route=route)
        (x,) = inputs.values()
        with sdpa_kernel(SDPBackend.MATH):
            (to_x,) = torch.autograd.grad(outputs(model, {"0": x.requires_grad_()}).sum(), x, create_graph=True)
            found.append(gradients(model, to_x))
    assert same(found[0], found[1])


def test_a_trained_base_weight_gets_its_gradient(formed: list[int]) -> None:
    found = []
    for route in ("formed", "activation"):
        model, inputs = adapted("vit_base_patch16_224", TensorTrain(2), route=route)
        for name in model.tensorfact.resolved.parameters:
            model.get_parameter(name).requires_grad_(True)
        found.append(gradients(model, outputs(model, inputs)))
    assert same(found[0], found[1])
    assert not formed


@pytest.mark.usefixtures("placed")
def test_the_backward_pass_keeps_no_narrow_product(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[list[Tensor | None]] = []
    backward = AdaptedLayer.backward

    def noting(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        kept.append(list(ctx.saved_tensors))
        return backward(ctx, *gradients)

    monkeypatch.setattr(AdaptedLayer, "backward", staticmethod(noting))
    model, inputs = adapted("vit_base_patch16_224", TensorTrain(2), route="formed")
    gradients(model, outputs(model, inputs))
    assert kept
    assert all(saved[4] is None for saved in kept)
    assert any(saved[5] is not None for saved in kept) == Kind.at_once(cast("Kind", None), "cpu")


def test_a_weight_that_gets_other_memory_during_a_pass_is_read_as_it_is(formed: list[int]) -> None:
    """As a hook that streams weights from elsewhere does, before its layer runs."""

    def output(route: Any) -> Tensor:
        torch.manual_seed(0)
        model = nn.Sequential(*(nn.Linear(16, 16) for _ in range(3)))
        adapter = adapt(model, plan_by_shape(model), TensorTrain(2), route=route, train_head=False, check=False, seed=0)
        draw(adapter)
        streamed = {layer: torch.randn(16, 16) for layer in list(model)[:3]}
        for layer in streamed:
            layer.register_forward_pre_hook(lambda m, _: setattr(m._parameters["weight"], "data", streamed[m]))
        return cast("Tensor", model(torch.ones(4, 16)))

    assert difference(output("formed"), output("weight")) < 1e-5
    assert formed


@pytest.mark.parametrize("route", ["activation", "formed", "weight"])
def test_a_frozen_weight_is_kept_only_for_the_gradient_of_the_input(route: Any) -> None:
    layers = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])
    adapter = adapt(layers, plan_by_shape(layers), TensorTrain(2), route=route, train_head=False, check=False, seed=0)
    found = torch.stack([layer(torch.ones(4, 6)) for layer in list(layers)[:2]]).sum()
    with torch.no_grad():
        for layer in list(layers)[:2]:
            cast("Tensor", layer._parameters["weight"]).mul_(2)
    torch.autograd.backward(found)
    assert any(core.grad is not None for core in adapter.parameters())
