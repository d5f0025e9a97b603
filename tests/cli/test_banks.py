"""Commands on banks: bank join, ls, add, extract."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tensorfact import AdapterState, adapt, open_bank
from tensorfact.lab import nano
from tests.cli.calls import Run
from tests.helpers import draw, infer


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Write two adapters."""
    found = []
    for name in ("flowers", "pets"):
        adapter = adapt(nano(), format="tt:rank=2", seed=0)
        draw(adapter, len(name))
        found.append(tmp_path / f"{name}.safetensors")
        adapter.save(found[-1])
    return found


def test_adapters_are_joined_listed_added_and_extracted(run: Run, files: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "bank"
    assert "2 tasks" in run("bank", "join", folder, *files).stdout
    run("bank", "add", folder, "more", files[0])
    shown = run("bank", "ls", folder).stdout
    assert "flowers" in shown
    assert "3 tasks, TensorTrain(rank=2), shared: nothing" in shown
    run("bank", "extract", folder, "pets", "--out", tmp_path / "out.safetensors")
    own, found = AdapterState.load(files[1]), AdapterState.load(tmp_path / "out.safetensors")
    assert all(torch.equal(value, own.cores("encoder")[name]) for name, value in found.cores("encoder").items())
    assert set(found.head) == {"head.weight", "head.bias"}
    model = nano()
    bank = open_bank(model, folder)
    bank.use("more")
    assert not torch.equal(infer(model, torch.ones(1, 1, 28, 28)), infer(nano(), torch.ones(1, 1, 28, 28)))


def test_cores_are_shared_within_a_tolerance(run: Run, files: list[Path], tmp_path: Path) -> None:
    shown = run("bank", "join", tmp_path / "bank", *files, "--shared", "U,V", "--tolerance", "1e-4").stdout
    assert "| pets    | encoder |" in shown
    shown = run("bank", "ls", tmp_path / "bank").stdout
    assert "shared: U, V" in shown


def test_mistakes_are_one_line(run: Run, files: list[Path], tmp_path: Path) -> None:
    for words, expected in (
        (("bank", "ls", tmp_path), "bank.safetensors"),
        (("bank", "join", tmp_path / "bank", *files, "--shared", "U"), "shared=['U', 'V']"),
        (("bank", "join", tmp_path / "bank", files[0], files[0]), "one name"),
    ):
        found = run(*words)
        assert found.returncode == 2
        assert expected in found.stderr
        assert found.stderr.count("\n") == 1
