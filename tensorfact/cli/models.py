"""Commands on a model: plan, merge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..common.table import Table
from ..errors import PlanError
from .console import (
    AdapterPath,
    CheckBase,
    Checkpoint,
    Formats,
    ModelName,
    Pretrained,
    app,
    open_picture,
    plan_of,
    refuse_inputs,
    say,
    show,
)


@app.command("plan")
def plan_command(
    model: ModelName,
    blocks: Annotated[
        list[str] | None,
        typer.Option(
            help="Blocks to adapt, repeatable: all, attention, mlp, conv, depthwise, experts.", show_default="all"
        ),
    ] = None,
    mlp: Annotated[
        str, typer.Option(help="The d x 4d matrices of an MLP: split into d x d 'chunks', or 'whole'.")
    ] = "chunks",
    by_shape: Annotated[
        bool, typer.Option("--by-shape", help="For models without a built-in plan: group weights of equal shape.")
    ] = False,
    format: Formats = None,
    draw: Annotated[Path | None, typer.Option("--draw", help="SVG file for a picture of the plan.")] = None,
) -> None:
    """Print the tensors of a model's plan, the parameters left out, and the size of each format. Needs no weights."""
    from ..drawing import draw as picture_of
    from ..formats import format_label, parse_format
    from ..lab.models import model_shapes
    from ..storage.writing import write_text

    formats = list(map(parse_format, format or ["tt:rank=16"]))
    shapes = model_shapes(model)
    if by_shape and (blocks or mlp != "chunks"):
        raise PlanError("--by-shape cannot be combined with --blocks or --mlp", fix="leave out --blocks and --mlp")
    plan = plan_of(shapes, blocks, mlp, by_shape=by_shape)
    resolved = plan.resolve(shapes)
    what = "by shape" if by_shape else f"{', '.join(blocks or ['all'])} blocks"
    show(resolved.table(), f"{model}, {what}")
    show(resolved.left_out_table(), f"left out; the tensors hold {resolved.share:.0%} of the matrices and kernels")
    counts = []
    for each in formats:
        fitted = resolved.fitted(each)
        lower = " (a lower rank where a tensor does not admit this one)" if set(fitted.values()) != {each} else ""
        counts.append((format_label(each) + lower, f"{resolved.num_parameters(fitted):,}"))
    show(Table(("format", "parameters"), tuple(counts)), "trained parameters, excluding the head")
    if draw is not None:
        write_text(draw, picture_of(plan.resolve(shapes)) + "\n")
        say(f"picture: {draw}")
        open_picture(draw)


@app.command("merge")
def merge_command(
    model: ModelName,
    file: AdapterPath,
    out: Annotated[Path, typer.Option("--out", "-o", help="Safetensors file for the merged weights.")],
    pretrained: Pretrained = False,
    checkpoint: Checkpoint = None,
    check_base: CheckBase = True,
) -> None:
    """Merge an adapter into the weights of a model, and write the weights."""
    from ..adapters import load_adapter
    from ..lab.models import load_model
    from ..model.head import head_parameters
    from ..storage import AdapterDescription
    from ..storage.files import write_tensors

    refuse_inputs(out, file, checkpoint)
    described = AdapterDescription.read(file)
    loaded = load_model(model, pretrained=pretrained, checkpoint=checkpoint)
    own = {name: loaded.get_parameter(name).shape for name in head_parameters(loaded, True)}
    resized = {described.head[name][0] for name in own.keys() & described.head if described.head[name] != own[name]}
    if resized and hasattr(loaded, "reset_classifier"):  # the saved head has another number of classes
        loaded.reset_classifier(resized.pop())  # type: ignore[operator]  # timm's, as in `with_head`
    adapter = load_adapter(loaded, file, check_base=check_base)
    adapter.merge()
    adapter.remove()
    write_tensors(out, loaded.state_dict(), {"kind": "model", "model": model})
    say(f"merged {len(adapter.resolved.parameters)} weights into {out} ({out.stat().st_size:,} bytes)")
