"""Import time of the package, compared with that of the libraries it is built on."""

from __future__ import annotations

import os
import subprocess
import sys

from .result import Row, median_row

LIBRARIES = "torch, tensorly, opt_einsum, safetensors.torch"
ROUNDS = 7


def imports(setting: object) -> list[Row]:
    """Import time in a fresh process, in seconds and as a multiple of that of its libraries alone."""
    statements = {name: f"import {name}" for name in ("torch", LIBRARIES, "tensorfact")}
    seconds: dict[str, list[float]] = {name: [] for name in statements}
    for statement in statements.values():
        _seconds(statement)  # writes the bytecode, which an installed package has
    for _ in range(ROUNDS):  # alternating, so that each ratio compares neighbours in time
        for name, statement in statements.items():
            seconds[name].append(_seconds(statement))
    ratios = [own / base for own, base in zip(seconds["tensorfact"], seconds[LIBRARIES], strict=True)]
    work = "a fresh process"
    rows = [median_row("imports", statement, work, seconds[name], unit="s") for name, statement in statements.items()]
    return [*rows, median_row("imports", "import tensorfact / its libraries", work, ratios, 1.15)]


def _seconds(statement: str) -> float:
    """Time an import inside a new process, without the start of Python."""
    code = f"import time; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)"
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    command = [sys.executable, "-c", code]
    return float(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)
