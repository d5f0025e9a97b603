"""The result of a call of the command line, for type annotations of fixtures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable


@dataclasses.dataclass
class Result:
    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Result]
