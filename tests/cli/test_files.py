"""Commands that need no model: formats, inspect."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.cli.calls import Run


def test_formats_lists_every_registered_name(run: Run) -> None:
    result = run("formats")
    assert result.returncode == 0, result.stderr
    assert all(f"| {path.stem} " in result.stdout for path in Path("docs/images/formats").iterdir())
    network = "U_U[in _U_1] U_V[_U_1 _1] S1[_1 (layer role) _2] V[_2 out]"
    assert network in result.stdout  # of the nested format


def test_the_pictures_in_the_documentation_are_those_that_are_drawn(run: Run, tmp_path: Path) -> None:
    assert run("formats", "--draw", tmp_path).returncode == 0
    drawn = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert {path.name: path.read_text() for path in Path("docs/images/formats").iterdir()} == drawn


def test_inspect_tells_what_a_file_holds(run: Run, adapter_file: Path) -> None:
    result = run("inspect", adapter_file)
    assert result.returncode == 0, result.stderr
    for expected in ("encoder", "tt rank=4", "U 96x4", "1,920", "head.weight 10x96", "base fingerprint"):
        assert expected in result.stdout


def test_inspect_refuses_a_damaged_file(refused: Callable[..., str], adapter_file: Path, tmp_path: Path) -> None:
    damaged = bytearray(adapter_file.read_bytes())
    damaged[-100] ^= 4
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(damaged)
    assert "is damaged" in refused("inspect", path)
