"""Convolutions add their increment in their calls: two narrow convolutions, or the effective weight."""

from __future__ import annotations

import copy
import pickle
import types
from typing import Any, cast

import pytest
import timm
import torch
from torch import Tensor, nn

from tensorfact import CP, Adapter, Format, MatrixBatch, TensorTrain, Tucker, adapt, plan_by_shape, plan_for
from tensorfact.adapters.increments import Kind
from tensorfact.adapters.increments.convolution import Convolution
from tensorfact.adapters.options import Route
from tensorfact.errors import AdaptError
from tests.helpers import difference, draw, refused

FORMATS = (TensorTrain(2), Tucker(2), CP(2), MatrixBatch(2))
ROUTES: tuple[Route, ...] = ("weight", "activation", "formed")
CHANNELS = 24


def stack(kind: Any = nn.Conv2d, kernel: int = 3, **options: Any) -> nn.Module:
    torch.manual_seed(1)
    first = kind(CHANNELS, CHANNELS, kernel, **options)
    second = kind(CHANNELS, CHANNELS, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(first, nn.ReLU(), second).double()


def adapted(model: nn.Module, format: Format = FORMATS[0], route: Route = "auto", **options: Any) -> Adapter:
    options |= {"scale": 1.0, "train_head": False, "seed": 0, "check": False}
    adapter: Adapter = adapt(model, plan_by_shape(model), format, route=route, **options)
    draw(adapter)
    return adapter


def samples(*shape: int) -> Tensor:
    return torch.randn(2, CHANNELS, *shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def computed(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Return the output, that without gradients, and the gradients of the input and of all trained parameters."""
    x = x.clone().requires_grad_()
    output = model(x)
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).reshape(output.shape)
    trained = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad((output * weights).sum(), [x, *trained])
    with torch.no_grad():
        return [output.detach(), model(x.detach()), *found]


def agree(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-9) -> bool:
    pairs = zip(found, expected, strict=True)
    return all(float((a - b).abs().max()) <= tolerance * float(b.abs().max()) + 1e-30 for a, b in pairs)


def routes(adapter: Adapter, tokens: int = 1024) -> set[str]:
    return {choice.route for choice in adapter.explain(tokens).choices}


GEOMETRIES: list[dict[str, Any]] = [
    {"padding": 1},
    {"stride": 2, "padding": 1},
    {"padding": "same"},
    {"padding": "valid", "dilation": 2},
    {"stride": (3, 1), "padding": (0, 2), "kernel": 5},
    {"kernel": 1},
    {"kernel": 1, "stride": 2},
    {"kernel": 2, "padding": 1},
]


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_outputs_and_gradients_are_those_of_the_full_weight(
    geometry: dict[str, Any], at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Kind, "at_once", lambda *_: at_once)  # as on a GPU
    found = {}
    for route in ROUTES:
        model = stack(**geometry)
        adapter = adapted(model, route=route)
        assert routes(adapter) == {route}
        found[route] = computed(model, samples(13, 11))
    assert agree(found["activation"], found["weight"])
    assert agree(found["formed"], found["weight"])


@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize(("kind", "shape"), [(nn.Conv1d, (9,)), (nn.Conv2d, (6, 5)), (nn.Conv3d, (4, 5, 3))])
def test_every_format_agrees_in_every_dimension(kind: Any, shape: tuple[int, ...], format: Format) -> None:
    models = [stack(kind, stride=2, padding=1) for _ in ROUTES]
    adapters = [adapted(model, format, route) for model, route in zip(models, ROUTES, strict=True)]
    for x in (samples(*shape), samples(*shape)[0]):  # a batch, and one sample
        full, narrow, formed = (computed(model, x) for model in models)
        assert agree(narrow, full)
        assert agree(formed, full)
    x = samples(*shape)
    with torch.no_grad():
        expected = models[1](x)
        adapters[1].merge()
        assert difference(models[1](x), expected) < 1e-10


@pytest.mark.parametrize("options", [{"dropout": 0.3}, {"dropout": {"increment": 0.3}}, {"subtract_start": True}])
def test_options_of_the_adapter_mean_the_same(options: dict[str, Any]) -> None:
    found = []
    for route in ROUTES:
        model = stack()
        adapted(model, route=route, **options)
        torch.manual_seed(0)
        found.append(computed(model.train(), samples(6, 5))[:1])
    assert agree(found[1], found[0])
    assert agree(found[2], found[0])


@pytest.mark.parametrize("route", ROUTES)
def test_second_derivatives_are_those_of_plain_operations(route: Route) -> None:
    found = []
    for taken in cast("tuple[Route, ...]", ("weight", route)):
        model = stack(stride=2, padding=1)
        adapted(model, route=taken)
        x = samples(6, 5).requires_grad_()
        (to_x,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
        trained = [p for p in model.parameters() if p.requires_grad]
        found.append([each.detach() for each in torch.autograd.grad(to_x.square().sum(), trained)])
    assert agree(found[1], found[0])


@pytest.mark.parametrize("route", ["activation", "formed"])
def test_no_gradient_of_the_full_weight_is_computed(route: Route, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Tensor:
        raise AssertionError("the gradient of the full weight")

    monkeypatch.setattr(Convolution, "to_weight", refuse)
    model = stack()
    adapted(model, route=route)
    computed(model, samples(6, 5))


@pytest.mark.parametrize("route", ["activation", "formed"])
def test_a_trained_weight_gets_its_gradient(route: Route) -> None:
    found = []
    for taken in cast("tuple[Route, ...]", ("weight", route)):
        model = stack()
        adapted(model, route=taken)
        model.requires_grad_(True)
        found.append(computed(model, samples(6, 5)))
    assert agree(found[1], found[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("route", ["activation", "formed"])
def test_autocast_and_half_precision_are_close_to_the_full_weight(route: Route, dtype: torch.dtype) -> None:
    model, x = stack(padding=1).float(), samples(6, 5).float()
    adapter = adapted(model, route=route)
    expected = model(x).detach()
    with torch.autocast("cpu", dtype):
        found = computed(model, x)
    assert found[0].dtype == dtype
    assert difference(found[0].float(), expected) < 0.05
    assert all(bool(each.isfinite().all()) for each in found)
    adapter.remove()
    half = stack(padding=1).to(dtype)
    adapted(half, route=route)
    assert difference(half(x.to(dtype)).float(), expected) < 0.1


@pytest.mark.parametrize(
    ("options", "kernel"),
    [({"groups": 2}, 3), ({"padding": 1, "padding_mode": "reflect"}, 3), ({"padding": "same"}, 2)],
)
def test_other_convolutions_form_their_weight(options: dict[str, Any], kernel: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Conv2d(CHANNELS, CHANNELS, kernel, **options) for _ in range(2))).double()
    assert routes(adapted(copy.deepcopy(model))) == {"weight"}
    with refused(AdaptError, "'0.weight'", "Conv2d", "route='auto'"):
        adapted(model, route="activation")


def test_a_class_with_a_forward_of_its_own_forms_its_weight() -> None:
    class Padded(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(nn.functional.pad(x, (0, 1, 0, 1)))

    model = nn.Sequential(*(Padded(CHANNELS, CHANNELS, 2) for _ in range(2))).double()
    adapter = adapted(model)
    assert routes(adapter) == {"weight"}
    with torch.no_grad():
        expected = model(samples(6, 5))
        adapter.merge()
        assert difference(model(samples(6, 5)), expected) < 1e-10


def test_the_stride_is_that_of_the_layer_in_its_call() -> None:
    model = stack(padding=1)
    adapted(model, route="activation")
    model.get_submodule("0").stride = (2, 2)  # type: ignore[assignment]  # of the module
    full = stack(padding=1, stride=2)
    adapted(full, route="weight")
    assert agree(computed(model, samples(6, 5)), computed(full, samples(6, 5)))


def test_copies_and_channels_last_compute_the_same() -> None:
    model, x = stack(padding=1), samples(6, 5)
    adapted(model, route="formed")
    expected = computed(model, x)
    assert agree(computed(copy.deepcopy(model), x), expected)
    assert agree(computed(pickle.loads(pickle.dumps(model)), x), expected)  # noqa: S301  # our own
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    assert agree(computed(last, x.contiguous(memory_format=torch.channels_last)), expected)
    with torch.no_grad():
        cast("Adapter", last.tensorfact).merge()
        assert agree([last(x)], expected[:1])


def test_compiled_and_transformed_models_compute_the_same() -> None:
    model, x = stack(stride=2, padding=1).eval(), samples(6, 5)
    adapted(model, route="formed")
    expected = model(x).detach()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert difference(compiled(x).detach(), expected) < 1e-10
    each = torch.func.vmap(lambda one: model(one[None])[0])(x)
    assert difference(each.detach(), expected) < 1e-10


@pytest.mark.parametrize("name", ["resnet26", "efficientnet_b0", "convnext_atto"])
def test_networks_of_timm_agree_with_their_merged_model(name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3).eval().double()
    adapter = adapt(model, plan_for(model), TensorTrain(2), seed=0, scale=1.0)
    draw(adapter)
    assert "formed" in routes(adapter)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        found = model(x)
        adapter.merge()
        assert difference(model(x), found) < 1e-9
    adapter.unmerge()
    assert all(bool(each.isfinite().all()) for each in computed(model, x))


def test_explain_measures_both_routes_of_a_convolution() -> None:
    model = stack()
    choices = adapted(model, route="formed").explain(64, measure=True).choices
    assert [choice.otherwise and choice.otherwise.route for choice in choices] == ["activation"] * len(choices)
    assert all(choice.otherwise is not None and choice.otherwise.measured is not None for choice in choices)


def pair() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1))


def _tiled(self: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    padded = nn.functional.pad(x, (1, 1, 0, 0), mode="circular")
    return nn.functional.conv2d(padded, weight, bias, self.stride, (1, 0))


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("change", ["method", "padding mode", "numbers"])
def test_what_a_layer_computes_now_is_what_is_adapted(change: str, after: bool) -> None:
    """As scripts that make diffusion models tile do."""

    def changed(model: nn.Sequential) -> nn.Sequential:
        for layer in cast("list[Any]", list(model)[:2]):
            if change == "method":
                layer._conv_forward = types.MethodType(_tiled, layer)
            elif change == "padding mode":
                layer.padding_mode = "circular"
            else:
                layer.stride, layer.padding, layer.dilation = 2, 1, (1,)
        return model

    x = torch.randn(2, 32, 8, 8)
    expected = changed(pair())(x)
    model = pair() if after else changed(pair())
    adapter = adapt(model, plan_by_shape(model), TensorTrain(4), train_head=False, seed=0, check=False)
    model = changed(model) if after else model
    assert difference(model(x), expected) < 1e-5
    with adapter.disabled():
        assert difference(model(x), expected) < 1e-5
    draw(adapter)
    found = model(x)
    torch.autograd.backward(found.sum())
    assert all(core.grad is not None for core in adapter.parameters())
    assert adapter.explain(64, measure=True).choices
    adapter.merge()
    assert difference(model(x), found) < 1e-3


@pytest.mark.parametrize("route", ["activation", "formed", "weight"])
def test_channels_are_those_of_the_weight(route: Route) -> None:
    """A first layer whose weight was summed over colours, without a change of `in_channels`."""
    model = nn.Sequential(nn.Conv2d(3, 32, 7), nn.Conv2d(3, 32, 7))
    for layer in cast("list[nn.Conv2d]", list(model)):
        layer.weight = nn.Parameter(layer.weight.sum(1, keepdim=True))
    adapter = adapt(model, plan_by_shape(model), MatrixBatch(4), route=route, train_head=False, check=False)
    x = torch.randn(2, 1, 16, 16)
    draw(adapter)
    total = sum(layer(x) for layer in list(model)[:2])
    assert isinstance(total, Tensor)
    torch.autograd.backward(total.sum())
    before = total.detach()
    adapter.merge()
    assert difference(sum(layer(x) for layer in list(model)[:2]), before) < 1e-4
