"""The benchmarks. Each returns rows; every ratio compares measurements that are adjacent in time, in one process."""

from __future__ import annotations

import copy
import dataclasses
import gc
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import timm
import torch
from torch import Tensor, nn

from tensorfact import (
    Adapter,
    Format,
    MatrixBatch,
    TensorizationPlan,
    TensorTrain,
    Tucker,
    adapt,
    load_adapter,
    plan_for,
)
from tensorfact.adapters.increments import cache
from tensorfact.adapters.increments.narrow import outer_product
from tensorfact.algebra import Term
from tensorfact.algebra.recompression import recompress
from tensorfact.lab.measure import (
    ForwardPass,
    LiveBytes,
    TrainingStep,
    all_step_ratios,
    freeze_to_floor,
    kept_bytes,
    peak_bytes,
)
from tensorfact.network.cost import seconds_of

from .imports import imports
from .mixed import mixed
from .peers import CONVOLVED, PEERS, RANK, adapted, copies, floor, resnet, vit
from .result import Row, median_row
from .setting import Setting

BASE = "vit_base_patch16_224"
OWN, LORA = "tensor-train", "peft LoRA, all linear"


def training(setting: Setting) -> list[Row]:
    """Time of a training step, as a multiple of the frozen floor."""
    base = vit(BASE, setting.device)
    bottom = setting.step(floor(copy.deepcopy(base)))
    cuda, work = setting.device == "cuda", f"ViT-B/16, {setting}"
    main = [OWN, LORA, "Tucker", "CP", "matrix-batch"]
    ratios: dict[str, list[float]] = {}
    for names, part in ((main, 1), ([n for n in PEERS if n not in main], 3)):
        steps = {name: setting.step(model) for name, model in copies(base, names).items()}
        rounds, seconds = setting.rounds // part, setting.patience / part
        ratios |= all_step_ratios(bottom, steps, rounds=rounds, warmup=1, seconds=seconds)
        del steps
        gc.collect()
    rows = [
        median_row("training", f"{name} / floor", work, ratios[name], (1.25 if cuda else 1.07) if name == OWN else None)
        for name in PEERS
    ]

    def against(name: str, other: str, most: float) -> Row:
        quotients = [a / b for a, b in zip(ratios[name], ratios[other], strict=True)]
        return median_row("training", f"{name} / {other}", work, quotients, most)

    rows.append(against(OWN, LORA, 1.0 if cuda else 0.88))
    rows += [against(name, OWN, 1.03) for name in ("Tucker", "CP", "matrix-batch")]
    return rows


def limit(setting: Setting) -> list[Row]:
    """Lower bound of an adapted step: only the six narrow products of every layer, without any overhead."""
    base, work = vit(BASE, setting.device), f"ViT-B/16, {setting}"
    tokens = 197 * setting.batch
    blocks = base.get_submodule("blocks")
    linears = [layer for layer in blocks.modules() if isinstance(layer, nn.Linear)]
    narrow = NarrowProducts([(layer.in_features, layer.out_features) for layer in linears], tokens, setting)
    wide = NarrowProducts([(layer.in_features, layer.out_features) for layer in linears], tokens, setting, wide=True)
    bottom = setting.step(floor(base))
    ratios = all_step_ratios(
        bottom, {"narrow": narrow, "wide": wide}, rounds=setting.rounds, warmup=1, seconds=setting.patience / 4
    )
    speeds = [a / b * wide.flops / narrow.flops for a, b in zip(ratios["narrow"], ratios["wide"], strict=True)]
    return [
        median_row("limit", "by FLOPs: 1 + narrow / large products", work, [1 + narrow.flops / wide.flops]),
        median_row("limit", "by time: 1 + narrow products / floor", work, [1 + each for each in ratios["narrow"]]),
        median_row("limit", "time a FLOP, narrow / large products", work, speeds),
    ]


