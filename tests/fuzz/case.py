"""One case of the fuzzer, and what became of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from torch import nn

PROBLEMS = ("bare", "hangs", "half-changed", "memory", "message")
"""What may be wrong with a case, as in the columns of the table.

A bare error is one that is no `TensorfactError`. A message is wrong if it does not name the file, if it has several
lines, or if it is longer than 3,000 characters.
"""


@dataclasses.dataclass
class Case:
    """A call with input that may be wrong.

    Args:
        what: The input, for the report.
        act: The call.
        named: The file or folder that an error must name; None if the input is not a file.
        models: Models that an error must leave unchanged.
        use: Uses a valid result; it must raise nothing.
        other: Bytes of other inputs, such as the weights of the model.
        begins: Whether an error may leave new files: a run of a sweep writes its spec before it opens its data.
    """

    what: str
    act: Callable[[], Any]
    named: Path | None = None
    models: tuple[nn.Module, ...] = ()
    use: Callable[[Any], object] | None = None
    other: int = 0
    begins: bool = False


Kind = Callable[[Random, Path], Case]
"""Makes a case from random numbers, with its files in a folder."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What became of a case.

    Args:
        kind: The kind of the case.
        number: Its number among those of its kind.
        outcome: `valid`, `refused`, or `failed` for a case that neither returned nor raised a `TensorfactError`.
        problems: Its problems; see `PROBLEMS`.
        where: The place in the package and the message, for a case with problems.
        what: The input.
    """

    kind: str
    number: int
    outcome: str
    problems: tuple[str, ...] = ()
    where: str = ""
    what: str = ""


def numbers(seed: int, kind: str, number: int) -> Random:
    """Return the random numbers of one case, which depend on nothing else."""
    return Random(f"{seed}/{kind}/{number}")
