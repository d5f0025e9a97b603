"""Commands that need no model: formats, inspect."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from ..common.table import Table
from ..drawing import draw as picture_of
from ..errors import FormatError
from ..formats import Format, TensorTrain, available_formats, format_label, get_format
from ..network import Mode
from ..storage import AdapterState
from ..storage.description import FACTORS
from ..storage.writing import make_folder, write_text
from .console import AdapterPath, app, say, show

EXAMPLE_MODES = (Mode("(layer role)", 144, "stack"), Mode("in", 768, "in"), Mode("out", 768, "out"))
ROLE_MODES = (Mode("layer", 12, "stack"), Mode("role", 12, "stack"), *EXAMPLE_MODES[1:])
SPLIT_MODES = (
    Mode("(layer role)", 144, "stack"),
    *(Mode("in1", 24, "in"), Mode("in2", 32, "in")),
    *(Mode("out1", 24, "out"), Mode("out2", 32, "out")),
)
EXAMPLE_OPTIONS = {"rank": 4, "format": TensorTrain(rank=4), "cores": {"U": TensorTrain(rank=2)}}
"""Values for the required options of the formats in the list."""


@app.command("formats")
def formats_command(
    draw: Annotated[Path | None, typer.Option("--draw", help="Folder for one SVG picture of each format.")] = None,
) -> None:
    """List the formats, their options, and their networks on ViT-B's 144 x 768 x 768 tensor at rank 4.

    Formats that need several input and output modes get 24 x 32 in place of each 768.
    """
    rows = []
    if draw is not None:
        make_folder(draw)
    for name in available_formats():
        try:
            cls = get_format(name)
        except FormatError as error:  # an installed package whose format cannot be loaded
            rows.append((name, str(error), "", "", ""))
            continue
        summary = (cls.__doc__ or "").strip().splitlines()[0]
        format, modes = _example(cls)
        network = format and format.network(modes)
        spelled = (str(network), f"{network.num_parameters:,}") if network else ("", "")
        rows.append((name, summary, ", ".join(field.name for field in dataclasses.fields(cls)), *spelled))
        if draw is not None and format is not None:
            write_text(draw / f"{name}.svg", picture_of(format, modes) + "\n")
    show(Table(("format", "what it is", "options", "network", "parameters"), tuple(rows)))
    if draw is not None:
        say(f"pictures in {draw}")


def _example(cls: type[Format]) -> tuple[Format | None, tuple[Mode, ...]]:
    """Return an example of a format and modes that it accepts; None if `EXAMPLE_OPTIONS` lacks a required option."""
    names = {field.name: field.default is dataclasses.MISSING for field in dataclasses.fields(cls)}
    options = {name: value for name, value in EXAMPLE_OPTIONS.items() if names.get(name)}
    for modes in (EXAMPLE_MODES, ROLE_MODES, SPLIT_MODES):
        try:
            format = cls(**options)
            format.network(modes)
        except (TypeError, FormatError):
            continue
        return format, modes
    return None, ()


@app.command("inspect")
def inspect_command(file: AdapterPath) -> None:
    """Print the contents of an adapter file: tensors, formats, scales, cores, head and plan."""
    adapter = AdapterState.load(file).description  # reads the tensors too, to detect a damaged file
    shapes = {name: "x".join(map(str, shape)) for name, shape in adapter.shapes.items()}
    rows = []
    for name, format in adapter.formats.items():
        prefix = f"{FACTORS}{name}."
        cores = {key.removeprefix(prefix): shape for key, shape in adapter.shapes.items() if key.startswith(prefix)}
        count = format.num_parameters(adapter.modes[name])
        frozen = {core.name for core in format.network(adapter.modes[name]).cores if not core.trained}
        spelled = ", ".join(f"{core} {shapes[prefix + core]}{' frozen' * (core in frozen)}" for core in cores)
        rows.append((name, format_label(format), f"{adapter.scales[name]:g}", spelled, f"{count:,}"))
    show(Table(("tensor", "format", "scale", "cores", "parameters"), tuple(rows)), str(file))
    head = [f"{name} {'x'.join(map(str, shape))}" for name, shape in adapter.head.items()]
    say(f"head: {', '.join(head) or 'none'}")
    say(f"base fingerprint: {adapter.fingerprint}; {file.stat().st_size:,} bytes")
    say(f"plan: {json.dumps(json.loads(adapter.plan.to_json()), indent=2)}")