class NarrowProducts:
    """The matrix products that an adapter adds to a training step, or, if wide, those of the layers themselves.

    Args:
        shapes: Numbers of inputs and outputs of every layer.
        tokens: Number of tokens in a batch.
        setting: Gives device and dtype.
        wide: Run the products of the layers instead of the narrow ones.
    """

    def __init__(self, shapes: list[tuple[int, int]], tokens: int, setting: Setting, *, wide: bool = False) -> None:
        self.device, self.wide = torch.device(setting.device), wide
        dtype = setting.autocast or torch.float32

        def numbers(*shape: int) -> Tensor:
            return torch.randn(shape, device=self.device).to(dtype)

        self.layers = []
        for i, o in shapes:
            matrices = [numbers(o, i)] if wide else [numbers(RANK, i), numbers(RANK, o)]
            self.layers.append((numbers(tokens, i), numbers(tokens, o), *matrices))
        self.flops = sum(2 * tokens * (2 * i * o if wide else 3 * RANK * (i + o)) for i, o in shapes)

    def __call__(self) -> None:
        """Run all products once."""
        for x, y, *matrices in self.layers:
            if self.wide:
                nn.functional.linear(x, matrices[0])
                torch.mm(y, matrices[0])
                continue
            down, up = matrices
            h = nn.functional.linear(x, down)
            y.addmm_(h, up, alpha=1e-3)
            to_h = nn.functional.linear(y, up)
            x.addmm_(to_h, down, alpha=1e-6)
            outer_product(to_h, x)
            outer_product(h, y)


def compiled(setting: Setting) -> list[Row]:
    """Time and memory of a compiled training step, as multiples of the compiled floor."""
    base, work = vit(BASE, setting.device), f"ViT-B/16, {setting}, compiled"
    attach = {"floor": floor, OWN: PEERS[OWN], LORA: PEERS[LORA]}

    def make(name: str) -> TrainingStep:
        torch._dynamo.reset()
        return setting.step(torch.compile(attach[name](copy.deepcopy(base))))  # type: ignore[arg-type]

    steps = {name: make(name) for name in attach}
    bottom = steps.pop("floor")
    ratios = all_step_ratios(bottom, steps, rounds=setting.rounds, warmup=4)
    most = {OWN: 1.10, LORA: None}
    rows = [median_row("compiled", f"{name} / floor", work, ratios[name], most[name]) for name in steps]
    del steps, bottom
    peaks = {name: _peak_alone(make, name) for name in attach}
    most = {OWN: 1.20, LORA: None}
    for name in (OWN, LORA):
        ratio = peaks[name] / peaks["floor"]
        rows.append(median_row("compiled", f"peak memory, {name} / floor", work, [ratio], most[name]))
    return rows


def memory(setting: Setting) -> list[Row]:
    """Peak memory of a training step, as a multiple of the frozen floor."""
    base, work = vit(BASE), f"ViT-B/16, {setting}"

    def make(name: str) -> TrainingStep:
        attach = floor if name == "floor" else PEERS[name]
        return setting.step(attach(copy.deepcopy(base)).to(setting.device))

    names = [
        name for name in PEERS if name not in ("Tucker", "CP")
    ]  # these keep the same activations as the tensor-train
    peaks = {name: _peak_alone(make, name) for name in ("floor", *names)}
    return [median_row("memory", f"{name} / floor", work, [peaks[name] / peaks["floor"]]) for name in names]


def kept(setting: Setting) -> list[Row]:
    """Memory that a forward pass leaves for the backward pass: of a ViT over the floor, of ResNet-50 over full."""
    images = dataclasses.replace(setting, batch=2 * setting.batch)
    return [*_kept_on_vit(setting), *_kept_on_convolutions(images)]


def _kept_on_vit(setting: Setting) -> list[Row]:
    base, most = vit(BASE, setting.device), {f"{OWN}, recompute": 1.05}
    names = (OWN, f"{OWN}, recompute", "matrix-batch", LORA, "full fine-tuning")
    bottom = kept_bytes(setting.step(floor(copy.deepcopy(base))))
    found = {name: kept_bytes(setting.step(PEERS[name](copy.deepcopy(base)))) / bottom for name in names}
    return [median_row("kept", f"{n} / floor", f"ViT-B/16, {setting}", [found[n]], most.get(n)) for n in names]


def _kept_on_convolutions(setting: Setting) -> list[Row]:
    work = f"ResNet-50, {setting}"
    found = {name: kept_bytes(setting.step(attach(resnet(setting.device)))) for name, attach in CONVOLVED.items()}
    whole, most = found["full fine-tuning"], {OWN: 1.05}
    return [median_row("kept", f"{name} / full", work, [found[name] / whole], most.get(name)) for name in found]


