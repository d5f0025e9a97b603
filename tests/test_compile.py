"""torch.compile: one graph, and no recompilation for every batch size."""

from __future__ import annotations

import copy
from typing import Any, cast

import pytest
import timm
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from tensorfact import CP, Adapter, Format, MatrixBatch, TensorTrain, Tucker, adapt, plan_for
from tensorfact.adapters import slots
from tests.helpers import difference, draw, infer, randomise
from tests.test_timm import KNOWN, create

BATCHES = (2, 3, 4, 6, 8)
FORMAT = TensorTrain(4)
SMALL = {"depth": 2, "img_size": 28, "patch_size": 7, "embed_dim": 96, "num_heads": 3, "num_classes": 7}


def adapted(name: str, format: Format = FORMAT, **options: Any) -> tuple[nn.Module, Adapter]:
    """Return a timm model by its name, or a ViT of two blocks as `small`."""
    model = cast("nn.Module", timm.create_model(KNOWN[0], **SMALL)) if name == "small" else create(name)
    randomise(model).eval()
    adapter = adapt(model, plan_for(model), format, seed=0, **options)
    draw(adapter)
    return model, adapter


def inputs(name: str) -> list[Tensor]:
    shape = (3, 28, 28) if name == "small" else (3, 224, 224)
    return [torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0)) for batch in BATCHES]


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    """Forget what other tests compiled."""
    torch._dynamo.reset()


@pytest.mark.parametrize("name", ["small", *[pytest.param(name, marks=pytest.mark.slow) for name in KNOWN]])
def test_batch_sizes_share_a_graph(name: str) -> None:
    model, _ = adapted(name)
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    for x in inputs(name):
        assert difference(infer(cast("nn.Module", compiled), x), infer(model, x)) < 1e-4
    assert counter.frame_count <= 2


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("route", "format"),
    [
        pytest.param("activation", MatrixBatch(2), id="activation-matrix-batch"),
        pytest.param("formed", MatrixBatch(2), id="formed-matrix-batch"),
        pytest.param("weight", MatrixBatch(2), id="weight-matrix-batch"),
        *[
            pytest.param(route, format, marks=pytest.mark.slow, id=f"{route}-{format}")
            for route in ("activation", "formed", "weight")
            for format in (Tucker(2), CP(2))
        ],
    ],
)
def test_every_format_and_route_is_one_graph(format: Format, route: Any) -> None:
    model, _ = adapted("small", format, route=route)
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    for x in inputs("small")[:3]:
        assert difference(infer(cast("nn.Module", compiled), x), infer(model, x)) < 1e-4
    assert counter.frame_count <= 2


def test_a_compiled_model_trains_as_the_plain_one() -> None:
    gradients = []
    for compiling in (False, True):
        model, adapter = adapted("small")
        model.train()
        run = torch.compile(model, backend="aot_eager", fullgraph=True) if compiling else model
        run(inputs("small")[0]).square().mean().backward()
        gradients.append({name: cast("Tensor", p.grad) for name, p in adapter.named_parameters()})
    assert all(difference(gradients[1][name], gradients[0][name]) < 1e-4 for name in gradients[0])


def test_merging_and_disabling_reach_a_compiled_model() -> None:
    """A swap that a compiled model ignores would be silently wrong."""
    model, adapter = adapted("small")
    compiled = cast("nn.Module", torch.compile(model, backend="eager", fullgraph=True))
    x = inputs("small")[0]
    effective = infer(compiled, x)
    with adapter.disabled():
        assert difference(infer(compiled, x), infer(model, x)) < 1e-5
        assert difference(infer(compiled, x), effective) > 1e-3
    adapter.merge()
    assert difference(infer(compiled, x), effective) < 1e-4
    adapter.unmerge()
    draw(adapter, seed=1)
    assert difference(infer(compiled, x), infer(model, x)) < 1e-5
    assert difference(infer(compiled, x), effective) > 1e-3


def test_a_copy_of_a_model_compiles_too() -> None:
    model, _ = adapted("small")
    twin = copy.deepcopy(model)
    compiled = cast("nn.Module", torch.compile(twin, backend="eager", fullgraph=True))
    x = inputs("small")[0]
    assert difference(infer(compiled, x), infer(model, x)) < 1e-5


def test_an_adapted_model_exports_with_any_batch_size() -> None:
    model, _ = adapted("small")
    model.eval()
    x, other = inputs("small")[0], inputs("small")[3]
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=2, max=64)},))
    assert difference(program.module()(other), infer(model, other)) < 1e-5


@pytest.mark.slow
def test_inductor_gives_the_same_numbers() -> None:
    model, _ = adapted("small")
    compiled = cast("nn.Module", torch.compile(model, fullgraph=True))
    for x in inputs("small")[:3]:
        assert difference(infer(compiled, x), infer(model, x)) < 1e-3


def test_the_mark_of_a_constant_function_is_that_of_torch() -> None:
    """It is set by hand, since torch's own function imports the compiler."""
    assert vars(slots._trace) == vars(torch.compiler.assume_constant_result(lambda: None))  # type: ignore[no-untyped-call]
