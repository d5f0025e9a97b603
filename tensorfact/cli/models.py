"""Commands on a model: plan, doctor, merge."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from ..common.table import Table, counted
from ..errors import AdaptError, CheckpointError
from .console import (
    DEFAULT_FORMAT,
    Blocks,
    ByShape,
    CheckBase,
    Checkpoint,
    FormatText,
    Mlp,
    ModelName,
    Pretrained,
    app,
    open_picture,
    plan_of,
    refuse_inputs,
    require_ending,
    say,
    show,
)

if TYPE_CHECKING:
    from torch import nn

    from ..adapters import Adapter


@app.command("plan")
def plan_command(
    model: ModelName,
    blocks: Blocks = None,
    mlp: Mlp = "chunks",
    by_shape: ByShape = False,
    format: Annotated[
        list[str] | None,
        typer.Option("--format", help="NAME:option=value, repeatable: tt:rank=16.", show_default=DEFAULT_FORMAT),
    ] = None,
    draw: Annotated[Path | None, typer.Option("--draw", help="SVG file for a picture of the plan.")] = None,
) -> None:
    """Print the tensors of a model's plan, the parameters left out, and the size of each format. Needs no weights."""
    from ..drawing import draw as picture_of
    from ..formats import format_label, parse_format
    from ..lab.models import model_shapes
    from ..storage.writing import write_text

    require_ending(draw, ".svg")
    formats = list(map(parse_format, format or [DEFAULT_FORMAT]))
    shapes = model_shapes(model)
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


@app.command("doctor")
def doctor_command(
    model: ModelName,
    format: FormatText = DEFAULT_FORMAT,
    blocks: Blocks = None,
    mlp: Mlp = "chunks",
    by_shape: ByShape = False,
    peft: Annotated[
        str | None, typer.Option("--peft", help="A folder of peft's: also find its layers that the model never calls.")
    ] = None,
) -> None:
    """Print what an adapter would reach in a model, whether that is in use, and the cost of training it."""
    from ..lab import doctor
    from ..lab.models import model_shapes

    shapes = model_shapes(model)
    plan = plan_of(shapes, blocks, mlp, by_shape=by_shape) if blocks or mlp != "chunks" or by_shape else None
    found = doctor(shapes, plan, format=format, peft=peft)
    for title, table in found.tables().items():
        show(table, title)
    for remark in found.remarks:
        say(remark)


@app.command("merge")
def merge_command(
    out: Annotated[Path, typer.Option("--out", "-o", help="Safetensors file for the merged weights.")],
    first: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL", help="The base model; leave it out for the folder of an adapter, which names it."
        ),
    ] = None,
    second: Annotated[
        str | None,
        typer.Argument(metavar="ADAPTER", help="An adapter: a folder, OWNER/NAME on the Hub, or, after MODEL, a file."),
    ] = None,
    pretrained: Pretrained = False,
    checkpoint: Checkpoint = None,
    check_base: CheckBase = True,
) -> None:
    """Merge an adapter into the weights of its base model, and write the weights."""
    from ..storage.files import write_tensors

    require_ending(out, ".safetensors")
    if first is None:
        raise AdaptError("merge: no adapter is given", fix="tensorfact merge FOLDER --out FILE")
    if second is None:
        name, model = _loaded(out, first, pretrained, checkpoint, check_base=check_base)
    else:
        refuse_inputs(out, second, checkpoint)
        name, model = first, _adapted(first, second, pretrained, checkpoint, check_base=check_base)
    adapter = cast("Adapter", model.tensorfact)
    adapter.merge()
    adapter.remove()
    write_tensors(out, model.state_dict(), {"kind": "model", "model": name})
    weights = counted(len(adapter.resolved.parameters), "weight")
    say(f"merged {weights} into {out} ({out.stat().st_size:,} bytes)")


def _adapted(name: str, source: str, pretrained: bool, checkpoint: Path | None, *, check_base: bool) -> nn.Module:
    """Make a model by name, with the number of classes of an adapter, and put the adapter on it."""
    from ..adapters import load_adapter
    from ..lab.models import load_model
    from ..model.head import head_parameters
    from ..storage import AdapterDescription

    described = AdapterDescription.read(source)
    model = load_model(name, pretrained=pretrained, checkpoint=checkpoint)
    own = {name: model.get_parameter(name).shape for name in head_parameters(model, True)}
    resized = {described.head[name][0] for name in own.keys() & described.head if described.head[name] != own[name]}
    if resized and hasattr(model, "reset_classifier"):  # the saved head has another number of classes
        model.reset_classifier(resized.pop())  # type: ignore[operator]  # timm's, as in `with_head`
    load_adapter(model, source, check_base=check_base)
    return model


def _loaded(
    out: Path, source: str, pretrained: bool, checkpoint: Path | None, *, check_base: bool
) -> tuple[str, nn.Module]:
    """Make the adapted model of a folder, as `evaluate` and `predict` do; return it and the name of its base model."""
    from ..lab import load
    from ..storage.folder import AdapterInfo
    from ..storage.located import adapter_folder

    if Path(source).is_file():
        raise CheckpointError(
            f"{source} does not say which model it is for",
            expected="the folder of an adapter, or MODEL before the file",
            fix=f"tensorfact merge MODEL {source} --out {out}",
        )
    if pretrained:
        raise AdaptError("--pretrained has no effect without MODEL: the folder says which weights", fix="leave it out")
    folder = adapter_folder(source)
    origin = AdapterInfo.read(folder).origin
    refuse_inputs(out, str(folder), checkpoint, origin.checkpoint)
    return origin.name, load(folder, checkpoint=checkpoint, check_base=check_base).model
