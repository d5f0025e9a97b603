"""Shared fixtures: accelerators whose global state is reset after each test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState


def reset() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Make accelerators on the CPU, without what accelerate keeps for a whole process."""
    for name in list(os.environ):
        if name.startswith("ACCELERATE"):
            monkeypatch.delenv(name)
    before = dict(os.environ)
    reset()
    yield lambda **options: Accelerator(cpu=True, **options)
    reset()
    for name in os.environ.keys() - before.keys():
        monkeypatch.delenv(name)
