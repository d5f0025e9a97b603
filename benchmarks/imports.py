"""Import time of the package, compared with that of the libraries it is built on, and time of `tensorfact --help`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence

from .result import Row, median_row

LIBRARIES = "import torch, tensorly, opt_einsum, safetensors.torch"
PACKAGE = "import tensorfact; tensorfact.adapt"
TYPER = ("-c", "import typer, rich")
HELP = ("-m", "tensorfact", "--help")
ROUNDS = 7
WORK = "a fresh process"


def imports(setting: object) -> list[Row]:
    """Import time in a fresh process, and time of `tensorfact --help`, beside those of their libraries alone."""
    statements = ("import torch", LIBRARIES, PACKAGE)
    seconds: dict[str, list[float]] = {statement: [] for statement in statements}
    for statement in statements:
        _seconds(statement)  # writes the bytecode, which an installed package has
    for _ in range(ROUNDS):  # alternating, so that each ratio compares neighbours in time
        for statement in statements:
            seconds[statement].append(_seconds(statement))
    ratios = [own / base for own, base in zip(seconds[PACKAGE], seconds[LIBRARIES], strict=True)]
    rows = [median_row("imports", statement, WORK, seconds[statement], unit="s") for statement in statements]
    return [*rows, median_row("imports", f"{PACKAGE} / its libraries", WORK, ratios, 1.15), *_help()]


def _help() -> list[Row]:
    """Time the help, and what it takes beyond 1.5 times the imports that every command line of typer needs."""
    seconds: dict[tuple[str, ...], list[float]] = {TYPER: [], HELP: []}
    for _ in range(ROUNDS + 1):
        for words, found in seconds.items():
            found.append(_whole(words))
    base, own = (each[1:] for each in seconds.values())
    beyond = [mine - 1.5 * theirs for mine, theirs in zip(own, base, strict=True)]
    return [
        median_row("imports", 'python -c "import typer, rich"', WORK, base, unit="s"),
        median_row("imports", "tensorfact --help", WORK, own, unit="s"),
        median_row("imports", "tensorfact --help, beyond 1.5 x typer and rich", WORK, beyond, 0.5, "s"),
    ]


def _seconds(statement: str) -> float:
    """Time an import inside a new process, without the start of Python."""
    code = f"import time; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)"
    return float(_run(("-c", code)))


def _whole(words: Sequence[str]) -> float:
    start = time.perf_counter()
    _run(words)
    return time.perf_counter() - start


def _run(words: Sequence[str]) -> str:
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    return subprocess.run([sys.executable, *words], check=True, capture_output=True, text=True, env=environment).stdout
