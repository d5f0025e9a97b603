"""Commands on adapter files: extract, convert, round, combine, to-lora, from-lora."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import AdaptError, CheckpointError
from .console import (
    ALGEBRA,
    DEFAULT_FORMAT,
    AdapterPath,
    Blocks,
    ByShape,
    CheckBase,
    Checkpoint,
    FormatText,
    ModelName,
    Pretrained,
    app,
    plan_of,
    refuse_inputs,
    require_ending,
    say,
    show,
)
from .progress import progress_bars

if TYPE_CHECKING:
    from ..algebra import Recompression
    from ..common.checks import AnyPath
    from ..formats.rank import Rank
    from ..storage.state import AdapterSource

Out = Annotated[Path | None, typer.Option("--out", "-o", help="The adapter file to write.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show sizes and errors, and write nothing.")]
Tolerance = Annotated[
    float | None, typer.Option(help="Relative error allowed per tensor; ranks are chosen to meet it.")
]
RankText = Annotated[
    str | None, typer.Option("--rank", help="An int, one int per bond as in (4,8), or a fraction of the dense size.")
]
Scale = Annotated[float, typer.Option(help="Scale s of the adapter; the factors are fitted to the increment / s.")]


@app.command("extract", rich_help_panel=ALGEBRA)
def extract_command(
    model: ModelName,
    tuned: Annotated[Path, typer.Argument(help="A safetensors file with the fine-tuned weights.")],
    out: Out = None,
    base: Annotated[
        Path | None, typer.Option(help="A safetensors file with the base weights; default: those of the model.")
    ] = None,
    pretrained: Pretrained = False,
    format: FormatText = DEFAULT_FORMAT,
    tolerance: Tolerance = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Also store the tuned biases, norms and other weights outside the plan.")
    ] = False,
    blocks: Blocks = None,
    by_shape: ByShape = False,
    scale: Scale = 1.0,
    dry_run: DryRun = False,
) -> None:
    """Extract an adapter from a fully fine-tuned model: decompose the change of its weights."""
    from ..algebra import extract
    from ..formats import parse_format
    from ..lab.models import load_model, model_shapes

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
    say(f"largest errors: {', '.join(f'{name} {error:.3g}' for name, error in worst)}")


@app.command("convert", rich_help_panel=ALGEBRA)
def convert_command(
    file: AdapterPath, format: FormatText, out: Out = None, tolerance: Tolerance = None, dry_run: DryRun = False
) -> None:
    """Convert an adapter to another format."""
    from ..algebra import convert
    from ..formats import parse_format

    target, parsed = _target(out, dry_run, file), parse_format(format)
    with progress_bars() as progress:
        found = convert(file, parsed, tolerance=tolerance, progress=progress)
    _finish(found, target)


@app.command("round", rich_help_panel=ALGEBRA)
def round_command(
    file: AdapterPath,
    out: Out = None,
    rank: RankText = None,
    tolerance: Tolerance = None,
    budget: Annotated[int | None, typer.Option(help="Maximum number of parameters in the factors.")] = None,
    dry_run: DryRun = False,
) -> None:
    """Lower the ranks of an adapter to a given rank, an error tolerance or a parameter budget."""
    from ..algebra import round_ranks

    target = _target(out, dry_run, file)
    with progress_bars() as progress:
        found = round_ranks(file, rank=_rank(rank), tolerance=tolerance, budget=budget, progress=progress)
    _finish(found, target)


@app.command("combine", rich_help_panel=ALGEBRA)
def combine_command(
    adapters: Annotated[list[str], typer.Argument(help="FILE or FILE=WEIGHT, one or more: cats.safetensors=0.5.")],
    out: Out = None,
    rank: RankText = None,
    tolerance: Tolerance = None,
    format: Annotated[
        str | None, typer.Option("--format", help="Format of the sum; default: that of the first adapter.")
    ] = None,
    head: Annotated[bool, typer.Option(help="Keep the first adapter's head.")] = True,
    check_base: CheckBase = True,
    dry_run: DryRun = False,
) -> None:
    """Compute a weighted sum of adapters that share one plan."""
    from ..algebra import combine
    from ..formats import parse_format

    weighted: dict[AdapterSource, float] = dict(map(_weighted, adapters))
    target = _target(out, dry_run, *map(str, weighted))
    if len(weighted) < len(adapters):
        raise AdaptError("combine: the same file is given twice", fix="pass it once, with its weight: FILE=2")
    parsed = None if format is None else parse_format(format)
    with progress_bars() as progress:
        found = combine(
            weighted,
            format=parsed,
            rank=_rank(rank),
            tolerance=tolerance,
            keep_head=head,
            check_base=check_base,
            progress=progress,
        )
    _finish(found, target)


@app.command("to-lora", rich_help_panel=ALGEBRA)
def to_lora_command(
    model: ModelName,
    file: AdapterPath,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The peft folder to write.")] = None,
    rank: Annotated[
        int | None, typer.Option(min=1, help="Maximum LoRA rank; default: the smallest lossless rank.")
    ] = None,
    head: Annotated[bool, typer.Option(help="Store the trained head too.")] = True,
    dry_run: DryRun = False,
) -> None:
    """Write an adapter as a LoRA folder for peft. The weights of the model are not needed."""
    from ..lab.models import model_shapes
    from ..lora import to_lora

    target, shapes = _target(out, dry_run, file, folder=True), model_shapes(model)
    with progress_bars() as progress:
        found = to_lora(file, shapes, target, rank=rank, head=head, progress=progress)
    show(found.table(), f"{file} as LoRA: {len(found.layers)} layers, {found.parameters:,} parameters")
    say("nothing written" if target is None else f"written: {target}")


@app.command("from-lora", rich_help_panel=ALGEBRA)
def from_lora_command(
    model: ModelName,
    source: Annotated[Path, typer.Argument(help="A peft folder, or a safetensors file from peft or LyCORIS.")],
    out: Out = None,
    pretrained: Pretrained = False,
    checkpoint: Checkpoint = None,
    format: FormatText = DEFAULT_FORMAT,
    tolerance: Tolerance = None,
    blocks: Blocks = None,
    by_shape: ByShape = False,
    scale: Scale = 1.0,
    dry_run: DryRun = False,
) -> None:
    """Compress a LoRA, LoHa or LoKr into factors that all layers of a model share."""
    from ..formats import parse_format
    from ..lab.models import load_model
    from ..lora import from_lora

    target, parsed = _target(out, dry_run, source), parse_format(format)
    loaded = load_model(model, pretrained=pretrained, checkpoint=checkpoint)
    plan = plan_of(loaded, blocks, by_shape=by_shape)
    with progress_bars() as progress:
        found = from_lora(loaded, source, plan, parsed, tolerance=tolerance, scale=scale, progress=progress)
    _finish(found, target)
    if found.shrank >= 1:
        say(f"{found.shrank:.3g} times fewer parameters")
    else:
        say(f"{1 / found.shrank:.3g} times more parameters")


def _target(out: Path | None, dry_run: bool, *inputs: AnyPath, folder: bool = False) -> Path | None:
    """Check the output path before anything is computed, and return it; None for a dry run."""
    if dry_run:
        return None
    if out is None:
        raise CheckpointError("no output path is given", fix="pass --out PATH, or --dry-run")
    refuse_inputs(out, *map(str, inputs))
    if not folder:
        require_ending(out, ".safetensors")
    if not folder and (not out.parent.is_dir() or out.is_dir()):
        got = f"no folder {out.parent}" if not out.parent.is_dir() else "a folder"
        raise CheckpointError(f"cannot write {out}", got=got, fix="pass a file in an existing folder as --out")
    return out


def _finish(found: Recompression, target: Path | None) -> None:
    """Print the result and write it to the target."""
    from ..algebra import Extraction

    show(found.table(), f"{found.parameters:,} parameters")
    if isinstance(found, Extraction):
        show(found.left_over_table())
    if target is None:
        say("nothing written")
        return
    found.save(target)
    say(f"written: {target} ({target.stat().st_size:,} bytes)")


def _rank(text: str | None) -> Rank | None:
    """Parse a rank, written as in the options of a format."""
    from ..formats import parse_format

    return None if text is None else parse_format(f"tt:rank={text}").own_rank


def _weighted(text: str) -> tuple[str, float]:
    """Split FILE=WEIGHT."""
    path, separator, weight = text.rpartition("=")
    try:
        return (path, float(weight)) if separator else (text, 1.0)
    except ValueError as error:
        raise AdaptError(
            "combine: invalid weight", expected="FILE=NUMBER", got=repr(text), fix="cats.safetensors=0.5"
        ) from error
