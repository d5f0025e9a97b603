"""The kinds of cases, by name."""

from __future__ import annotations

import contextlib
import gc
import os
import tempfile
from pathlib import Path

from tests.fuzz.adapters import adapter_case
from tests.fuzz.arguments import argument_case
from tests.fuzz.case import Kind, numbers
from tests.fuzz.commands import call, command_case
from tests.fuzz.lora import lora_case
from tests.fuzz.specs import spec_case
from tests.fuzz.sweeps import sweep_case
from tests.fuzz.workers import CaseId

KINDS: dict[str, Kind] = {
    "adapter": adapter_case,
    "lora": lora_case,
    "sweep": sweep_case,
    "spec": spec_case,
    "command": command_case,
    "argument": argument_case,
}
"""Adapter files, LoRA files, folders of sweeps, texts, the command line, and arguments of public functions."""

SHARES = {"adapter": 4, "lora": 4, "sweep": 3, "spec": 5, "command": 1, "argument": 4}
"""How many of 21 cases are of each kind: a call of the command line takes ten times as long as the others.

The sum is odd, so that two processes, which take every other case, have the same share of each kind.
"""


def schedule(count: int) -> list[CaseId]:
    """Return the kinds and numbers of cases, in an order in which every part has its share of each kind."""
    turn = [kind for place in range(max(SHARES.values())) for kind, share in SHARES.items() if place < share]
    taken = dict.fromkeys(KINDS, 0)
    found = []
    for number in range(count):
        kind = turn[number % len(turn)]
        found.append((kind, taken[kind]))
        taken[kind] += 1
    return found


def prepare() -> None:
    """Make the inputs that all cases share and import what is imported on first use, before processes are forked.

    What is there by then is no case's: the processes share it, and their collections of garbage leave it out.
    """
    import matplotlib.pyplot  # noqa: F401

    for kind, make in KINDS.items():
        for number in range(3):
            with tempfile.TemporaryDirectory() as folder:
                make(numbers(-1, kind, number), Path(folder))
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        call(["formats"])
    gc.collect()
    gc.freeze()
