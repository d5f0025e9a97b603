"""What several test files share: a small model of many kinds of layer, random numbers, exact and close comparison."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any, TypeVar, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tensorfact import Adapter, Bank, Format, Group, Rule, TensorizationPlan, TensorTrain, adapt
from tensorfact.adapters.factors import Factors
from tensorfact.errors import TensorfactError
from tensorfact.lab.training import Samples
from tensorfact.network import Mode, Side

M = TypeVar("M", bound=nn.Module)

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Largest difference of two exact routes through a whole model, as a fraction of the largest output."""

VOCABULARY, POSITIONS, CLASSES = 6, 4, 3
TT = TensorTrain(2)


class Block(nn.Module):
    """One layer of every kind: fused qkv (called, or its weight read), MHA, MLP, 1x1 and 3x3 convolution."""

    def __init__(self, width: int, heads: int, ratio: int, *, read: bool) -> None:
        super().__init__()
        self.read = read
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.mha = nn.MultiheadAttention(width, heads, batch_first=True)
        self.fc1 = nn.Linear(width, ratio * width)
        self.fc2 = nn.Linear(ratio * width, width)
        self.point = nn.Conv2d(width, width, 1)
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        fused = F.linear(x, self.qkv.weight, self.qkv.bias) if self.read else self.qkv(x)
        x = x + self.proj(F.scaled_dot_product_attention(*fused.chunk(3, -1)))
        x = x + self.mha(x, x, x, need_weights=False)[0]
        x = x + self.fc2(F.gelu(self.fc1(self.norm(x))))
        image = x.transpose(1, 2).reshape(len(x), -1, 2, 2)
        x = x + (self.point(image) + self.conv(image)).flatten(2).transpose(1, 2)
        return cast("Tensor", self.norm(x))


