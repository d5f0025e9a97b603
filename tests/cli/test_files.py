"""Commands that need no model: formats, inspect."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tensorfact.storage.files import read_header, read_tensors, write_tensors
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


HOSTILE = ["\x1b[2J\x1b[31mred", "\x07\x08\x9b1m", "\u202egnp.exe\u2066", "a\r\x0bb\u2028c", "\x00\x7f"]


def renamed(file: Path, path: Path, old: str, new: str) -> Path:
    """Save an adapter file again with another word wherever it stands in names and in the description."""
    spelled = json.dumps(read_header(file).metadata).replace(old, json.dumps(new)[1:-1])
    tensors = {name.replace(old, new): value for name, value in read_tensors(file).items()}
    write_tensors(path, tensors, json.loads(spelled))
    return path


def visible(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("old", ["encoder", "head.weight", "layer", "blocks"])
def test_inspect_shows_what_a_terminal_would_obey(
    old: str, hostile: str, run: Run, adapter_file: Path, tmp_path: Path
) -> None:
    result = run("inspect", renamed(adapter_file, tmp_path / "a.safetensors", old, hostile))
    assert visible(result.stdout + result.stderr)
    assert result.returncode == 0 or old in ("layer", "encoder"), result.stderr  # not every text is such a name


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("words", ["inspect", "convert --dry-run --format cp:rank=2", "to-lora nano --dry-run"])
def test_errors_show_what_a_terminal_would_obey(
    words: str, hostile: str, refused: Callable[..., str], adapter_file: Path, tmp_path: Path
) -> None:
    verb, *more = words.split()
    broken = tmp_path / "a.safetensors"
    header, tensors = read_header(adapter_file), read_tensors(adapter_file)
    write_tensors(broken, {**tensors, f"factors.{hostile}": torch.ones(2)}, header.metadata)
    place = [more[0], broken, *more[1:]] if verb == "to-lora" else [broken, *more]
    assert visible(refused(verb, *place))


@pytest.mark.parametrize("letter", ["x", "'", " ", "\x1b"])
def test_errors_quote_little_of_a_file(
    letter: str, refused: Callable[..., str], adapter_file: Path, tmp_path: Path
) -> None:
    long, path = f"name {letter * 20_000}", tmp_path / "a.safetensors"
    header, tensors = read_header(adapter_file), read_tensors(adapter_file)
    for more, words in (
        ({f"factors.{long}": torch.ones(2)}, header.metadata),
        ({}, {**header.metadata, "kind": long}),
        ({}, {**header.metadata, "formats": {"all": {"name": long}}}),
        ({}, {**header.metadata, "modes": {"all": [[long, 1, long]]}}),
    ):
        write_tensors(path, {**tensors, **more}, words)
        assert len(refused("inspect", path)) < 1500


@pytest.mark.parametrize("change", ["shape", "missing", "more", "rank"])
def test_inspect_refuses_a_file_whose_description_and_shapes_disagree(
    change: str, refused: Callable[..., str], adapter_file: Path, tmp_path: Path
) -> None:
    header, tensors = read_header(adapter_file), read_tensors(adapter_file)
    words = dict(header.metadata)
    if change == "shape":
        tensors["factors.encoder.U"] = torch.ones(96, 5)
    elif change == "missing":
        del tensors["factors.encoder.U"]
    elif change == "more":
        tensors["factors.encoder.W"] = torch.ones(3)
    else:
        words["formats"] = {"all": {**words["formats"]["all"], "rank": 5}}
    path = tmp_path / "a.safetensors"
    write_tensors(path, tensors, words)
    assert "is damaged" in refused("inspect", path)
