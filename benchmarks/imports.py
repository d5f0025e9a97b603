"""What importing the package costs beside the libraries that it is made of."""

from __future__ import annotations

import os
import subprocess
import sys

from .result import Row, median_row

LIBRARIES = "torch, tensorly, opt_einsum, safetensors.torch"
ROUNDS = 7


def imports(setting: object) -> list[Row]:
    """Seconds to import the package in a fresh process, and the multiple of importing its libraries alone."""
    statements = {name: f"import {name}" for name in ("torch", LIBRARIES, "tensorfact")}
    seconds: dict[str, list[float]] = {name: [] for name in statements}
    for statement in statements.values():
        _seconds(statement)  # writes the bytecode, which an installed package has
    for _ in range(ROUNDS):  # one after the other, so that every round has its own neighbours
        for name, statement in statements.items():
            seconds[name].append(_seconds(statement))
    ratios = [own / base for own, base in zip(seconds["tensorfact"], seconds[LIBRARIES], strict=True)]
    work = "a fresh process"
    rows = [median_row("imports", statement, work, seconds[name], unit="s") for name, statement in statements.items()]
    return [*rows, median_row("imports", "import tensorfact / its libraries", work, ratios, 1.15)]


def _seconds(statement: str) -> float:
    """Time an import within its process, so that the start of Python is left out."""
    code = f"import time; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)"
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    command = [sys.executable, "-c", code]
    return float(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)