class Tiny(nn.Module):
    """Token ids (batch, 4) to logits (batch, 3) through an embedding and some blocks."""

    def __init__(self, width: int = 4, heads: int = 2, ratio: int = 2, depth: int = 2, *, read: bool = False) -> None:
        super().__init__()
        self.pretrained_cfg = {"classifier": "head"}
        self.embed = nn.Embedding(VOCABULARY, width)
        self.blocks = nn.ModuleList(Block(width, heads, ratio, read=read) for _ in range(depth))
        self.head = nn.Linear(width, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return cast("Tensor", self.head(x.mean(1)))


def ids(batch: int = 3, seed: int = 0) -> Tensor:
    """Return inputs of `Tiny`; the positions of a sample differ, since attention to equal keys has no gradient."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(VOCABULARY, generator=generator)[:POSITIONS] for _ in range(batch)])


def layers(depth: int = 2, width: int = 6) -> nn.Sequential:
    """Return plain linear layers named 0, 1, ...; the root is a `Sequential`."""
    return nn.Sequential(*(nn.Linear(width, width) for _ in range(depth)))


def layers_plan(modes: str = "layer in out", pattern: str = "out in") -> TensorizationPlan:
    """Return a plan over the weights of `layers`."""
    return TensorizationPlan((Group("stack", modes, (Rule("{layer}.weight", pattern),)),))


def randomise(model: M, seed: int = 0) -> M:
    """Overwrite every parameter with random numbers, so that no zero or tiny initial value hides an effect."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 0
            parameter.copy_(noise / fan_in**0.5 if fan_in else 0.5 + 0.1 * noise)
    return model


def draw(adapter: Adapter | Bank, seed: int = 0, size: float = 0.3) -> None:
    """Draw every core at random, the zero core too; increments get about `size` times the usual weight's deviation."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module, tensor in zip(adapter.factors.values(), adapter.resolved.tensors, strict=True):
            factors = cast("Factors", module)
            trained = [core for core in factors.parameters() if core.requires_grad]
            for core in trained:
                core.copy_(torch.randn(core.shape, generator=generator))
            fan_in = max(mode.size for mode in tensor.modes)
            deviation = factors.dense().double().square().mean().sqrt()
            scale = abs(adapter.scales[tensor.name]) or 1.0
            trained[-1].mul_(size / fan_in**0.5 / (deviation * scale))


def bits(tensor: Tensor) -> bytes:
    """Return the bytes of a tensor: equal for equal numbers, different for 0.0 and -0.0."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()


def state_bits(model: nn.Module) -> dict[str, bytes]:
    """Return the bytes of everything in a model's state_dict."""
    return {name: bits(tensor) for name, tensor in model.state_dict().items()}


def snapshot(model: nn.Module) -> dict[str, object]:
    """Return everything that an adapter may change on a model, comparable with ==."""
    return {
        "classes": [(name, type(module)) for name, module in model.named_modules()],
        "attributes": [sorted(module.__dict__) for module in model.modules()],
        "modes": [module.training for module in model.modules()],
        "state": state_bits(model),
        "flags": {name: p.requires_grad for name, p in model.named_parameters(remove_duplicate=False)},
        "dtypes": {name: p.dtype for name, p in model.named_parameters()},
    }


def difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference as a fraction of the largest expected number."""
    assert found.shape == expected.shape
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).abs().max()) / max(float(expected.abs().max()), 1e-30)


def infer(model: nn.Module, x: Tensor) -> Tensor:
    """Run a model as a user does: evaluation mode, no gradients."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            return cast("Tensor", model(x))
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextlib.contextmanager
def refused(kind: type[TensorfactError], *words: object, fix: bool = True) -> Iterator[None]:
    """Expect exactly this kind of error, with a message that names what arrived and says the way out.

    Args:
        kind: The class; a subclass is not accepted, so that callers can tell errors apart.
        words: What the message must hold, such as the offending value.
        fix: Whether the message must say how to put it right.
    """
    with pytest.raises(TensorfactError) as caught:
        yield
    message = str(caught.value)
    assert type(caught.value) is kind, f"{type(caught.value).__name__}: {message}"
    for word in words:
        assert str(word) in message, f"{word!r} is not in: {message}"
    assert not fix or "Fix: " in message, message


@contextlib.contextmanager
def untouched(*models: nn.Module) -> Iterator[None]:
    """Expect that models leave the block bit for bit as they came."""
    before = [snapshot(model) for model in models]
    yield
    for model, expected in zip(models, before, strict=True):
        assert snapshot(model) == expected


def samples_of(data: Samples) -> list[Any]:
    """Return all samples of a data set."""
    return [data[at] for at in range(len(data))]  # type: ignore[arg-type]


def qkv_plan(*labels: str | None) -> TensorizationPlan:
    rule = Rule("blocks.{layer}.qkv.weight", "(role out) in", role=labels or ("q", "k", "v"))
    return TensorizationPlan((Group("g", "(layer role) in out", (rule,)),))


class Tied(nn.Module):
    """A head that shares its weight with the embedding, declared before or after it."""

    def __init__(self, *, head_first: bool) -> None:
        super().__init__()
        self.pretrained_cfg = {"classifier": "head"}
        if head_first:
            self.head = nn.Linear(4, 7, bias=False)
        self.embed = nn.Embedding(7, 4)
        self.fc = nn.Linear(4, 4)
        if not head_first:
            self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.head(self.fc(self.embed(x))))


def one_rule(param: str) -> TensorizationPlan:
    return TensorizationPlan((Group("g", "in out", (Rule(param, "out in"),)),))


def stacked(
    format: Format | None = None, seed: int = 0, *, scale: float = 2.0, count: int = 4
) -> tuple[nn.Sequential, Adapter, Tensor]:
    """Return linear layers, adapted with factors that change the output, and an input."""
    model = randomise(layers(count, 8)).double()
    adapter = adapt(model, layers_plan(), format or TensorTrain(3), scale=scale, seed=seed, check=False)
    draw(adapter, seed)
    return model, adapter, torch.randn(5, 8, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def deltas(adapter: Adapter) -> dict[str, Tensor]:
    return {name: adapter.delta(name).detach() for name in adapter.resolved.parameters}


def distance(found: Adapter, expected: dict[str, Tensor]) -> float:
    own = deltas(found)
    lost = math.sqrt(sum(float((own[name] - expected[name]).square().sum()) for name in expected))
    return lost / math.sqrt(sum(float(each.square().sum()) for each in expected.values()))


def as_modes(*rows: tuple[str, int, Side]) -> tuple[Mode, ...]:
    return tuple(Mode(*row) for row in rows)
