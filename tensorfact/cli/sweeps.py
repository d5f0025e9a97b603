"""Commands for many runs: sweep, run, report."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import SWEEPS, app, device_of, say, show
from .progress import progress_bars

if TYPE_CHECKING:
    from ..lab.sweep import Results

Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the runs and the report.")]
DataRoot = Annotated[Path | None, typer.Option(help="Folder with one subfolder of data per benchmark.")]
Device = Annotated[str, typer.Option(help="Device to train on: cpu, cuda, ...; default: a GPU if there is one.")]
Loaders = Annotated[int, typer.Option(min=0, help="Data-loading processes per run.")]
Tracker = Annotated[str | None, typer.Option(help="Tracker of accelerate: tensorboard, wandb, ...")]
Words = list[str] | None


@app.command("sweep", rich_help_panel=SWEEPS)
def sweep_command(
    preset_name: Annotated[
        str, typer.Option("--preset", help="'small' (the bundled model), 'real' (DINOv2 on real tasks), or 'paper'.")
    ] = "small",
    size: Annotated[
        str | None, typer.Option(help="Size of the preset 'real': 'smoke' (minutes), 'cpu' (hours), 'full' (a GPU).")
    ] = None,
    data_root: DataRoot = None,
    part: Annotated[Words, typer.Option(help="Parts of the preset to run, repeatable; default: all.")] = None,
    row: Annotated[Words, typer.Option(help="Rows of the preset to run, by label, repeatable; default: all.")] = None,
    method: Annotated[
        Words,
        typer.Option(help="Methods in place of the preset's rows, repeatable, at --lr: tt:rank=4, lora, bitfit."),
    ] = None,
    task: Annotated[
        Words,
        typer.Option(
            help="Tasks in place of the preset's, repeatable: digits, real:NAME, vtab:NAME, folder:PATH, hf:NAME."
        ),
    ] = None,
    model: Annotated[
        Words,
        typer.Option(help="Model in place of the preset's, repeatable: NAME for all parts, PART=NAME for one."),
    ] = None,
    pretrained: Annotated[bool | None, typer.Option(help="Load pretrained weights; default: as in the preset.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="A safetensors file with the model's weights.")] = None,
    protocol: Annotated[
        str,
        typer.Option(help="Choose options on the validation split ('validated') or on the test split ('as-released')."),
    ] = "validated",
    scale: Annotated[
        list[str] | None, typer.Option(help="Scales to choose among, repeatable: numbers, or auto.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Final runs per row and task, one per seed.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training samples.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Batch size: samples per step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    precision: Annotated[
        str | None, typer.Option(help="Mixed precision: bf16 runs matrix products in bfloat16.")
    ] = None,
    imagenet_statistics: Annotated[
        bool | None, typer.Option(help="Normalise images with the mean and deviation of ImageNet, as FacT's code does.")
    ] = None,
    trials: Annotated[int, typer.Option(min=0, help="Search the options with N Optuna trials; 0 = the full grid.")] = 0,
    engine: Annotated[
        str, typer.Option(help="Where runs execute: 'in-process', 'pool' (several processes) or 'ray' (a cluster).")
    ] = "in-process",
    processes: Annotated[int, typer.Option(min=1, help="Number of processes of the pool.")] = 2,
    gpus: Annotated[float, typer.Option(min=0, help="GPUs shared by the pool, or GPUs per run on Ray.")] = 0,
    address: Annotated[str | None, typer.Option(help="Address of a Ray cluster; default: one on this machine.")] = None,
    device: Device = "",
    loaders: Loaders = 0,
    check: Annotated[bool, typer.Option(help="Open every image before training starts.")] = True,
    tracker: Tracker = None,
    limit: Annotated[float | None, typer.Option(help="Seconds after which no run begins.")] = None,
    record: Annotated[
        Path | None, typer.Option(help="One file of finished runs: read first, and written after every run.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List rows, parameter counts and numbers of runs, and look for the data.")
    ] = False,
    specs: Annotated[
        bool, typer.Option("--specs", help="Print the specs of the runs, one line of JSON each, and exit.")
    ] = False,
    out: Out = Path("runs/sweep"),
) -> None:
    """Run methods on tasks, choose their options on the validation split, and write a report.

    Re-running the same command resumes the sweep.
    """
    from ..adapters.scale import read_scale
    from ..lab.data.tasks import require_data
    from ..lab.sweep import (
        ENGINES,
        PROTOCOLS,
        known,
        known_specs,
        narrowed,
        on_models,
        preset,
        run_sweep,
        sizes,
        trained_for,
    )

    found = known("protocol", protocol, PROTOCOLS)(preset(preset_name, size))
    found = narrowed(
        found,
        parts=part or (),
        rows=row or (),
        tasks=task or (),
        methods=method or (),
        scales=[read_scale(each) for each in scale or ()],
    )
    changes: dict[str, object] = {} if pretrained is None else {"pretrained": pretrained}
    changes |= {} if checkpoint is None else {"checkpoint": str(checkpoint)}
    settings = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "precision": precision}
    settings |= {"imagenet_statistics": imagenet_statistics}
    found = trained_for(on_models(found, model or (), **changes), seeds=seeds, **settings)
    if specs:
        for spec in known_specs(found):
            say(spec.to_json())
        return
    if dry_run:
        for each in found.parts:
            for name in each.tasks:
                require_data(name, data_root)
            show(sizes(found, each), f"{each.name}: {each.title}, {each.model}, {len(each.tasks)} task(s)")
        chosen = ", ".join(f"{name} {value}" for name, value in dataclasses.asdict(found.settings).items())
        say(f"{len(known_specs(found)):,} runs before options are chosen. {found.protocol} Settings: {chosen}.")
        return
    made = known("engine", engine, ENGINES)(processes, gpus, address)
    with progress_bars() as progress:
        results = run_sweep(
            found,
            out,
            root=data_root,
            device=str(device_of(device)),
            engine=made,
            workers=loaders,
            tracker=tracker,
            check=check,
            trials=trials,
            limit=limit,
            record=record,
            progress=progress,
        )
    _report(results, out)
    missing = sum(not cell.runs for cell in results.cells)
    if limit is not None and missing:
        say(f"the time is over: {missing} of {len(results.cells)} cells have no result yet; the same command goes on")


@app.command("run", rich_help_panel=SWEEPS)
def run_command(
    spec: Annotated[Path, typer.Argument(help="Spec of the run: a file with one line of `tensorfact sweep --specs`.")],
    data_root: DataRoot = None,
    device: Device = "",
    loaders: Loaders = 0,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the trained parameters in the folder of the run.")] = False,
    tracker: Tracker = None,
    out: Out = Path("runs/sweep"),
) -> None:
    """Execute one run of a sweep, in one process or under torchrun or `accelerate launch`."""
    from ..lab.sweep import Runner, RunSpec
    from ..lab.sweep.stored import read_json

    found = RunSpec.from_dict(read_json(spec, cause="", fix="tensorfact sweep --specs | head -1 > FILE"))
    runner = Runner(out, data_root, str(device_of(device)), loaders, keep, tracker)
    with progress_bars() as progress:
        run = runner.run(found, progress=progress)
    if os.environ.get("RANK", "0") == "0":  # only the first process of a launcher prints
        shown = ("parameters", "val_accuracy", "test_accuracy", "failure")
        say(json.dumps({"run": found.id, **{name: getattr(run.outcome, name) for name in shown}}))


@app.command("report", rich_help_panel=SWEEPS)
def report_command(
    runs: Annotated[Path, typer.Argument(help="Folder of runs, written by `tensorfact sweep --out`.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the report; default: the folder of runs.")
    ] = None,
) -> None:
    """Write the report of a sweep, finished or not: an HTML page, tables and pictures."""
    from ..lab.sweep import read_results

    _report(read_results(runs), out or runs)


def _report(results: Results, folder: Path) -> None:
    from ..lab.report import summarize, terminal_tables, write_sweep_report

    files: Sequence[Path] = write_sweep_report(results, folder)
    for title, table in terminal_tables(summarize(results)):
        show(table, title)
    say(f"written: {', '.join(map(str, files))}")
