"""Shared by all commands: the application, common options, printing of tables."""

from __future__ import annotations

import importlib.metadata
import inspect
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
import typer.core

from ..common.table import Table
from ..errors import CheckpointError, PlanError, printable

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ..plan import TensorizationPlan
    from ..plan.families import Blocks as BlockNames
    from ..plan.families import Mlp as MlpName


class Commands(typer.core.TyperGroup):
    """The commands: their help texts are paragraphs, without the line breaks of the source."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for command in self.commands.values():
            paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
            command.help = "\n\n".join(" ".join(each.split()) for each in paragraphs)


app = typer.Typer(
    cls=Commands,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

DEFAULT_RANK = 8
"""The rank of an adapter where none is given."""

DEFAULT_FORMAT = f"tt:rank={DEFAULT_RANK}"
"""The format of an adapter where none is given."""


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"tensorfact {importlib.metadata.version('tensorfact')}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version),
    ] = False,
) -> None:
    """Tensor-network adapters for neural networks."""


SWEEPS, ALGEBRA, LOOK_UP = "Many runs", "Change adapters", "Look up"
"""Titles of the groups of commands in the help, in their order."""

ModelName = Annotated[
    str, typer.Argument(help="'nano' (bundled), dinov2-s, any timm name, hf:NAME (transformers), torch:CLASS.")
]
DataName = Annotated[
    str,
    typer.Argument(
        help="Images: a folder of classes; a folder with train, val and test; a .zip, .tar, .tgz or .csv; or a task: "
        "digits, real:NAME, hf:NAME, timm:NAME."
    ),
]
FolderName = Annotated[str, typer.Argument(help="A folder that `train` wrote, or OWNER/NAME on the Hub.")]
AdapterPath = Annotated[str, typer.Argument(help="An adapter: a file, a folder, or OWNER/NAME on the Hub.")]
Pretrained = Annotated[bool, typer.Option("--pretrained", help="Load pretrained weights, from a cache or the network.")]
Checkpoint = Annotated[Path | None, typer.Option(help="A safetensors file with the model's weights.")]
CheckBase = Annotated[
    bool, typer.Option("--check-base/--no-check-base", help="Refuse base weights that the adapter was not trained on.")
]
FormatText = Annotated[str, typer.Option("--format", help="NAME:option=value, such as tt:rank=8 or tucker:rank=full.")]
Blocks = Annotated[
    list[str] | None,
    typer.Option(
        help="Blocks to adapt, repeatable: all, attention, mlp, conv, depthwise, experts.", show_default="all"
    ),
]
Mlp = Annotated[str, typer.Option(help="The d x 4d matrices of an MLP: split into d x d 'chunks', or 'whole'.")]
ByShape = Annotated[
    bool, typer.Option("--by-shape", help="For models without a built-in plan: group weights of equal shape.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Formats = Annotated[list[str] | None, typer.Option("--format", help="NAME:option=value, repeatable: tt:rank=8.")]


def show(table: Table, title: str | None = None) -> None:
    """Print a table: with borders in a terminal, as unwrapped Markdown lines into a pipe.

    Args:
        table: Headers and rows.
        title: Line printed above the table.
    """
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console()
    title = title and printable(title)
    table = Table(tuple(map(printable, table.headers)), tuple(tuple(map(printable, row)) for row in table.rows))
    if not console.is_terminal:
        say("\n".join([*([title] if title else []), str(table)]))
        return
    shown = RichTable(title=title and Text(title))
    for header in table.headers:
        shown.add_column(Text(header), overflow="fold")
    for row in table.rows:
        shown.add_row(*map(Text, row))
    console.print(shown)


def say(text: str, *, err: bool = False) -> None:
    """Print lines; what a terminal would obey instead of showing, such as colours in the names of a file, is escaped.

    Args:
        text: One or more lines.
        err: Whether to print on standard error.
    """
    typer.echo("\n".join(map(printable, text.split("\n"))), err=err)


def say_random(model: nn.Module) -> None:
    """Say in one line if the weights of a model that is about to be trained are random.

    Args:
        model: A model that `load_model` made.
    """
    from ..model.origin import origin_of

    origin = origin_of(model)
    if origin.seed is not None:
        say(
            f"the weights of {origin.name} are random (seed {origin.seed}); --pretrained loads trained ones, "
            "--checkpoint FILE those of a file"
        )


def refuse_inputs(out: Path, *inputs: str | Path | None) -> None:
    """Raise if a file that a command is to write is one that it reads.

    Args:
        out: The file to write.
        inputs: The files and folders of adapters that the command reads.

    Raises:
        CheckpointError: `out` is an input, or a file of an adapter's folder that is.
    """
    from ..storage.located import FILES

    for each in inputs:
        if each is None:
            continue
        path = Path(each)
        files = [path / name for name in FILES] if path.is_dir() else []
        if out.resolve() in [found.resolve() for found in (path, *files)]:
            raise CheckpointError(f"--out {out} is also an input", fix="pass another path as --out")


def require_ending(out: Path | None, ending: str) -> None:
    """Raise if a file that a command is to write would have a name of another kind of file.

    Args:
        out: The file to write, if any.
        ending: The ending of its name, such as `.svg`; it may be left out.

    Raises:
        CheckpointError: The name has another ending.
    """
    if out is not None and out.suffix and out.suffix.lower() != ending:
        raise CheckpointError(
            f"cannot write {out}",
            expected=f"a name that ends in {ending}",
            got=repr(out.suffix),
            fix=str(out.with_suffix(ending)),
        )


def open_picture(path: Path) -> None:
    """Open a picture in the program of the desktop, if a person sees this terminal.

    Args:
        path: The picture.
    """
    if sys.stdout.isatty() and (sys.platform != "linux" or "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ):
        typer.launch(str(path))


def device_of(name: str) -> torch.device:
    """Return the device with this name; for an empty name, a GPU if there is one, else the CPU."""
    import torch

    from ..network.cost import usable

    return usable(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def plan_of(
    model: nn.Module, blocks: Sequence[str] | None, mlp: str = "chunks", *, by_shape: bool = False
) -> TensorizationPlan:
    """Build a plan from the options of a command.

    Args:
        model: The model to plan for; its shapes are enough.
        blocks: Kinds of blocks to adapt, such as `attention`; default: all.
        mlp: `chunks` splits the d x 4d matrices of an MLP into d x d ones; `whole` keeps them.
        by_shape: Group weights of equal shape, for models without a built-in plan.

    Raises:
        PlanError: `by_shape` beside other choices, or the model has no plan.
    """
    from ..plan import plan_by_shape, plan_for

    if by_shape and (blocks or mlp != "chunks"):
        raise PlanError("--by-shape cannot be combined with --blocks or --mlp", fix="leave out --blocks and --mlp")
    if by_shape:
        return plan_by_shape(model)
    return plan_for(model, cast("Sequence[BlockNames]", blocks or ["all"]), mlp=cast("MlpName", mlp))
