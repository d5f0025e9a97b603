"""The command line. Every mistake a user can make ends in one line and exit code 2."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from .adapt import load_adapter
from .architectures import plan_by_shape, plan_for
from .baselines import FullFineTuning, LinearProbe
from .checkpoint import FACTORS, HEAD, AdapterFile
from .compare import compare
from .contraction import calibrate, machine, usable
from .data import digits, image_folder
from .errors import PlanError, TensorfactError, TrainingError
from .files import make_folder, write_tensors
from .formats import available_formats, format_label, get_format, parse_format
from .models import load_model, model_shapes
from .network import Mode
from .owners import head_parameters
from .progress import progress_bars
from .report import write_report
from .table import Table

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Tensor-network adapters for neural networks.",
)

DEFAULT_FORMATS = ("tt:rank=8", "tucker:rank=8", "cp:rank=16", "matrix-batch:rank=4")
EXAMPLE_MODES = (Mode("(layer role)", 144, "stack"), Mode("in", 768, "in"), Mode("out", 768, "out"))

ModelName = Annotated[str, typer.Argument(help="'nano' (bundled), any timm name, hf:NAME (transformers), torch:CLASS.")]
AdapterPath = Annotated[Path, typer.Argument(help="A file that Adapter.save wrote.")]
Pretrained = Annotated[bool, typer.Option("--pretrained", help="Load timm's pretrained weights.")]
Checkpoint = Annotated[Path | None, typer.Option(help="A safetensors file with the model's weights.")]
Formats = Annotated[list[str] | None, typer.Option("--format", help="NAME:option=value, repeatable: tt:rank=16.")]


@app.command("compare")
def compare_command(
    model: Annotated[str, typer.Option(help="'nano' (bundled) or any timm model name.")] = "nano",
    pretrained: Pretrained = False,
    checkpoint: Checkpoint = None,
    data: Annotated[str, typer.Option(help="'digits', or a folder of images in train/val/test.")] = "digits",
    format: Formats = None,
    scale: Annotated[float, typer.Option(help="What multiplies the increments.")] = 10.0,
    seeds: Annotated[int, typer.Option(min=1, help="Training runs a method.")] = 2,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training split.")] = 10,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples a step.")] = 64,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 3e-3,
    device: Annotated[str, typer.Option(help="Where to train: cpu, cuda, ...; by default a GPU if there is one.")] = "",
    out: Annotated[Path, typer.Option(help="Folder for results.json, table.md and accuracy.png.")] = Path(
        "runs/compare"
    ),
) -> None:
    """Train formats on one model and data set, beside the linear probe and full fine-tuning."""
    parsed = [parse_format(text) for text in format or DEFAULT_FORMATS]
    formats = {format_label(f): f for f in parsed}
    if len(formats) < len(parsed):
        raise TrainingError("compare: a format is there twice", got=", ".join(map(format_label, parsed)))
    make_folder(out)
    loaded = load_model(model, pretrained=pretrained, checkpoint=checkpoint).to(_device(device))
    with progress_bars() as progress:
        splits = digits(loaded) if data == "digits" else image_folder(data, loaded, progress=progress)
        result = compare(
            loaded,
            splits,
            formats,
            scale=scale,
            seeds=range(seeds),
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
            baselines=(LinearProbe(), FullFineTuning()),
            progress=progress,
        )
    files = write_report(result, out)
    _show(result.table(), f"{model} on {splits.name}: {epochs} epochs, {seeds} seed(s), scale {scale:g}")
    typer.echo(f"written: {', '.join(map(str, files))}")


@app.command("plan")
def plan_command(
    model: ModelName,
    blocks: Annotated[
        list[str] | None,
        typer.Option(help="Which weights, repeatable: all, attention, mlp, conv, depthwise.", show_default="all"),
    ] = None,
    mlp: Annotated[str, typer.Option(help="A d x 4d matrix as d x d 'chunks', or 'whole'.")] = "chunks",
    by_shape: Annotated[
        bool, typer.Option("--by-shape", help="Stack what has one shape, in a model of any family.")
    ] = False,
    format: Formats = None,
) -> None:
    """Print the tensors of a model's plan, what it leaves out, and what each format would train. Needs no weights."""
    formats = list(map(parse_format, format or ["tt:rank=16"]))
    shapes = model_shapes(model)
    if by_shape and (blocks or mlp != "chunks"):
        raise PlanError("--by-shape knows no blocks", fix="leave --blocks and --mlp out")
    plan = plan_by_shape(shapes) if by_shape else plan_for(shapes, blocks or "all", mlp=mlp)  # type: ignore[arg-type]
    resolved = plan.resolve(shapes)
    what = "by shape" if by_shape else f"{', '.join(blocks or ['all'])} blocks"
    _show(resolved.table(), f"{model}, {what}")
    _show(resolved.left_out_table(), f"left out; the tensors hold {resolved.share:.0%} of what could be stacked")
    counts = []
    for each in formats:
        fitted = resolved.fitted(each)
        lower = " (less where a tensor allows no more)" if set(fitted.values()) != {each} else ""
        counts.append((format_label(each) + lower, f"{resolved.num_parameters(fitted):,}"))
    _show(Table(("format", "parameters"), tuple(counts)), "trained parameters, the head apart")


