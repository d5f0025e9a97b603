"""The routes, chosen without the user knowing, stay right under everything torch does to a model."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tensorfact import Adapter, TensorTrain, adapt, plan_for
from tensorfact.model.outputs import numbers
from tests.helpers import difference, draw
from tests.plan.families.members import example_of, member

MODELS = ("vit_base_patch16_224", "beit_base_patch16_224", "convnextv2_atto", "hf:gpt2", "hf:bert", "torch:Transformer")
"""Layers that are called, a fused weight that is read, convolutions, transposed layers, and `in_proj_weight`."""


def adapted(name: str, **options: Any) -> tuple[nn.Module, tuple[Any, ...], Mapping[str, Any]]:
    model = member(name)
    example = example_of(model)
    draw(adapt(model, plan_for(model), TensorTrain(2), train_head=False, seed=0, **options))
    keywords = dict(example.keywords)
    if name == "hf:gpt2":
        keywords["use_cache"] = False
    return model, example.arguments, keywords


def run(model: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Tensor:
    with torch.no_grad():
        return numbers(model(*arguments, **keywords))


def gradients(model: nn.Module, output: object) -> dict[str, Tensor]:
    loss: Any = numbers_with_grad(output).square().mean()
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def numbers_with_grad(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output.flatten()
    values = output.values() if isinstance(output, dict) else output
    return torch.cat([numbers_with_grad(value) for value in values if isinstance(value, (Tensor, tuple, dict))])


@pytest.mark.parametrize("name", MODELS)
def test_routes_are_chosen_by_the_layer_and_agree(name: str) -> None:
    model, arguments, keywords = adapted(name)
    adapter = cast("Adapter", model.tensorfact)
    expected = run(model, arguments, keywords)
    weight, *_ = adapted(name, route="weight")
    assert difference(run(weight, arguments, keywords), expected) < 1e-4
    for parameter in adapter.resolved.parameters:
        module = model.get_submodule(parameter.rpartition(".")[0])
        kind = adapter._slots[parameter].increment.kind
        linear = isinstance(module, nn.Linear) or type(module).__name__ == "AdaptedConv1D"
        convolved = isinstance(module, nn.Conv2d) and module.groups == 1 and kind.halves is not None
        called = linear or convolved
        cheaper = kind.apply_is_faster if called else False
        assert (parameter in adapter._links.activation) == (called and cheaper)


@pytest.mark.parametrize("name", [MODELS[0], *(pytest.param(name, marks=pytest.mark.slow) for name in MODELS[1:])])
def test_a_compiled_model_is_the_same(name: str) -> None:
    torch._dynamo.reset()
    model, arguments, keywords = adapted(name)
    compiled = torch.compile(model, backend="eager", fullgraph=not name.startswith("torch:"))
    assert difference(run(compiled, arguments, keywords), run(model, arguments, keywords)) < 1e-5


@pytest.mark.parametrize("name", MODELS)
def test_a_copy_and_a_functional_call_are_the_same(name: str) -> None:
    model, arguments, keywords = adapted(name)
    expected = run(model, arguments, keywords)
    assert torch.equal(run(copy.deepcopy(model), arguments, keywords), expected)
    state = {n: t.detach() for n, t in model.state_dict().items()}
    with torch.no_grad():
        called = torch.func.functional_call(model, state, arguments, dict(keywords))
    assert torch.equal(numbers(called), expected)
    zeroed = {n: torch.zeros_like(t) if n.startswith("tensorfact.") else t for n, t in state.items()}
    with torch.no_grad():
        plain = torch.func.functional_call(model, zeroed, arguments, dict(keywords))
    with cast("Adapter", model.tensorfact).disabled():
        assert difference(numbers(plain), run(model, arguments, keywords)) < 1e-6


@pytest.mark.parametrize("name", MODELS)
def test_checkpointing_gives_the_same_gradients(name: str) -> None:
    model, arguments, keywords = adapted(name)
    expected = gradients(model, model(*arguments, **keywords))
    again = gradients(model, checkpoint(model, *arguments, use_reentrant=False, **keywords))
    assert expected.keys() == again.keys()
    assert all(difference(again[n], expected[n]) < 1e-5 for n in expected)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
@pytest.mark.parametrize("name", ["hf:gpt2", "hf:bert"])
def test_the_checkpointing_of_transformers_gives_the_same_gradients(name: str) -> None:
    model, arguments, keywords = adapted(name)
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    expected = gradients(model, model(*arguments, **keywords))
    cast("Any", model).gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    again = gradients(model, model(*arguments, **keywords))
    assert expected.keys() == again.keys()
    assert all(difference(again[n], expected[n]) < 1e-4 for n in expected)


@pytest.mark.parametrize("name", MODELS)
def test_autocast_is_as_exact_as_on_the_merged_model(name: str) -> None:
    model, arguments, keywords = adapted(name)
    exact = run(model, arguments, keywords)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        adapted_output = run(model, arguments, keywords)
    cast("Adapter", model.tensorfact).merge()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        merged_output = run(model, arguments, keywords)
    assert difference(adapted_output, exact) < 2 * difference(merged_output, exact) + 1e-2


EXPORTED = ("beit_base_patch16_224", "convnextv2_atto", "hf:bert")


@pytest.mark.parametrize("name", [MODELS[0], *(pytest.param(name, marks=pytest.mark.slow) for name in EXPORTED)])
def test_an_exported_program_is_the_same(name: str) -> None:
    model, arguments, keywords = adapted(name)
    program = torch.export.export(model, arguments, dict(keywords))
    assert difference(run(program.module(), arguments, keywords), run(model, arguments, keywords)) < 1e-5


def test_the_layer_of_gpt2_is_bit_for_bit_its_own_without_an_increment() -> None:
    model = member("hf:gpt2")
    example = example_of(model)
    with torch.no_grad():
        expected = numbers(model(*example.arguments, **example.keywords))
        adapter = adapt(model, plan_for(model), TensorTrain(2), route="activation", seed=0)
        assert {choice.route for choice in adapter.explain().choices} == {"activation"}
        assert torch.equal(numbers(model(*example.arguments, **example.keywords)), expected)
    layer = cast("Any", model).h[0].attn.c_attn
    x = torch.randn(5, layer.nx, generator=torch.Generator().manual_seed(0))
    draw(adapter)
    assert difference(layer(x), x @ layer.weight + layer.bias) < 1e-5
