"""Adapted modules: reading a parameter gives the effective weight, calling a linear layer agrees with it."""

from __future__ import annotations

import copy
import io
import multiprocessing
import pickle
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tensorfact import CP, Adapter, Group, MatrixBatch, Rule, TensorizationPlan, TensorTrain, Tucker, adapt, plan_for
from tensorfact.adapters.options import Route
from tensorfact.errors import AdaptError
from tensorfact.lab import nano
from tests.helpers import (
    TT,
    bits,
    difference,
    draw,
    infer,
    layers,
    layers_plan,
    randomise,
    refused,
    state_bits,
)


class Holder(nn.Module):
    """One module under a name."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def adapted(module: nn.Module, pattern: str, modes: str, param: str = "weight", **options: Any) -> Adapter:
    """Adapt one parameter of a module held as `module`, with factors that change it."""
    holder = Holder(module)
    plan = TensorizationPlan((Group("g", modes, (Rule(f"module.{param}", pattern),)),))
    adapter = cast("Adapter", adapt(holder, plan, TensorTrain(1), seed=0, **options))
    draw(adapter, size=1.0)
    return adapter


MODULES: list[Any] = [
    pytest.param(lambda: nn.Linear(6, 4), "out in", "in out", "weight", (3, 6), id="linear"),
    pytest.param(lambda: nn.Linear(6, 4), "out", "out", "bias", (3, 6), id="bias of a linear layer"),
    pytest.param(lambda: nn.Bilinear(3, 4, 2), "out a b", "a b out", "weight", None, id="bilinear"),
    pytest.param(lambda: nn.Embedding(5, 4, padding_idx=0), "token in", "token in", "weight", None, id="embedding"),
    pytest.param(lambda: nn.Conv1d(4, 6, 3), "out in k", "(in k) out", "weight", (2, 4, 5), id="conv1d"),
    pytest.param(lambda: nn.Conv2d(4, 6, 3), "out in kh kw", "(in kh kw) out", "weight", (2, 4, 5, 5), id="conv2d"),
    pytest.param(
        lambda: nn.Conv2d(4, 4, 3, groups=4), "out 1 kh kw", "(kh kw) out", "weight", (2, 4, 5, 5), id="depthwise"
    ),
    pytest.param(
        lambda: nn.ConvTranspose2d(4, 6, 2), "in out a b", "in (out a b)", "weight", (2, 4, 3, 3), id="transposed"
    ),
    pytest.param(lambda: nn.LayerNorm(6), "out", "out", "weight", (3, 6), id="layer norm"),
    pytest.param(lambda: nn.BatchNorm1d(6).eval(), "out", "out", "weight", (3, 6), id="batch norm"),
    pytest.param(lambda: nn.PReLU(6), "out", "out", "weight", (3, 6), id="prelu"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "pattern", "modes", "param", "shape"), MODULES)
def test_any_module_is_adapted_as_if_its_weight_were_replaced(
    make: Any, pattern: str, modes: str, param: str, shape: tuple[int, ...] | None
) -> None:
    module = randomise(make()).double()
    x: tuple[Tensor, ...] = (torch.randn(shape, dtype=torch.float64),) if shape else (torch.tensor([[1, 4], [0, 2]]),)
    if isinstance(module, nn.Bilinear):
        x = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    plain = copy.deepcopy(module)
    adapter = adapted(module, pattern, modes, param)
    with torch.no_grad():
        getattr(plain, param).add_(adapter.delta(f"module.{param}"))
    assert adapter.delta(f"module.{param}").abs().max() > 0.01
    assert difference(getattr(module, param), getattr(plain, param)) < 1e-12
    assert difference(module(*x), plain(*x)) < 1e-12


@pytest.mark.parametrize(("make", "pattern", "modes", "param", "shape"), MODULES)
def test_a_module_keeps_its_type_its_state_and_its_parameters(
    make: Any, pattern: str, modes: str, param: str, shape: object
) -> None:
    module = randomise(make())
    parameters, keys, kind = dict(module.named_parameters()), list(module.state_dict()), type(module)
    base = bits(getattr(module, param))
    adapter = adapted(module, pattern, modes, param)
    assert isinstance(module, kind)
    assert list(module.state_dict()) == keys
    assert bits(module.state_dict()[param]) == base
    assert {name: id(p) for name, p in module.named_parameters()} == {name: id(p) for name, p in parameters.items()}
    assert kind.__name__ in repr(module)
    adapter.remove()
    assert type(module) is kind
    assert bits(getattr(module, param)) == base


@pytest.mark.parametrize("route", ["auto", "weight"])
def test_weight_and_bias_of_one_layer_may_both_be_adapted(route: Any) -> None:
    module = randomise(nn.Linear(6, 4)).double()
    groups = (
        Group("w", "in out", (Rule("module.weight", "out in"),)),
        Group("b", "out", (Rule("module.bias", "out"),)),
    )
    adapter = adapt(Holder(module), TensorizationPlan(groups), TensorTrain(1), route=route)
    draw(adapter, size=1.0)
    state, x = module.state_dict(), torch.randn(3, 6, dtype=torch.float64)
    weight, bias = (state[name] + adapter.delta(f"module.{name}") for name in ("weight", "bias"))
    assert difference(module(x), F.linear(x, weight, bias)) < 1e-12


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(6,), (0, 6), (1, 6), (2, 3, 6), (2, 0, 6)])
def test_a_linear_layer_takes_inputs_of_any_shape(shape: tuple[int, ...], bias: bool) -> None:
    module = randomise(nn.Linear(6, 4, bias=bias)).double()
    plain = copy.deepcopy(module)
    adapter = adapted(module, "out in", "in out", route="activation")
    with torch.no_grad():
        plain.weight.add_(adapter.delta("module.weight"))
    x = torch.randn(shape, dtype=torch.float64)
    assert module(x).shape == plain(x).shape
    assert not x.numel() or difference(module(x), plain(x)) < 1e-12


def test_a_linear_layer_with_a_forward_of_its_own_keeps_it() -> None:
    class Doubling(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * F.linear(input, self.weight, self.bias)

    size = 384  # large enough for the activation route in a plain layer
    assert adapted(nn.Linear(size, size), "out in", "in out").explain(64).choices[0].route == "activation"
    module = randomise(Doubling(size, size)).double()
    with refused(AdaptError, "route='activation'", "Doubling"):
        adapted(module, "out in", "in out", route="activation")
    plain = copy.deepcopy(module)
    adapter = adapted(module, "out in", "in out")
    with torch.no_grad():
        plain.weight.add_(adapter.delta("module.weight"))
    x = torch.randn(3, size, dtype=torch.float64)
    assert difference(module(x), plain(x)) < 1e-12


def test_hooks_stay() -> None:
    module, seen = nn.Linear(6, 4), []
    module.register_forward_hook(lambda *arguments: seen.append("forward"))
    module.register_forward_pre_hook(lambda *arguments: seen.append("before"))
    adapter = adapted(module, "out in", "in out")
    module(torch.randn(2, 6))
    adapter.remove()
    module(torch.randn(2, 6))
    assert seen == ["before", "forward"] * 2


@pytest.mark.parametrize("make", [lambda: nn.Linear(384, 384), lambda: Conv1D(384, 384)])
def test_a_forward_method_that_was_kept_works_after_removal(make: Callable[[], nn.Module]) -> None:
    """accelerate's hooks keep the method of the layer as they found it."""
    module, x = make(), torch.randn(2, 384)
    expected = module(x)
    adapter = adapted(module, "out in" if isinstance(module, nn.Linear) else "in out", "in out")
    kept = module.forward
    assert difference(kept(x), expected) > 1e-3
    adapter.remove()
    assert torch.equal(kept(x), expected)


