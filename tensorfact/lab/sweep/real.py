"""The sweep of real tasks on DINOv2 ViT-S/14: every method in one harness, in three sizes."""

from __future__ import annotations

import dataclasses

from ...adapters.scale import AUTO
from ..data.real import REAL
from ..methods import takes_scale
from .definition import Sweep, SweepPart, SweepRow
from .spec import Settings

SETTINGS = Settings(epochs=8, batch_size=32, warmup_epochs=0.8, precision="bf16")
RATES = (1e-3, 3e-3)
"""The learning rates of most methods."""


def _row(label: str, method: str, rates: tuple[float, float] = RATES) -> SweepRow:
    return SweepRow(label, (method,), (AUTO,) if takes_scale(method) else (None,), rates=rates)


ROWS = (
    _row("linear probe", "linear"),
    _row("full fine-tuning", "full", (3e-5, 1e-4)),
    _row("BitFit", "bitfit"),
    _row("VPT-Deep", "vpt-deep:length=10"),
    _row("Adapter", "adapter:hidden=8"),
    _row("AdaptFormer", "adaptformer:hidden=8"),
    _row("tensor-train 8", "tt:rank=8"),
    _row("tensor-train 16", "tt:rank=16"),
    _row("Tucker 12", "tucker:rank=12"),
    _row("Tucker 28", "tucker:rank=28"),
    _row("CP 16", "cp:rank=16"),
    _row("CP 52", "cp:rank=52"),
    _row("matrix-batch 1", "matrix-batch:rank=1"),
    _row("matrix-batch 4", "matrix-batch:rank=4"),
    _row("LoTR", "lotr:rank=16"),
    _row("CaRA", "cara:rank=32"),
    _row("MetaTT-4D", "metatt4:rank=16"),
    _row("LoRA (peft)", "peft-lora:r=8,lora_alpha=8"),
    _row("DoRA (peft)", "peft-dora:r=8,lora_alpha=8"),
    _row("VeRA (peft)", "peft-vera:r=256", (3e-3, 1e-2)),
    _row("LoKr (peft)", "peft-lokr:r=8,alpha=8"),
    _row("OFT (peft)", "peft-oft:oft_block_size=8"),
)
"""All rows, each with the two learning rates that the size `cpu` tries."""

ON_CPU = (
    *("linear probe", "full fine-tuning", "BitFit", "tensor-train 16"),
    *("Tucker 28", "CP 52", "matrix-batch 4", "LoRA (peft)"),
)
"""The rows of the size `cpu`: the baselines, and the formats of at most 50,000 numbers beside matrix-batch and LoRA."""
IN_MINUTES = ("linear probe", "full fine-tuning", "tensor-train 16", "LoRA (peft)")

TASKS = ("real:emoji", "real:letters", "real:sprites-location")
"""The tasks of the size `cpu`: natural pictures with another artist in the test, shapes, and a structured task."""


def real_cpu() -> Sweep:
    """Return 8 methods on 3 tasks at 70 pixels: 48 runs to choose the learning rate, and 72 to report."""
    return _sweep("cpu", 70, TASKS, tuple(row for row in ROWS if row.label in ON_CPU), seeds=(0, 1, 2))


def real_smoke() -> Sweep:
    """Return 4 methods on 2 tasks for 2 epochs, one run each: it shows in minutes that everything works."""
    rows = tuple(dataclasses.replace(row, rates=row.rates[:1]) for row in ROWS if row.label in IN_MINUTES)
    return _sweep(
        "smoke",
        70,
        TASKS[:2],
        rows,
        seeds=(0,),
        settings=dataclasses.replace(SETTINGS, epochs=2, warmup_epochs=0.2, threads=2),
    )


def real_full() -> Sweep:
    """Return all methods on all tasks at 112 pixels, for a GPU: 4 learning rates to choose from, and 5 seeds."""
    tasks = tuple(f"real:{name}" for name in REAL)
    rows = tuple(
        dataclasses.replace(row, rates=(round(row.rates[0] / 3, 7), *row.rates, round(3 * row.rates[1], 7)))
        for row in ROWS
    )
    return _sweep("full", 112, tasks, rows, seeds=(0, 1, 2, 3, 4))


def _sweep(
    size: str,
    pixels: int,
    tasks: tuple[str, ...],
    rows: tuple[SweepRow, ...],
    seeds: tuple[int, ...],
    settings: Settings = SETTINGS,
) -> Sweep:
    part = SweepPart(
        "tasks", "DINOv2 ViT-S/14 on real tasks", f"dinov2-s(img_size={pixels})", tasks, rows, pretrained=True
    )
    return Sweep(f"real, {size}", (part,), seeds, settings)
