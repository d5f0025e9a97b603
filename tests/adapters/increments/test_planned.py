"""Kinds: increments are planned once for all parameters of a kind, with small intermediate results."""

from __future__ import annotations

from typing import Any, cast

import opt_einsum
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tensorfact import MatrixBatch, TensorTrain, adapt
from tensorfact.adapters.increments import token_class
from tensorfact.network.order import planned
from tests.helpers import draw, infer, layers, layers_plan, randomise
from tests.layouts import KINDS, LAYOUTS, Layout, weights


@pytest.mark.parametrize(("tokens", "rounded"), [(0, 1), (1, 1), (2, 2), (3, 4), (197, 256), (256, 256), (257, 512)])
def test_orders_are_planned_once_a_power_of_two(tokens: int, rounded: int) -> None:
    assert token_class(tokens) == rounded
    adapter = adapt(layers(), layers_plan(), TensorTrain(2))
    increment = adapter._slots["0.weight"].increment
    assert increment.kind.applying(tokens) is increment.kind.applying(rounded)


class Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts matrix products, and operations on some tensors."""

    NAMES = ("mm", "addmm", "addmm_", "bmm", "baddbmm", "baddbmm_", "linear", "matmul", "einsum", "dot", "mv", "addmv")

    def __init__(self, *cores: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.cores = {id(core) for core in cores}
        self.count = self.reads = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket.__name__ in self.NAMES
        self.reads += any(id(argument) in self.cores for argument in args)
        return func(*args, **(kwargs or {}))


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the bytes of the largest storage that an operation returns and that was not there before."""

    def __init__(self, model: nn.Module, *others: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.known = {t.untyped_storage().data_ptr() for t in (*model.state_dict().values(), *others)}
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in self.known:
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("kind", KINDS)
def test_inference_adds_two_products_a_layer_and_forms_once_for_all_layers(kind: Any) -> None:
    forming, x = set(), torch.randn(3, 6)
    for depth in (4, 8):
        model = randomise(layers(depth))
        with torch.no_grad(), Products() as base:
            model(x)
        assert base.count == depth
        adapter = adapt(model, layers_plan(), kind(2), route="activation", seed=0, check=False)
        draw(adapter)
        model.eval()
        for _ in range(2):
            with torch.no_grad(), Products(*adapter.parameters()) as counted:
                model(x)
            forming.add((counted.count - 3 * depth, counted.reads))
    assert len(forming) == 1


@pytest.mark.parametrize("kind", [TensorTrain, MatrixBatch])
@pytest.mark.parametrize("name", ["plain", "fused", "down"])
def test_the_activation_route_forms_no_dense_increment(name: str, kind: Any) -> None:
    width = 256
    wide = {
        "plain": Layout(lambda: nn.Linear(width, width), width, "layer in out", "out in"),
        "fused": Layout(
            lambda: nn.Linear(width, 3 * width), width, "layer role in out", "(role out) in", role=["q", None, "v"]
        ),
        "down": Layout(
            lambda: nn.Linear(2 * width, width), 2 * width, "layer role in out", "out (role in)", role=["d0", "d1"]
        ),
    }[name]
    largest = {}
    for route in ("activation", "weight"):
        model, _ = wide.adapted(kind, torch.float32, route=route)
        weight = cast("Tensor", model.layers[0]._parameters["weight"])
        x = wide.input(4, dtype=torch.float32)
        with Largest(model, x) as seen:
            model(x).sum().backward()
        largest[route] = seen.bytes
    assert largest["activation"] < weight.nbytes // 4
    assert largest["weight"] >= weight.nbytes


def test_nothing_is_planned_while_a_model_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    planned.cache_clear()
    chosen = [(layout, kind) for layout in LAYOUTS.values() for kind in KINDS]
    models = [layout.adapted(kind, route=route)[0] for layout, kind in chosen for route in ("activation", "weight")]

    def refuse(*arguments: object, **keywords: object) -> None:
        pytest.fail("an order was planned")

    monkeypatch.setattr(opt_einsum, "contract_path", refuse)
    for (layout, _), model in zip([each for each in chosen for _ in range(2)], models, strict=True):
        for tokens in (1, 7):
            output = model(layout.input(tokens))
            output.backward(weights(output))
            infer(model, layout.input(tokens))