def test_an_adapted_parameter_can_still_be_assigned() -> None:
    """Code that loads or ties weights after `adapt` writes to the base parameter."""
    module = nn.Linear(6, 4, bias=False)
    adapter = adapted(module, "out in", "in out")
    new = nn.Parameter(torch.zeros(4, 6))
    module.weight = new
    assert difference(module.weight, adapter.delta("module.weight")) < 1e-6
    assert module.state_dict()["weight"].data_ptr() == new.data_ptr()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_an_effective_weight_is_computed_wide_and_rounded_once(dtype: torch.dtype) -> None:
    module = randomise(nn.Linear(6, 4)).to(dtype)
    base = module.weight.detach().clone()
    adapter = adapted(module, "out in", "in out", scale=0.37)
    wide = torch.promote_types(dtype, torch.float32)
    exact = base.to(wide) + adapter.delta("module.weight").to(wide)
    assert adapter.delta("module.weight").dtype == wide
    assert module.weight.dtype == dtype
    assert difference(module.weight, exact.to(dtype)) <= torch.finfo(dtype).eps
    if dtype in (torch.float16, torch.bfloat16):  # rounding once leaves at most half a unit in the last place
        error = (module.weight.double() - exact.double()).abs()
        assert bool((error <= 0.5001 * torch.finfo(dtype).eps * exact.double().abs() + 1e-7).all())


@pytest.mark.parametrize("route", ["activation", "formed", "weight"])
@pytest.mark.parametrize("kind", [TensorTrain, Tucker, CP, MatrixBatch])
def test_autocast_gives_the_base_layer_s_dtype(kind: Any, route: Any) -> None:
    model = randomise(layers())
    x = torch.randn(5, 6)
    with torch.autocast("cpu", torch.bfloat16):
        expected = model(x)
        adapter = adapt(model, layers_plan(), kind(2), route=route, seed=0)
        assert model(x).dtype == expected.dtype == torch.bfloat16
        assert torch.equal(model(x), expected)
    draw(adapter)
    wide = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(x).dtype == torch.bfloat16
        assert difference(model(x).float(), wide) < 0.05
        model(x).float().square().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in adapter.parameters())


