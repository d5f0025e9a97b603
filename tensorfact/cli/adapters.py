"""Commands on adapter files: extract, convert, round, combine, LoRA in and out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..algebra import Extraction, Recompression, combine, convert, extract, round_ranks
from ..common.checks import AnyPath
from ..errors import AdaptError, CheckpointError
from ..formats import parse_format
from ..formats.rank import Rank
from ..lab.models import load_model, model_shapes
from ..lora import from_lora, to_lora
from ..storage.state import AdapterSource
from .console import AdapterPath, Checkpoint, ModelName, Pretrained, app, plan_of, show
from .progress import progress_bars

Out = Annotated[Path | None, typer.Option("--out", "-o", help="The adapter file to write.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show sizes and errors, and write nothing.")]
FormatText = Annotated[str, typer.Option("--format", help="NAME:option=value: tt:rank=16, tucker:rank=full.")]
Tolerance = Annotated[float | None, typer.Option(help="Relative error allowed for each tensor: ranks are found.")]
RankText = Annotated[str | None, typer.Option("--rank", help="An int, (4,8), or a fraction of the dense size.")]
Blocks = Annotated[list[str] | None, typer.Option(help="Which weights, as in `tensorfact plan`.", show_default="all")]
ByShape = Annotated[
    bool, typer.Option("--by-shape", help="For models without a built-in plan: group weights of equal shape.")
]
Scale = Annotated[float, typer.Option(help="The adapter's scale; its increment does not depend on it.")]


@app.command("extract")
def extract_command(
    model: ModelName,
    tuned: Annotated[Path, typer.Argument(help="The fine-tuned weights, as safetensors.")],
    out: Out = None,
    base: Annotated[
        Path | None, typer.Option(help="The base weights, as safetensors; by default the model's own.")
    ] = None,
    pretrained: Pretrained = False,
    format: FormatText = "tt:rank=16",
    tolerance: Tolerance = None,
    keep: Annotated[bool, typer.Option("--keep", help="Store what the plan does not cover as it was tuned.")] = False,
    blocks: Blocks = None,
    by_shape: ByShape = False,
    scale: Scale = 1.0,
    dry_run: DryRun = False,
) -> None:
    """Make an adapter of a fully fine-tuned model: decompose what tuning changed."""
    target, parsed = _target(out, dry_run, tuned, *([base] if base else [])), parse_format(format)
    host = model_shapes(model) if base is not None else load_model(model, pretrained=pretrained)
    plan = plan_of(host, blocks, by_shape=by_shape)
    with progress_bars() as progress:
        found = extract(
            host if base is None else base,
            tuned,
            plan,
            parsed,
            model=host,
            scale=scale,
            tolerance=tolerance,
            keep=keep,
            progress=progress,
        )
    _finish(found, target)
    worst = sorted(found.errors.items(), key=lambda pair: -pair[1])[:3]
    typer.echo(f"largest errors: {', '.join(f'{name} {error:.3g}' for name, error in worst)}")


@app.command("convert")
def convert_command(
    file: AdapterPath, format: FormatText, out: Out = None, tolerance: Tolerance = None, dry_run: DryRun = False
) -> None:
    """Bring an adapter into another format."""
    target, parsed = _target(out, dry_run, file), parse_format(format)
    with progress_bars() as progress:
        found = convert(file, parsed, tolerance=tolerance, progress=progress)
    _finish(found, target)


@app.command("round")
def round_command(
    file: AdapterPath,
    out: Out = None,
    rank: RankText = None,
    tolerance: Tolerance = None,
    budget: Annotated[int | None, typer.Option(help="How many numbers the factors may hold.")] = None,
    dry_run: DryRun = False,
) -> None:
    """Lower an adapter's ranks: to a rank, to what an error allows, or to what a budget allows."""
    target = _target(out, dry_run, file)
    with progress_bars() as progress:
        found = round_ranks(file, rank=_rank(rank), tolerance=tolerance, budget=budget, progress=progress)
    _finish(found, target)


