"""Commands on banks of tasks: bank join, ls, add, extract."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import AdaptError
from .console import ALGEBRA, app, require_ending, say, show

bank = typer.Typer(no_args_is_help=True, help="Banks of tasks on disk: one backbone, a file for each task.")
app.add_typer(bank, name="bank", rich_help_panel=ALGEBRA)

Folder = Annotated[Path, typer.Argument(help="The folder of the bank.")]
Task = Annotated[str, typer.Argument(help="The name of a task.")]


def counted(tasks: int) -> str:
    """Return a number of tasks as a text.

    Args:
        tasks: The number.
    """
    return f"{tasks} task{'' if tasks == 1 else 's'}"


@bank.command("join")
def join_command(
    folder: Folder,
    adapters: Annotated[list[Path], typer.Argument(help="Adapter files; the name of each is that of its task.")],
    shared: Annotated[
        str | None, typer.Option(help="Names of the cores that all tasks share, as in U,V; default: none.")
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(help="Relative error allowed per tensor of all adapters together, with --shared."),
    ] = None,
    budget: Annotated[int | None, typer.Option(help="Maximum number of parameters of the bank, with --shared.")] = None,
) -> None:
    """Bring adapters of one plan and format together in a bank: exactly, or with cores in common."""
    from ..algebra.joining import write_bank
    from ..common.table import Table
    from ..storage import AdapterState

    names = [path.name.removesuffix(".safetensors") for path in adapters]
    if len(set(names)) < len(names):
        raise AdaptError("bank join: two adapters have one name", got=", ".join(names), fix="rename the files")
    states = {name: AdapterState.load(path) for name, path in zip(names, adapters, strict=True)}
    cores = tuple(filter(None, map(str.strip, (shared or "").split(","))))
    errors = write_bank(folder, states, cores, tolerance=tolerance, budget=budget)
    rows = [(task, tensor, f"{error:.2e}") for tensor, each in errors.items() for task, error in each.items()]
    if rows:
        show(Table(("task", "tensor", "error"), tuple(rows)))
    say(f"{counted(len(states))}: {folder}")


@bank.command("ls")
def ls_command(folder: Folder) -> None:
    """List the tasks of a bank, with the size of each file."""
    from ..common.table import Table
    from ..storage.bank_folder import BankFolder

    found = BankFolder.open(folder)
    rows = [(name, f"{found.file(name).stat().st_size:,}") for name in found.names]
    show(Table(("task", "bytes"), tuple(rows)))
    formats = ", ".join(dict.fromkeys(map(str, found.description.formats.values())))
    say(f"{counted(len(rows))}, {formats}, shared: {', '.join(found.shared) or 'nothing'}")


@bank.command("add")
def add_command(folder: Folder, task: Task, adapter: Annotated[Path, typer.Argument(help="The adapter file.")]) -> None:
    """Add an adapter to a bank as a task, or replace one: one file is written."""
    from ..storage import AdapterState
    from ..storage.bank_folder import BankFolder

    found = BankFolder.open(folder)
    found.add(task, AdapterState.load(adapter))
    say(f"written: {found.file(task)}")


@bank.command("extract")
def extract_command(
    folder: Folder, task: Task, out: Annotated[Path, typer.Option("--out", "-o", help="The adapter file to write.")]
) -> None:
    """Write a task of a bank as an adapter file."""
    from ..storage.bank_folder import BankFolder

    require_ending(out, ".safetensors")
    BankFolder.open(folder).state(task).save(out)
    say(f"written: {out}")
