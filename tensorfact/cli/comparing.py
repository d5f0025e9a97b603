"""Train formats on one model and compare them: the command compare."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..common.table import counted
from ..errors import TrainingError
from .console import (
    Checkpoint,
    Formats,
    Pretrained,
    app,
    device_of,
    say,
    say_random,
    show,
)
from .progress import progress_bars

if TYPE_CHECKING:
    from ..formats import Format

DEFAULT_FORMATS = ("tt:rank=8", "tucker:rank=8", "cp:rank=16", "matrix-batch:rank=4")
DEFAULT_BASELINES = ("linear", "full")
INCREMENT_FORMATS = tuple(
    f"{name}:rank={rank}"
    for name, ranks in (("tt", (2, 8, 32)), ("tucker", (2, 8, 32)), ("cp", (4, 16)), ("matrix-batch", (1, 4, 16)))
    for rank in ranks
)


@app.command("compare")
def compare_command(
    model: Annotated[str, typer.Option(help="'nano' (bundled), any timm name, or hf:NAME (transformers).")] = "nano",
    pretrained: Pretrained = False,
    checkpoint: Checkpoint = None,
    data: Annotated[
        str,
        typer.Option(help="A task, such as digits, or images: a folder of classes, a .zip, .tar or .tgz, or a .csv."),
    ] = "digits",
    format: Formats = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            help="Baselines, repeatable: linear, full, bitfit, adapter:hidden=8, ...", show_default="linear, full"
        ),
    ] = None,
    scale: Annotated[str, typer.Option(help="Scale s of the update W + s dW: auto, or a number.")] = "auto",
    seeds: Annotated[int, typer.Option(min=1, help="Training runs per method, one per seed.")] = 2,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training split.")] = 10,
    batch_size: Annotated[int, typer.Option(min=1, help="Batch size: samples per step.")] = 64,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 3e-3,
    device: Annotated[
        str, typer.Option(help="Device to train on: cpu, cuda, ...; default: a GPU if there is one.")
    ] = "",
    out: Annotated[Path, typer.Option(help="Folder for results.json, table.md and accuracy.png.")] = Path(
        "runs/compare"
    ),
    increment: Annotated[
        Path | None, typer.Option(help="Fine-tuned weights (safetensors): rank formats by reconstruction error.")
    ] = None,
) -> None:
    """Train formats on one model and data set, and compare them with the linear probe and full fine-tuning.

    With --increment nothing is trained: formats are ranked by how closely they reproduce the change of the weights in
    full fine-tuning.
    """
    if increment is not None:
        _rank(model, pretrained, checkpoint, increment, format or INCREMENT_FORMATS, out)
        return
    from ..adapters.scale import read_scale
    from ..lab import compare, open_task
    from ..lab.methods import method_of
    from ..lab.models import load_classifier
    from ..lab.report import write_report
    from ..storage.writing import make_folder

    formats = _distinct(format or DEFAULT_FORMATS)
    make_folder(out)
    loaded = load_classifier(model, pretrained=pretrained, checkpoint=checkpoint).to(device_of(device))
    say_random(loaded)
    with progress_bars() as progress:
        splits = open_task(data, loaded, progress=progress)
        result = compare(
            loaded,
            splits,
            formats,
            scale=read_scale(scale),
            seeds=range(seeds),
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
            baselines=tuple(map(method_of, baseline or DEFAULT_BASELINES)),
            progress=progress,
        )
    files = write_report(result, out)
    show(
        result.table(),
        f"{model} on {splits.name}: {counted(epochs, 'epoch')}, {counted(seeds, 'seed')}, scale {scale}",
    )
    say(f"written: {', '.join(map(str, files))}")


def _distinct(texts: Sequence[str]) -> dict[str, Format]:
    from ..formats import format_label, parse_format

    parsed = [parse_format(text) for text in texts]
    formats = {format_label(f): f for f in parsed}
    if len(formats) < len(parsed):
        labels = ", ".join(map(format_label, parsed))
        raise TrainingError("compare: the same format is given twice", got=labels, fix="pass each --format once")
    return formats


def _rank(
    name: str, pretrained: bool, checkpoint: Path | None, increment: Path, formats: Sequence[str], out: Path
) -> None:
    """Rank formats by their reconstruction error on the increment of fine-tuned weights."""
    from ..algebra import reconstruct
    from ..lab.models import load_classifier
    from ..lab.report import write_reconstructions
    from ..plan import plan_for

    chosen, model = _distinct(formats), load_classifier(name, pretrained=pretrained, checkpoint=checkpoint)
    plan = plan_for(model)
    with progress_bars() as progress:
        found = reconstruct(model, increment, chosen, plan=plan, progress=progress)
    files = write_reconstructions(found, out, f"increment of {increment.name} over {name}")
    show(found.table(), f"increment of {increment}: {found.numbers:,} numbers")
    say(f"written: {', '.join(map(str, files))}")
