"""Examples of every format, for the list of formats."""

from __future__ import annotations

import dataclasses

from ..errors import FormatError
from ..formats import Format, TensorTrain
from ..network import Mode

EXAMPLE_MODES = (Mode("(layer role)", 144, "stack"), Mode("in", 768, "in"), Mode("out", 768, "out"))
ROLE_MODES = (Mode("layer", 12, "stack"), Mode("role", 12, "stack"), *EXAMPLE_MODES[1:])
SPLIT_MODES = (
    Mode("(layer role)", 144, "stack"),
    *(Mode("in1", 24, "in"), Mode("in2", 32, "in")),
    *(Mode("out1", 24, "out"), Mode("out2", 32, "out")),
)
EXAMPLE_OPTIONS = {"rank": 4, "format": TensorTrain(rank=4), "cores": {"U": TensorTrain(rank=2)}}
"""Values for the required options of the formats in the list."""


def example(cls: type[Format]) -> tuple[Format | None, tuple[Mode, ...]]:
    """Return an example of a format and modes that it accepts; None if `EXAMPLE_OPTIONS` lacks a required option."""
    names = {field.name: field.default is dataclasses.MISSING for field in dataclasses.fields(cls)}
    options = {name: value for name, value in EXAMPLE_OPTIONS.items() if names.get(name)}
    for modes in (EXAMPLE_MODES, ROLE_MODES, SPLIT_MODES):
        try:
            format = cls(**options)
            format.network(modes)
        except (TypeError, FormatError):
            continue
        return format, modes
    return None, ()