@app.command("formats")
def formats_command() -> None:
    """List the formats, their options, and their networks on ViT-B's 144 x 768 x 768 tensor at rank 4."""
    rows = []
    for name in available_formats():
        cls = get_format(name)
        format = parse_format(f"{name}:rank=4")
        summary = (cls.__doc__ or "").strip().splitlines()[0]
        rows.append((name, summary, str(format.network(EXAMPLE_MODES)), f"{format.num_parameters(EXAMPLE_MODES):,}"))
    _show(Table(("format", "what it is", "network", "parameters"), tuple(rows)))


@app.command("inspect")
def inspect_command(file: AdapterPath) -> None:
    """Print what an adapter file holds."""
    adapter = AdapterFile.read(file)
    adapter.tensors(file)  # a damaged file is said to be one
    shapes = {name: "x".join(map(str, shape)) for name, shape in adapter.shapes.items()}
    rows = []
    for name, format in adapter.formats.items():
        prefix = f"{FACTORS}{name}."
        cores = {key.removeprefix(prefix): shape for key, shape in adapter.shapes.items() if key.startswith(prefix)}
        count = sum(math.prod(shape) for shape in cores.values())
        spelled = ", ".join(f"{core} {shapes[prefix + core]}" for core in cores)
        rows.append((name, format_label(format), f"{adapter.scales[name]:g}", spelled, f"{count:,}"))
    _show(Table(("tensor", "format", "scale", "cores", "parameters"), tuple(rows)), str(file))
    head = [f"{name.removeprefix(HEAD)} {shape}" for name, shape in shapes.items() if name.startswith(HEAD)]
    typer.echo(f"head: {', '.join(head) or 'none'}")
    typer.echo(f"base fingerprint: {adapter.fingerprint}; {file.stat().st_size:,} bytes")
    typer.echo(f"plan: {json.dumps(json.loads(adapter.plan.to_json()), indent=2)}")


@app.command("merge")
def merge_command(
    model: ModelName,
    file: AdapterPath,
    out: Annotated[Path, typer.Option("--out", "-o", help="The merged weights, as safetensors.")],
    pretrained: Pretrained = False,
    checkpoint: Checkpoint = None,
) -> None:
    """Write a model's weights with an adapter merged into them."""
    described = AdapterFile.read(file)
    loaded = load_model(model, pretrained=pretrained, checkpoint=checkpoint)
    own = {HEAD + name: loaded.get_parameter(name).shape for name in head_parameters(loaded, True)}
    resized = {
        described.shapes[name][0] for name in own.keys() & described.shapes if described.shapes[name] != own[name]
    }
    if resized and hasattr(loaded, "reset_classifier"):  # the file's head has other classes than the model's
        loaded.reset_classifier(resized.pop())  # type: ignore[operator]
    adapter = load_adapter(loaded, file)
    adapter.merge()
    adapter.remove()
    write_tensors(out, loaded.state_dict(), {"kind": "model", "model": model})
    typer.echo(f"merged {len(adapter.resolved.parameters)} weights into {out} ({out.stat().st_size:,} bytes)")


@app.command("calibrate")
def calibrate_command(device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu") -> None:
    """Measure the three constants that the planner predicts times with."""
    known = machine(_device(device))
    found = calibrate(device, use=False)
    rows = tuple(
        (what, spell(now), spell(before))
        for what, spell, now, before in (
            ("products of large matrices", "{:.3g} FLOP/s".format, found.flops_per_second, known.flops_per_second),
            ("element-wise operations", "{:.3g} bytes/s".format, found.bytes_per_second, known.bytes_per_second),
            ("the smallest product", "{:.3g} s".format, found.seconds_per_launch, known.seconds_per_launch),
        )
    )
    _show(Table(("constant", "measured", "planned with"), rows), f"{found.device}, {torch.get_num_threads()} thread(s)")
    typer.echo(f"tensorfact.calibrate({device!r}) in a program measures, and plans with that from then on")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: The words after the program's name; by default those it was started with.
    """
    try:
        app(arguments)
    except TensorfactError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


def _show(table: Table, title: str | None = None) -> None:
    console = Console()
    if not console.is_terminal:  # a pipe gets whole lines
        typer.echo("\n".join([*([title] if title else []), str(table)]))
        return
    shown = RichTable(title=title and Text(title))
    for header in table.headers:
        shown.add_column(Text(header), overflow="fold")
    for row in table.rows:
        shown.add_row(*map(Text, row))
    console.print(shown)


def _device(name: str) -> torch.device:
    return usable(name or ("cuda" if torch.cuda.is_available() else "cpu"))
