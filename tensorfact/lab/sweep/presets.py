"""Sweeps by name: that of the FacT paper, a small one without downloads, and one of real tasks on a real ViT."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Literal

from ...errors import SweepError
from ..baselines import prompt_length
from ..data import FEW_SHOT, VTAB
from .change import known
from .definition import Sweep, SweepPart, SweepRow
from .real import real_cpu, real_full, real_smoke
from .spec import Settings

SCALES = (0.01, 0.1, 1.0, 10.0, 100.0)
TT_RANKS, TK_RANKS = (1, 2, 4, 8, 16), (2, 4, 8, 16, 32)
SHOTS, LISTS = (1, 2, 4, 8, 16), (0, 1, 2)
VIT, SWIN = "vit_base_patch16_224.augreg_in21k", "swin_base_patch4_window7_224.ms_in22k"
VTAB_TASKS = tuple(f"vtab:{name}" for name in VTAB)


def validated(sweep: Sweep) -> Sweep:
    """Choose on the validation split and report the mean over seeds: the sweep unchanged."""
    return sweep


def as_released(sweep: Sweep) -> Sweep:
    """Choose on the test split, with the start, the regularisation and the single seed of FacT's released code."""
    settings = dataclasses.replace(
        sweep.settings, dropout=0.1, drop_path=0.1, drop_last=True, validate_every=10, imagenet_statistics=True
    )
    parts = tuple(
        dataclasses.replace(part, seeds=part.seeds[:1], rows=tuple(map(_as_computed, part.rows)))
        for part in sweep.parts
    )
    return dataclasses.replace(sweep, parts=parts, settings=settings, seeds=sweep.seeds[:1], released=True)


def _as_computed(row: SweepRow) -> SweepRow:
    """Return a row with FacT as the released code computes it, and from its start."""
    names = {"fact-tt": "fact-tt", "fact-tk": "fact-tk-released"}
    methods = []
    for method in row.methods:
        name, colon, options = method.partition(":")
        methods.append(f"{names[name]}:{options},released_start=True" if name in names else name + colon + options)
    return dataclasses.replace(row, methods=tuple(methods))


PROTOCOLS: dict[str, Callable[[Sweep], Sweep]] = {"validated": validated, "as-released": as_released}
"""Protocols, which choose options, by name: functions that change a sweep."""


def paper() -> Sweep:
    """Return the sweep of the FacT paper: VTAB-1K and few-shot on ViT-B/16, VTAB-1K on Swin-B.

    Published parameter counts and accuracies are those of its tables.

    Source: S. Jie & Z.-H. Deng, FacT: Factor-Tuning for Lightweight Adaptation on Vision Transformer, AAAI 2023.
    """
    few_shot = tuple(f"few-shot:{name}:{shots}:{number}" for name in FEW_SHOT for shots in SHOTS for number in LISTS)
    return Sweep(
        "paper",
        (
            SweepPart("vtab", "VTAB-1K, ViT-B/16", VIT, VTAB_TASKS, _vit_rows(), pretrained=True),
            SweepPart("few-shot", "few-shot, ViT-B/16", VIT, few_shot, _few_shot_rows(), pretrained=True, seeds=(0,)),
            SweepPart("swin", "VTAB-1K, Swin-B", SWIN, VTAB_TASKS, _swin_rows(), pretrained=True),
        ),
    )


def small() -> Sweep:
    """Return a sweep of all methods on the bundled model and three tasks: digits, clothes, location of a shape."""
    tasks = ("digits", "fashion-mnist", "sprites-location")
    scales = (1.0, 10.0)
    rows = (
        SweepRow("full fine-tuning", ("full",)),
        SweepRow("linear probe", ("linear",)),
        SweepRow("BitFit", ("bitfit",)),
        SweepRow("VPT-Shallow", tuple(f"vpt-shallow:length={length}" for length in (1, 5, 20))),
        SweepRow("VPT-Deep", tuple(f"vpt-deep:length={length}" for length in (1, 5, 20))),
        SweepRow("Adapter", ("adapter:hidden=8",)),
        SweepRow("AdaptFormer", ("adaptformer:hidden=8",)),
        SweepRow("LoRA", ("lora:rank=8",), scales),
        SweepRow("NOAH", ("noah:budget=20000,population=20,generations=5",)),
        SweepRow("FacT-TT4", ("fact-tt:rank=4",), scales),
        SweepRow("FacT-TT≤16", tuple(f"fact-tt:rank={rank}" for rank in (4, 8, 16)), scales),
        SweepRow("FacT-TK8", ("fact-tk:rank=8",), scales),
        SweepRow("FacT-TK≤32", tuple(f"fact-tk:rank={rank}" for rank in (8, 16, 32)), scales),
        SweepRow("matrix batch", ("matrix-batch:rank=2",), scales),
        SweepRow("CP", ("cp:rank=32",), scales),
        SweepRow("tensor ring", ("tensor-ring:rank=4",), scales),
        SweepRow("LoTR", ("lotr:rank=8",), scales),
        SweepRow("LoKr", ("lokr:rank=8",), scales),
    )
    settings = Settings(epochs=10, warmup_epochs=1, lr=3e-3)
    return Sweep("small", (SweepPart("tasks", "the bundled ViT", "nano", tasks, rows),), settings=settings)


