"""What holds on a CPU holds on a GPU: `make test-cuda`, on a machine with one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import timm
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from typer.testing import CliRunner

from tensorfact import Adapter, Bank, Tasks, adapt, fit, load_adapter, open_bank, plan_for
from tensorfact.cli import app
from tensorfact.lab import digits, evaluate, nano
from tensorfact.lab.training import accelerator_for
from tensorfact.optim import PreconditionedAdamW
from tests.helpers import bits, difference, draw, infer, randomise
from tests.lab.training.conftest import reset

DEVICE = "cuda"
pytestmark = [
    pytest.mark.cuda,
    # of torch 2.11 itself, when its compiler is imported
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
]

SMALL = {"depth": 2, "img_size": 28, "patch_size": 7, "embed_dim": 96, "num_heads": 3, "num_classes": 7}
METHODS = (
    "tt:rank=4",
    "tucker:rank=8",
    "cp:rank=16",
    "matrix-batch:rank=4",
    "tensor-ring:rank=3",
    "block-term:rank=2,blocks=3",
)
TASKS = ["a", "b", "c"]


@pytest.fixture(autouse=True)
def fresh() -> None:
    """Forget what other tests compiled, and their accelerators."""
    torch._dynamo.reset()
    reset()


def vit(dtype: torch.dtype = torch.float32) -> nn.Module:
    """Return a ViT of two blocks on the CPU."""
    model = cast("nn.Module", timm.create_model("vit_tiny_patch16_224", **SMALL))
    return randomise(model).to(dtype).eval()


def images(count: int = 6, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(count, 3, 28, 28, generator=torch.Generator().manual_seed(0)).to(dtype)


def adapted(method: str, dtype: torch.dtype = torch.float32, **options: Any) -> tuple[nn.Module, Adapter]:
    """Return an adapted ViT on the CPU, with drawn cores."""
    model = vit(dtype)
    adapter = adapt(model, plan_for(model), method, seed=0, check=False, **options)
    draw(adapter)
    return model, adapter


def moved(model: nn.Module) -> tuple[nn.Module, Any]:
    """Return a copy of a model on the GPU, and its adapter or bank."""
    copied = copy.deepcopy(model).to(DEVICE)
    return copied, copied.get_submodule("tensorfact")


def gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    model.zero_grad()
    model(x).square().mean().backward()
    return [p.grad.cpu() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("route", ["activation", "formed", "weight"])
@pytest.mark.parametrize("method", METHODS)
def test_outputs_and_gradients_are_those_of_the_cpu(method: str, route: str) -> None:
    model, _ = adapted(method, torch.float64, route=route)
    x = images(dtype=torch.float64)
    other, _ = moved(model)
    assert difference(infer(other, x.to(DEVICE)).cpu(), infer(model, x)) < 1e-10
    for own, expected in zip(gradients(other, x.to(DEVICE)), gradients(model, x), strict=True):
        assert difference(own, expected) < 1e-8


@pytest.mark.parametrize(("dtype", "most"), [(torch.bfloat16, 5e-2), (torch.float16, 1e-2)], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_autocast_computes_what_the_merged_model_computes(method: str, dtype: torch.dtype, most: float) -> None:
    model, adapter = moved(adapted(method)[0])
    x = images().to(DEVICE)
    exact = infer(model, x)
    with torch.autocast(DEVICE, dtype):
        unmerged = infer(model, x)
        adapter.merge()
        merged = infer(model, x)
    assert difference(unmerged.float(), exact) < most
    assert difference(merged.float(), exact) < most


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_merging_is_taken_back_bit_for_bit(dtype: torch.dtype) -> None:
    model, adapter = moved(adapted("tt:rank=4", dtype)[0])
    before = {name: bits(p.cpu()) for name, p in model.named_parameters()}
    adapter.merge()
    adapter.unmerge()
    assert {name: bits(p.cpu()) for name, p in model.named_parameters()} == before


def test_a_file_of_the_gpu_is_loaded_on_the_cpu(tmp_path: Path) -> None:
    model, adapter = moved(adapted("tucker:rank=8")[0])
    adapter.save(tmp_path / "adapter.safetensors")
    other = vit()
    loaded = load_adapter(other, tmp_path / "adapter.safetensors")
    for own, expected in zip(loaded.parameters(), adapter.parameters(), strict=True):
        assert bits(own) == bits(expected.cpu())
    assert difference(infer(other, images()), infer(model, images().to(DEVICE)).cpu()) < 1e-2  # TF32


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
@pytest.mark.parametrize("method", METHODS[:4])
def test_a_compiled_model_is_one_graph_and_trains_as_the_plain_one(method: str, mode: str) -> None:
    model, _ = moved(adapted(method)[0])
    compiled = torch.compile(model, fullgraph=True, mode=mode)
    x = images().to(DEVICE)
    expected = gradients(model, x)
    for _ in range(3):  # CUDA graphs are captured in the second call
        found = gradients(cast("nn.Module", compiled), x)
    for own, other in zip(found, expected, strict=True):
        assert difference(own, other) < 1e-3


def test_a_forward_pass_is_captured_as_a_cuda_graph() -> None:
    model, _ = moved(adapted("tt:rank=4")[0])
    x = images().to(DEVICE)
    with torch.inference_mode():
        expected = model(x).clone()
        stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's class has no annotations
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            model(x)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = model(x)
        x.copy_(x.flip(0))
        graph.replay()
        assert difference(logits, expected.flip(0)) < 1e-4


def test_fp16_trains_with_a_scaler() -> None:
    model, adapter = moved(adapted("tt:rank=4")[0])
    x, y = images(32).to(DEVICE), torch.arange(32, device=DEVICE) % 7
    optimizer, scaler = PreconditionedAdamW(adapter, lr=3e-2), torch.amp.GradScaler(DEVICE)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        with torch.autocast(DEVICE, torch.float16):
            loss = nn.functional.cross_entropy(model(x), y)
        torch.autograd.backward(scaler.scale(loss))
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("method", METHODS[:4])
def test_the_preconditioned_step_is_that_of_the_cpu(method: str) -> None:
    model, _ = adapted(method, torch.float64)
    other, _ = moved(model)
    for each in (model, other):
        adapter = cast("Adapter", each.get_submodule("tensorfact"))
        optimizer = PreconditionedAdamW(adapter, lr=1e-2)
        for _ in range(3):
            gradients(each, images(dtype=torch.float64).to(next(each.parameters()).device))
            optimizer.step()
    for own, expected in zip(other.parameters(), model.parameters(), strict=True):
        assert difference(own.detach().cpu(), expected.detach()) < 1e-6


def with_bank() -> tuple[nn.Module, Bank]:
    """Return a ViT with a bank on the GPU, with drawn cores."""
    model = vit()
    bank = adapt(model, plan_for(model), "tt:rank=4", tasks=Tasks(TASKS, ["U", "V"]), seed=0, check=False)
    with torch.no_grad():
        for parameter in bank.parameters():
            parameter.copy_(torch.randn_like(parameter) / 5)
    return moved(model)


@pytest.mark.parametrize(("dtype", "most"), [(None, 1e-3), (torch.bfloat16, 5e-2)], ids=str)
def test_a_mixed_batch_is_each_sample_alone(dtype: torch.dtype | None, most: float) -> None:
    model, bank = with_bank()
    x, names = images().to(DEVICE), [*TASKS, *reversed(TASKS)]
    with torch.autocast(DEVICE, dtype, enabled=dtype is not None):
        with bank.batch(names):
            together = infer(model, x)
        for at, name in enumerate(names):
            bank.use(name)
            assert difference(together[at : at + 1].float(), infer(model, x[at : at + 1]).float()) < most


def test_a_compiled_bank_changes_tasks_without_compiling_again() -> None:
    model, bank = with_bank()
    counter = CompileCounterWithBackend("inductor")
    compiled: Callable[..., Tensor] = torch.compile(model, backend=counter, fullgraph=True)
    x = images().to(DEVICE)
    for names in ([*TASKS, *TASKS], [*reversed(TASKS), *TASKS], ["a"] * 6):
        with bank.batch(names), torch.no_grad():
            assert difference(compiled(x), infer(model, x)) < 1e-3
    assert counter.frame_count == 1


def test_a_bank_on_disk_serves_more_tasks_than_slots(tmp_path: Path) -> None:
    model, bank = with_bank()
    bank.save(tmp_path / "bank")
    x, expected = images().to(DEVICE), {}
    for name in TASKS:
        bank.use(name)
        expected[name] = infer(model, x)
    other = vit().to(DEVICE)
    opened = open_bank(other, tmp_path / "bank", slots=2)
    for name in [*TASKS, *TASKS]:
        opened.use(name)
        assert difference(infer(other, x), expected[name]) < 1e-4


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_fit_learns_the_digits(precision: str) -> None:
    model = nano()
    data = digits(model)
    adapt(model, plan_for(model), "tt:rank=8", seed=0)
    model.to(DEVICE)
    fit(model, data.train, data.val, epochs=4, lr=3e-3, accelerator=accelerator_for(DEVICE, precision=precision))
    assert evaluate(model, data.test).accuracy > 0.85


def test_compare_runs_on_a_gpu(tmp_path: Path) -> None:
    words = ["compare", "--device", DEVICE, "--epochs", "1", "--seeds", "1", "--format", "tt:rank=4"]
    ran = CliRunner().invoke(app, [*words, "--baseline", "linear", "--out", str(tmp_path)])
    assert ran.exit_code == 0, ran.output
    assert "tt rank=4" in (tmp_path / "table.md").read_text()


def test_recomputation_keeps_less_memory() -> None:
    peaks = []
    for recompute in (False, True):
        model = cast("nn.Module", timm.create_model("vit_tiny_patch16_224")).to(DEVICE)
        adapt(model, plan_for(model), "tt:rank=16", seed=0, check=False, recompute=recompute)
        x = torch.randn(16, 3, 224, 224, device=DEVICE)
        torch.cuda.reset_peak_memory_stats()
        model(x).square().mean().backward()
        peaks.append(torch.cuda.max_memory_allocated())
        del model, x
        torch.cuda.empty_cache()
    assert peaks[1] < peaks[0]
