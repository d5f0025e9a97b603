"""What all commands share: the application, their options, how a table is shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, cast

import torch
import typer
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text
from torch import nn

from ..common.table import Table
from ..network.cost import usable
from ..plan import TensorizationPlan, plan_by_shape, plan_for
from ..plan.families import Blocks, Mlp

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Tensor-network adapters for neural networks.",
)

ModelName = Annotated[str, typer.Argument(help="'nano' (bundled), any timm name, hf:NAME (transformers), torch:CLASS.")]
AdapterPath = Annotated[Path, typer.Argument(help="A file that Adapter.save wrote.")]
Pretrained = Annotated[bool, typer.Option("--pretrained", help="Load timm's pretrained weights.")]
Checkpoint = Annotated[Path | None, typer.Option(help="A safetensors file with the model's weights.")]
Formats = Annotated[list[str] | None, typer.Option("--format", help="NAME:option=value, repeatable: tt:rank=16.")]


def show(table: Table, title: str | None = None) -> None:
    """Print a table; what reads a pipe gets whole lines.

    Args:
        table: The table.
        title: What it is.
    """
    console = Console()
    if not console.is_terminal:
        typer.echo("\n".join([*([title] if title else []), str(table)]))
        return
    shown = RichTable(title=title and Text(title))
    for header in table.headers:
        shown.add_column(Text(header), overflow="fold")
    for row in table.rows:
        shown.add_row(*map(Text, row))
    console.print(shown)


def device_of(name: str) -> torch.device:
    """Return the device of a name; of none, a GPU if there is one."""
    return usable(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def plan_of(
    model: nn.Module, blocks: Sequence[str] | None, mlp: str = "chunks", *, by_shape: bool = False
) -> TensorizationPlan:
    """Return the plan that the options of a command ask for.

    Args:
        model: The model.
        blocks: Which weights; all by default.
        mlp: What becomes of the MLPs' matrices.
        by_shape: Group weights of equal shape instead.
    """
    if by_shape:
        return plan_by_shape(model)
    return plan_for(model, cast("Sequence[Blocks]", blocks or ["all"]), mlp=cast("Mlp", mlp))