PRESETS: dict[str, Mapping[str, Callable[[], Sweep]]] = {
    "paper": {"": paper},
    "small": {"": small},
    "real": {"cpu": real_cpu, "smoke": real_smoke, "full": real_full},
}
"""Sweeps by name and size; the first size is the default, and a sweep of one size has an empty name for it."""


def preset(name: str, size: str | None = None) -> Sweep:
    """Return a sweep by name.

    Args:
        name: One of `PRESETS`.
        size: One of the sizes of this sweep; None: its default.

    Raises:
        SweepError: Unknown name or size.

    Examples:
        >>> preset("real", "smoke").name
        'real, smoke'
    """
    sizes = known("preset", name, PRESETS)
    if size is None:
        return next(iter(sizes.values()))()
    if "" in sizes:
        raise SweepError(f"preset {name!r} has one size", got=size, fix="leave out the size, or pass --preset real")
    return known("size", size, sizes)()


def _vit_rows() -> tuple[SweepRow, ...]:
    return (
        SweepRow("Full", ("full",), parameters=85_800_000, accuracy=0.689),
        SweepRow("Linear", ("linear",), parameters=0, accuracy=0.576),
        SweepRow("BitFit", ("bitfit",), parameters=103_000, accuracy=0.652),
        SweepRow("VPT-Shallow", (), by_task=_prompts("vit", deep=False), parameters=63_000, accuracy=0.678),
        SweepRow("VPT-Deep", (), by_task=_prompts("vit", deep=True), parameters=531_000, accuracy=0.72),
        SweepRow("Adapter", ("adapter:hidden=8",), parameters=157_000, accuracy=0.739),
        SweepRow("AdaptFormer", ("adaptformer:hidden=8",), parameters=157_000, accuracy=0.747),
        SweepRow("LoRA", ("lora:rank=8",), parameters=295_000, accuracy=0.745),
        SweepRow("NOAH", ("noah:budget=361000",), parameters=361_000, accuracy=0.755),
        SweepRow("FacT-TT4", ("fact-tt:rank=4",), SCALES, parameters=8_448, accuracy=0.735),
        SweepRow("FacT-TT≤16", tuple(f"fact-tt:rank={rank}" for rank in TT_RANKS), SCALES, accuracy=0.753),
        SweepRow("FacT-TK8", ("fact-tk:rank=8",), SCALES, parameters=13_952, accuracy=0.74),
        SweepRow("FacT-TK≤32", tuple(f"fact-tk:rank={rank}" for rank in TK_RANKS), SCALES, accuracy=0.756),
    )


def _few_shot_rows() -> tuple[SweepRow, ...]:
    return (
        SweepRow("VPT-Deep", ("vpt-deep:length=8",)),
        SweepRow("Adapter", ("adapter:hidden=8",), parameters=157_000),
        SweepRow("AdaptFormer", ("adaptformer:hidden=8",), parameters=157_000),
        SweepRow("LoRA", ("lora:rank=8",), parameters=295_000),
        SweepRow("NOAH", ("noah:budget=361000",), parameters=361_000),
        SweepRow("FacT-TT16", ("fact-tt:rank=16",), SCALES, parameters=61_440),
    )


def _swin_rows() -> tuple[SweepRow, ...]:
    return (
        SweepRow("Full", ("full",), parameters=86_700_000, accuracy=0.75),
        SweepRow("Linear", ("linear",), parameters=0, accuracy=0.626),
        SweepRow("BitFit", ("bitfit",), parameters=201_000, accuracy=0.656),
        SweepRow("VPT-Shallow", (), by_task=_prompts("swin", deep=False), parameters=3_000, accuracy=0.667),
        SweepRow("VPT-Deep", (), by_task=_prompts("swin", deep=True), parameters=162_000, accuracy=0.716),
        SweepRow("FacT-TT16", ("fact-tt:rank=16",), SCALES, parameters=135_168, accuracy=0.774),
    )


def _prompts(family: Literal["vit", "swin"], *, deep: bool) -> Mapping[str, tuple[str, ...]]:
    """Return prompt tuning by task, with the prompt length that its paper found for the task."""
    name = "vpt-deep" if deep else "vpt-shallow"
    return {f"vtab:{task}": (f"{name}:length={prompt_length(task, deep=deep, family=family)}",) for task in VTAB}
