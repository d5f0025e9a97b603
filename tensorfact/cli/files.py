"""Commands that need no model: formats, inspect, and calibrate, which measures the machine."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from ..common.table import Table, counted
from .console import LOOK_UP, AdapterPath, app, device_of, say, show


@app.command("formats", rich_help_panel=LOOK_UP)
def formats_command(
    draw: Annotated[Path | None, typer.Option("--draw", help="Folder for one SVG picture of each format.")] = None,
) -> None:
    """List the formats, their options, and their networks on ViT-B's 144 x 768 x 768 tensor at rank 4.

    Formats that need several input and output modes get 24 x 32 in place of each 768.
    """
    from ..drawing import draw as picture_of
    from ..errors import FormatError
    from ..formats import available_formats, get_format
    from ..storage.writing import make_folder, write_text
    from .examples import example

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
        format, modes = example(cls)
        network = format and format.network(modes)
        spelled = (str(network), f"{network.num_parameters:,}") if network else ("", "")
        rows.append((name, summary, ", ".join(field.name for field in dataclasses.fields(cls)), *spelled))
        if draw is not None and format is not None:
            write_text(draw / f"{name}.svg", picture_of(format, modes) + "\n")
    show(Table(("format", "what it is", "options", "network", "parameters"), tuple(rows)))
    if draw is not None:
        say(f"pictures in {draw}")


@app.command("inspect", rich_help_panel=LOOK_UP)
def inspect_command(file: AdapterPath) -> None:
    """Print the contents of an adapter: tensors, formats, scales, cores, head and plan."""
    from ..formats import format_label
    from ..storage import AdapterState
    from ..storage.description import FACTORS
    from ..storage.located import adapter_file

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
    say(f"base fingerprint: {adapter.fingerprint}; {adapter_file(file).stat().st_size:,} bytes")
    say(f"plan: {json.dumps(json.loads(adapter.plan.to_json()), indent=2)}")


@app.command("fetch", rich_help_panel=LOOK_UP)
def fetch_command(
    names: Annotated[
        list[str],
        typer.Argument(
            help="What to download: dinov2-s, mnist, fashion-mnist, letters, emoji, textile; tasks for all data."
        ),
    ],
) -> None:
    """Download weights or data into the user's cache, once: 90 MB for dinov2-s, 217 MB for all tasks."""
    from ..lab.fetched import fetch

    for name in names:
        for found, path in fetch(name).items():
            say(f"{found}: {path}")


@app.command("calibrate", rich_help_panel=LOOK_UP)
def calibrate_command(device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu") -> None:
    """Measure the three constants of this machine from which the planner predicts run times."""
    import torch

    from ..network import calibrate, machine

    known = machine(device_of(device))
    found = calibrate(device, use=False)
    rows = tuple(
        (what, spell(now), spell(before))
        for what, spell, now, before in (
            ("large matrix products", "{:.3g} FLOP/s".format, found.flops_per_second, known.flops_per_second),
            ("element-wise operations", "{:.3g} bytes/s".format, found.bytes_per_second, known.bytes_per_second),
            ("smallest matrix product", "{:.3g} s".format, found.seconds_per_launch, known.seconds_per_launch),
        )
    )
    show(
        Table(("constant", "measured", "in use"), rows), f"{found.device}, {counted(torch.get_num_threads(), 'thread')}"
    )
    say(f"to measure and use these constants in a program, call tensorfact.network.calibrate({device!r})")