def convolutions(setting: Setting) -> list[Row]:
    """Time of a training step of convolutional networks, as a multiple of the frozen floor."""
    rows = []
    for label, name in (("ResNet-50", "resnet50"), ("EfficientNet-B0", "efficientnet_b0")):
        first = next(iter(plan_for(resnet("meta", name)).resolve(resnet("meta", name)).parameters))
        bottom = resnet(setting.device, name)
        freeze_to_floor(bottom, first)
        steps = {of: setting.step(attach(resnet(setting.device, name))) for of, attach in CONVOLVED.items()}
        rounds, seconds = setting.rounds // 2, setting.patience / 3
        ratios = all_step_ratios(setting.step(bottom), steps, rounds=rounds, warmup=1, seconds=seconds)
        rows += [median_row("convolutions", f"{of} / floor", f"{label}, {setting}", ratios[of]) for of in steps]
    return rows


def inference(setting: Setting) -> list[Row]:
    """Time of a forward pass without gradients, as a multiple of the base model."""
    base, work = vit(BASE, setting.device), f"ViT-B/16, {setting}"
    models = copies(base, [OWN, LORA, "matrix-batch"])
    merged = PEERS[OWN](copy.deepcopy(base))
    merged.get_submodule("tensorfact").merge()  # type: ignore[operator]
    passes = {f"{name}, unmerged": setting.forward(model) for name, model in models.items()}
    passes[f"{OWN}, merged"] = setting.forward(merged)
    ratios = all_step_ratios(setting.forward(base), passes, rounds=2 * setting.rounds, seconds=setting.patience / 2)
    most = {f"{OWN}, unmerged": 1.05, f"{OWN}, merged": 1.02}
    return [median_row("inference", f"{name} / base", work, ratios[name], most.get(name)) for name in passes]


def forming(setting: Setting) -> list[Row]:
    """Share of an unmerged forward pass in which the narrow matrices of all layers are formed."""
    rows = []
    for name in (OWN, "Tucker", "matrix-batch"):
        model = PEERS[name](vit(BASE, setting.device))
        for batch, rounds in ((1, setting.rounds), (32, 1)):
            step = setting.forward(model, batch)
            seconds_of(step, step.device)
            shares = [_share_formed(step) for _ in range(rounds)]
            work = f"ViT-B/16, batch {batch}, {setting.device}"
            rows.append(median_row("forming", f"{name}: formed / pass", work, shares, 0.01))
    return rows


def _share_formed(step: ForwardPass) -> float:
    """Run a forward pass; return the share of its time that forms matrices."""
    seconds, form = [], cache._formed

    def timed(*arguments: Any) -> list[Tensor]:
        results: list[Tensor] = []
        seconds.append(seconds_of(lambda: results.extend(form(*arguments)), step.device))
        return results

    with mock.patch.object(cache, "_formed", timed):
        whole = seconds_of(step, step.device)
    return sum(seconds) / whole


def growth(setting: Setting) -> list[Row]:
    """Time of a training step by rank, depth and width, and tokens, as a multiple of the frozen floor."""
    rounds = setting.rounds // 3 + 1
    rows = []

    def add(name: str, rank: int, batch: int, label: str) -> None:
        base = vit(name, setting.device)
        bottom = setting.step(floor(copy.deepcopy(base)), batch)
        step = setting.step(adapted(TensorTrain(rank))(base), batch)
        ratios = all_step_ratios(bottom, {OWN: step}, rounds=rounds, warmup=1, seconds=setting.patience / 20)[OWN]
        rows.append(median_row("growth", f"{OWN} / floor", label, ratios))

    scale = setting.batch // 4
    for rank in (4, 8, 16, 32, 64):
        add("vit_small_patch16_224", rank, 4 * scale, f"ViT-S/16, batch {4 * scale}, rank {rank}")
    for size, batch in (("tiny", 16 * scale), ("small", 8 * scale), ("base", 4 * scale), ("large", 1 * scale)):
        label = f"ViT-{size.capitalize()}/16, batch {batch}, rank {RANK}"
        add(f"vit_{size}_patch16_224", RANK, batch, label)
    for batch in (1 * scale, 4 * scale, 16 * scale):
        add("vit_small_patch16_224", RANK, batch, f"ViT-S/16, {197 * batch:,} tokens, rank {RANK}")
    return rows