@app.command("combine")
def combine_command(
    adapters: Annotated[list[str], typer.Argument(help="FILE or FILE=WEIGHT, several: cats.safetensors=0.5.")],
    out: Out = None,
    rank: RankText = None,
    tolerance: Tolerance = None,
    format: Annotated[
        str | None, typer.Option("--format", help="The sum's format; the first adapter's by default.")
    ] = None,
    head: Annotated[bool, typer.Option(help="Keep the first adapter's head.")] = True,
    dry_run: DryRun = False,
) -> None:
    """Add adapters of one plan, each times a weight."""
    weighted: dict[AdapterSource, float] = dict(map(_weighted, adapters))
    target = _target(out, dry_run, *map(str, weighted))
    if len(weighted) < len(adapters):
        raise AdaptError("combine: a file is there twice", fix="name each once, with the sum of its weights")
    parsed = None if format is None else parse_format(format)
    with progress_bars() as progress:
        found = combine(
            weighted, format=parsed, rank=_rank(rank), tolerance=tolerance, keep_head=head, progress=progress
        )
    _finish(found, target)


@app.command("to-lora")
def to_lora_command(
    model: ModelName,
    file: AdapterPath,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The folder to write.")] = None,
    rank: Annotated[
        int | None, typer.Option(min=1, help="Maximum LoRA rank; default: the smallest lossless rank.")
    ] = None,
    head: Annotated[bool, typer.Option(help="Store the trained head too.")] = True,
    dry_run: DryRun = False,
) -> None:
    """Write an adapter as a LoRA folder of peft's. Needs no weights of the model."""
    target, shapes = _target(out, dry_run, file, folder=True), model_shapes(model)
    with progress_bars() as progress:
        found = to_lora(file, shapes, target, rank=rank, head=head, progress=progress)
    show(found.table(), f"{file} as LoRA: {len(found.layers)} layers, {found.parameters:,} numbers")
    typer.echo("nothing written" if target is None else f"written: {target}")


@app.command("from-lora")
def from_lora_command(
    model: ModelName,
    source: Annotated[Path, typer.Argument(help="A folder of peft's, or a safetensors file of peft's or LyCORIS's.")],
    out: Out = None,
    pretrained: Pretrained = False,
    checkpoint: Checkpoint = None,
    format: FormatText = "tt:rank=16",
    tolerance: Tolerance = None,
    blocks: Blocks = None,
    by_shape: ByShape = False,
    scale: Scale = 1.0,
    dry_run: DryRun = False,
) -> None:
    """Recompress a LoRA, LoHa or LoKr across the layers of a model."""
    target, parsed = _target(out, dry_run, source), parse_format(format)
    loaded = load_model(model, pretrained=pretrained, checkpoint=checkpoint)
    plan = plan_of(loaded, blocks, by_shape=by_shape)
    with progress_bars() as progress:
        found = from_lora(loaded, source, plan, parsed, tolerance=tolerance, scale=scale, progress=progress)
    _finish(found, target)
    typer.echo(
        f"{found.shrank:.3g} times fewer numbers" if found.shrank >= 1 else f"{1 / found.shrank:.3g} times more numbers"
    )


def _target(out: Path | None, dry_run: bool, *inputs: AnyPath, folder: bool = False) -> Path | None:
    """Return where to write, None for nowhere; a mistake shows before anything is computed."""
    if dry_run:
        return None
    if out is None:
        raise CheckpointError("nowhere to write", fix="pass --out FILE, or --dry-run")
    if out.resolve() in [Path(each).resolve() for each in inputs]:
        raise CheckpointError(f"{out} is what is read", fix="choose another --out")
    if not folder and (not out.parent.is_dir() or out.is_dir()):
        got = f"no folder {out.parent}" if not out.parent.is_dir() else "a folder"
        raise CheckpointError(f"cannot write {out}", got=got, fix="pass the path of a file in a folder that exists")
    return out


def _finish(found: Recompression, target: Path | None) -> None:
    """Show what was found, and write it."""
    show(found.table(), f"{found.parameters:,} parameters")
    if isinstance(found, Extraction):
        show(found.left_over_table())
    if target is None:
        typer.echo("nothing written")
        return
    found.save(target)
    typer.echo(f"written: {target} ({target.stat().st_size:,} bytes)")


def _rank(text: str | None) -> Rank | None:
    """Read a rank as in a format's options."""
    return None if text is None else parse_format(f"tt:rank={text}").own_rank


def _weighted(text: str) -> tuple[str, float]:
    """Split FILE=WEIGHT."""
    path, separator, weight = text.rpartition("=")
    try:
        return (path, float(weight)) if separator else (text, 1.0)
    except ValueError as error:
        raise AdaptError(
            "combine: a weight", expected="FILE=NUMBER", got=repr(text), fix="cats.safetensors=0.5"
        ) from error
