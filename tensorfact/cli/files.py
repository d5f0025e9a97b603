"""Commands that need no model: what formats there are, what a file holds."""

from __future__ import annotations

import json
import math

import typer

from ..checkpoint import FACTORS, HEAD, AdapterFile
from ..formats import available_formats, format_label, get_format, parse_format
from ..network import Mode
from ..table import Table
from .console import AdapterPath, app, show

EXAMPLE_MODES = (Mode("(layer role)", 144, "stack"), Mode("in", 768, "in"), Mode("out", 768, "out"))


@app.command("formats")
def formats_command() -> None:
    """List the formats, their options, and their networks on ViT-B's 144 x 768 x 768 tensor at rank 4."""
    rows = []
    for name in available_formats():
        cls = get_format(name)
        format = parse_format(f"{name}:rank=4")
        summary = (cls.__doc__ or "").strip().splitlines()[0]
        rows.append((name, summary, str(format.network(EXAMPLE_MODES)), f"{format.num_parameters(EXAMPLE_MODES):,}"))
    show(Table(("format", "what it is", "network", "parameters"), tuple(rows)))


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
    show(Table(("tensor", "format", "scale", "cores", "parameters"), tuple(rows)), str(file))
    head = [f"{name.removeprefix(HEAD)} {shape}" for name, shape in shapes.items() if name.startswith(HEAD)]
    typer.echo(f"head: {', '.join(head) or 'none'}")
    typer.echo(f"base fingerprint: {adapter.fingerprint}; {file.stat().st_size:,} bytes")
    typer.echo(f"plan: {json.dumps(json.loads(adapter.plan.to_json()), indent=2)}")
