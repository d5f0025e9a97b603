"""The command line. Errors of the library are printed as one line on standard error, with exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ..errors import TensorfactError

from . import models, sweeps, adapters, files  # isort: skip  # the order of the commands in the help
from .console import app, say

__all__ = ["adapters", "app", "files", "main", "models", "sweeps"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: Command-line arguments without the program name; default: `sys.argv[1:]`.
    """
    try:
        app(arguments)
    except (TensorfactError, OSError) as error:  # OSError: a path that cannot be read or written, a full disk
        say(f"error: {error}", err=True)
        sys.exit(2)
