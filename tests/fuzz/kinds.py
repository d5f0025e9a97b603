"""The kinds of cases, by name."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.fuzz.case import Kind, numbers
from tests.fuzz.adapters import adapter_case
from tests.fuzz.arguments import argument_case
from tests.fuzz.commands import command_case
from tests.fuzz.lora import lora_case
from tests.fuzz.specs import spec_case
from tests.fuzz.sweeps import sweep_case

KINDS: dict[str, Kind] = {
    "adapter": adapter_case,
    "lora": lora_case,
    "sweep": sweep_case,
    "spec": spec_case,
    "command": command_case,
    "argument": argument_case,
}
"""Adapter files, LoRA files, folders of sweeps, texts, the command line, and arguments of public functions."""


def prepare() -> None:
    """Make the inputs that all cases share and import what is imported on first use, before processes are forked."""
    import matplotlib.pyplot  # noqa: F401, PLC0415

    for kind, make in KINDS.items():
        for number in range(3):
            with tempfile.TemporaryDirectory() as folder:
                make(numbers(-1, kind, number), Path(folder))