def upkeep(setting: Setting) -> list[Row]:
    """Seconds to adapt, merge, save and load; and memory that `adapt` allocates, as a share of the largest weight."""
    rows: list[Row] = []
    sizes = ("vit_tiny_patch16_224", "vit_small_patch16_224", BASE, "vit_large_patch16_224", "vit_giant_patch14_224")
    for name in sizes:
        with torch.device("meta"):
            model = timm.create_model(name, num_classes=100)
        model = model.to_empty(device=setting.device)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        rows += _upkeep_of(model, name, setting)
        del model
        gc.collect()
    return rows


def _upkeep_of(model: nn.Module, name: str, setting: Setting) -> Iterator[Row]:
    device, work = torch.device(setting.device), f"{name}, {setting.device}"
    plan = plan_for(model)

    def timed(what: str, call: Callable[[], object], most: float | None = None) -> Row:
        return median_row("upkeep", what, work, [seconds_of(call, device)], most, "s")

    giant = "giant" in name
    rows = [timed("adapt()", lambda: adapt(model, plan, TensorTrain(RANK), seed=0), 1.0 if giant else None)]
    adapter = model.get_submodule("tensorfact")
    assert isinstance(adapter, Adapter)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "adapter.safetensors"
        rows += [timed("merge()", adapter.merge), timed("unmerge()", adapter.unmerge)]
        rows.append(timed("save()", lambda: adapter.save(path)))
        adapter.remove()
        rows.append(timed("load_adapter()", lambda: load_adapter(model, path)))
    model.get_submodule("tensorfact").remove()  # type: ignore[operator]
    yield from rows
    yield _allocated_by_adapt(model, plan, work, 1.0 if giant else None)


def _allocated_by_adapt(model: nn.Module, plan: TensorizationPlan, work: str, most: float | None) -> Row:
    """Return the peak memory that `adapt` allocates, as a share of the largest adapted weight."""
    live = LiveBytes()
    for tensor in (*model.parameters(), *model.buffers()):
        live.count(tensor)
    before = live.now
    with live:
        adapter = adapt(model, plan, TensorTrain(RANK), seed=0)
    parameters = dict(model.named_parameters())
    largest = max(parameters[name].nbytes for name in adapter.resolved.parameters)
    allocated = (live.peak - before) / largest
    return median_row("upkeep", "all that adapt() allocates / largest weight", work, [allocated], most)


def algebra(setting: Setting) -> list[Row]:
    """Rounding and conversion on the tensor of ViT-L: seconds, and peak memory as a share of the dense tensor."""
    with torch.device("meta"):
        model = timm.create_model("vit_large_patch16_224")
    (tensor,) = plan_for(model).resolve(model).tensors
    rows = []
    for before, after, targets in (
        (TensorTrain(64), TensorTrain(RANK), (2.0, 0.05)),
        (Tucker(64), Tucker(RANK), (None, None)),
        (MatrixBatch(8), TensorTrain(RANK), (None, None)),
    ):
        network, generator = before.network(tensor.modes), torch.Generator().manual_seed(0)
        cores = {name: torch.randn(shape, generator=generator) for name, shape in network.shapes().items()}
        term = Term(network, {name: core.to(setting.device) for name, core in cores.items()})
        work = f"ViT-L/16, {before} to {after}, {setting.device}"

        def call(term: Term = term, after: Format = after) -> object:
            return recompress([term], tensor.modes, after)

        live = LiveBytes()
        with live:
            call()
        seconds = [seconds_of(call, torch.device(setting.device)) for _ in range(3)]
        rows.append(median_row("algebra", "time", work, seconds, targets[0], "s"))
        rows.append(
            median_row("algebra", "allocated / dense", work, [live.peak / (4 * math.prod(tensor.shape))], targets[1])
        )
    return rows


def _peak_alone(make: Callable[[str], TrainingStep], name: str) -> int:
    """Measure the peak memory of one training step with nothing else on the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return peak_bytes(make(name))


_ALL = (training, convolutions, limit, inference, mixed, memory, kept, growth, upkeep, algebra, imports)
BENCHMARKS: dict[str, Callable[[Setting], Sequence[Row]]] = {each.__name__: each for each in _ALL}
BY_NAME: dict[str, Callable[[Setting], Sequence[Row]]] = {"forming": forming, "compiled": compiled}
"""On a CPU these run by name only, as `compiled` is meant for CUDA and all of them would take too long."""
