"""Test the README and the documentation: run every `python` block, and compare its output with the `output` block."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
import torch
from sybil import Example, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser

from tensorfact.formats import registry
from tensorfact.plan.families import FAMILIES

_run = PythonEvaluator()


def _python(example: Example) -> str | None:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        result = _run(example)
    example.namespace["_printed"] = printed.getvalue()
    return result


def _output(example: Example) -> str | None:
    expected, got = str(example.parsed), example.namespace["_printed"]
    if expected.split() == got.split():  # a page may break a long line
        return None
    return f"the code block printed:\n{got}\nthe page says:\n{expected}"


def _forget_accelerator() -> None:
    """Undo the settings that the first `Accelerator` of a process leaves behind for all others."""
    if state := sys.modules.get("accelerate.state"):
        state.AcceleratorState._reset_state(reset_partial_state=True)
        state.GradientState._reset_state()


def _enter(namespace: dict[str, Any]) -> None:
    """Run a page in a temporary folder and on one thread, so that its numbers are reproducible."""
    namespace["_stack"] = stack = contextlib.ExitStack()
    for known in (registry._formats, FAMILIES):  # undo what a page registers
        stack.enter_context(mock.patch.dict(known))
    _forget_accelerator()
    stack.callback(_forget_accelerator)
    stack.callback(torch.set_num_threads, torch.get_num_threads())
    torch.set_num_threads(1)
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    stack.callback(os.chdir, os.getcwd())
    os.chdir(folder)


def _leave(namespace: dict[str, Any]) -> None:
    namespace["_stack"].close()


pytest_collect_file = Sybil(
    parsers=[CodeBlockParser("python", _python), CodeBlockParser("output", _output)],
    patterns=["README.md", "docs/*.md", "docs/*/*.md"],
    setup=_enter,
    teardown=_leave,
).pytest()


@pytest.fixture(autouse=True)
def _examples_leave_no_format(request: pytest.FixtureRequest) -> Iterator[None]:
    """Undo what the example of a docstring registers; `_enter` does the same for pages."""
    if isinstance(request.node, pytest.DoctestItem):
        with mock.patch.dict(registry._formats):
            yield
    else:
        yield
