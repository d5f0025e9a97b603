"""The command line. Errors of the library are printed as one line on standard error, with exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from ..errors import DataError, TensorfactError

from . import comparing, training, models, sweeps, adapters, banks, files  # isort: skip  # the order of the commands in the help
from .console import app, say
from .wording import in_options

__all__ = ["adapters", "app", "banks", "comparing", "files", "main", "models", "sweeps", "training"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: Command-line arguments without the program name; default: `sys.argv[1:]`.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        _refuse_empty(words)
        app(words)
    except (TensorfactError, OSError) as error:  # OSError: a path that cannot be read or written, a full disk
        say(f"error: {in_options(str(error), _options_of(words[0]))}", err=True)
        sys.exit(2)


def _refuse_empty(words: Sequence[str]) -> None:
    """Raise if an argument or the value of an option is empty: an empty path would mean the current folder."""
    for before, word in zip(("tensorfact", *words), words, strict=False):
        name, sign, value = word.partition("=") if word.startswith("--") else (before, "=", word)
        if sign and not value:
            what = name if name.startswith("-") else f"the argument after {name!r}"
            raise DataError(f"{what} is empty", cause="a variable of the shell that is not set", fix="give a value")


def _options_of(command: str) -> dict[str, list[str]]:
    """Return the options of a command by the names of their arguments."""
    found = getattr(typer.main.get_command(app), "commands", {}).get(command)
    options = {} if found is None else {each.name: each for each in found.params if each.opts[0].startswith("--")}
    return {name: [max(each.opts, key=len), *each.secondary_opts] for name, each in options.items()}