def test_reading_a_weight_backpropagates_into_the_factors_alone() -> None:
    module = nn.Linear(6, 4)
    adapter = adapted(module, "out in", "in out")
    module.weight.sum().backward()  # type: ignore[no-untyped-call]
    assert module._parameters["weight"].grad is None  # type: ignore[union-attr]
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in adapter.parameters())


def test_one_class_serves_all_modules_of_a_kind() -> None:
    model = layers(depth=3)
    adapt(model, layers_plan(), TensorTrain(1))
    assert len({type(module) for module in model if isinstance(module, nn.Linear)}) == 1


def test_a_base_layer_in_bf16_takes_an_fp32_input_of_its_own_dtype_only() -> None:
    """The adapter adds no cast: inputs that the base layer rejects are still rejected."""
    model = layers().to(torch.bfloat16)
    adapt(model, layers_plan(), TensorTrain(1), route="activation")
    with pytest.raises(RuntimeError, match="dtype"):
        infer(model, torch.randn(2, 6))


# ------------------------------------------------------------------------------------------------------------- pickling


def _pickled(model: nn.Module) -> nn.Module:
    return cast("nn.Module", pickle.loads(pickle.dumps(model)))  # noqa: S301


def _saved(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return cast("nn.Module", torch.load(file, weights_only=False))


@pytest.mark.parametrize("copied", [_pickled, _saved, copy.deepcopy])
@pytest.mark.parametrize("route", ["activation", "formed", "weight"])
@pytest.mark.parametrize("make", [lambda: nano(), lambda: layers(3)])
def test_an_adapted_model_is_pickled(make: Any, route: Any, copied: Any) -> None:
    model = make().eval()
    plan = layers_plan() if isinstance(model, nn.Sequential) else plan_for(model)
    adapter = adapt(model, plan, TensorTrain(2), route=route, seed=0)
    draw(adapter)
    x = torch.randn(2, 6) if isinstance(model, nn.Sequential) else torch.randn(2, 1, 28, 28)
    expected = infer(model, x)
    other = copied(model)
    assert torch.equal(infer(other, x), expected)
    assert {type(module) for module in other.modules()} == {type(module) for module in model.modules()}
    with torch.no_grad():
        for core in other.tensorfact.parameters():
            core.mul_(2)
    assert difference(infer(other, x), expected) > 1e-4
    assert torch.equal(infer(model, x), expected)
    other.tensorfact.merge()
    other.tensorfact.unmerge()
    other.tensorfact.remove()
    adapter.remove()
    assert torch.equal(infer(other, x), infer(model, x))


def _in_another_process(model: nn.Module, x: Tensor, out: Any) -> None:
    out.put(infer(model, x).numpy())


@pytest.mark.slow
def test_an_adapted_model_goes_to_a_spawned_process() -> None:
    model = randomise(layers(3)).eval()
    draw(adapt(model, layers_plan(), TensorTrain(2), seed=0))
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    process = context.Process(target=_in_another_process, args=(model, torch.ones(1, 6), out))
    process.start()
    found = out.get(timeout=120)
    process.join()
    assert difference(torch.from_numpy(found), infer(model, torch.ones(1, 6))) < 1e-6


@pytest.mark.parametrize(
    "write",
    [
        lambda weight: weight.copy_(torch.ones(())),
        lambda weight: weight.data.copy_(torch.ones(())),
        lambda weight: weight.__setitem__(0, 1.0),
        lambda weight: weight.mul_(2),
        nn.init.zeros_,
        nn.init.kaiming_uniform_,
        nn.init.trunc_normal_,
        lambda weight: setattr(weight, "data", weight + 1),
    ],
)
@pytest.mark.parametrize("route", ["activation", "formed", "weight"])
def test_writing_through_the_weight_of_a_layer_is_refused(write: Callable[[Tensor], object], route: Route) -> None:
    model = layers()
    adapter = adapt(model, layers_plan(), TT, route=route)
    draw(adapter)
    before, expected = state_bits(model), infer(model, torch.ones(1, 6))
    with torch.no_grad(), refused(AdaptError, "layer.weight", "model.get_parameter(name)"):
        write(cast("Tensor", model[0].weight))
    assert state_bits(model) == before
    with torch.no_grad():
        model.get_parameter("0.weight").mul_(2)
    assert not torch.equal(infer(model, torch.ones(1, 6)), expected)
    assert type(cast("Tensor", model[0].weight) + 1) is Tensor
