"""Shared fixtures of this room: calls of the command line, and a saved adapter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tensorfact import TensorTrain, adapt, plan_for
from tensorfact.cli import main
from tensorfact.lab import nano
from tests.cli.calls import Result, Run


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process; starting one costs seconds of imports."""

    def call(*words: str | Path) -> Result:
        code = 0
        try:
            main([str(word) for word in words])
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Result(code, *capfd.readouterr())

    return call


@pytest.fixture
def refused(run: Run) -> Callable[..., str]:
    """Run a command that must fail, and return its one line of error."""

    def call(*words: str | Path) -> str:
        result = run(*words)
        assert result.returncode == 2, result.stderr
        lines = result.stderr.strip().splitlines()
        assert len(lines) == 1, result.stderr
        return lines[0]

    return call


@pytest.fixture(scope="module")
def adapter_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "adapter.safetensors"
    model = nano()
    adapter = adapt(model, plan_for(model), TensorTrain(rank=4), scale=1.0, seed=0)
    with torch.no_grad():
        for number, core in enumerate(adapter.parameters()):
            core.copy_(torch.randn(core.shape, generator=torch.Generator().manual_seed(number)) / 10)
    adapter.save(path)
    return path
