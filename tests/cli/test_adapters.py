"""Commands on adapter files: round, convert, combine, extract, to-lora, from-lora."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tensorfact import AdapterState, TensorTrain, load_adapter
from tensorfact.lab import nano
from tests.cli.calls import Run


@pytest.fixture(scope="module")
def tuned_file(adapter_file: Path) -> Path:
    """Write weights with a merged adapter and one tuned bias."""
    model = nano()
    adapter = load_adapter(model, adapter_file)
    adapter.merge()
    adapter.remove()
    with torch.no_grad():
        model.get_parameter("blocks.0.norm1.bias").add_(0.1)
    save_file({name: value.clone() for name, value in model.state_dict().items()}, adapter_file.parent / "tuned.st")
    return adapter_file.parent / "tuned.st"


def test_files_are_rounded_converted_and_combined(run: Run, adapter_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    for words, format in (
        (("round", adapter_file, "--rank", "2"), "tt rank=2"),
        (("round", adapter_file, "--rank", "0.001"), "tt rank=(1, 1)"),
        (("round", adapter_file, "--budget", "1000"), "tt rank=2"),
        (("round", adapter_file, "--tolerance", "0.5"), "tt rank=("),
        (("convert", adapter_file, "--format", "tucker:rank=full", "--tolerance", "1e-5"), "tucker rank=(16, 4, 4)"),
        (("combine", f"{adapter_file}=0.5"), "tt rank=4"),
    ):
        result = run(*words, "--out", out)
        assert result.returncode == 0, result.stderr
        assert format in result.stdout, result.stdout
        assert "relative error" in result.stdout
        assert load_adapter(nano(), out).num_parameters < 4000
        out.unlink()


def test_two_files_add(run: Run, adapter_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "sum.safetensors"
    run("round", adapter_file, "--rank", "2", "--out", tmp_path / "second.safetensors")
    result = run("combine", adapter_file, f"{tmp_path / 'second.safetensors'}=-1", "--out", out, "--no-head")
    assert result.returncode == 0, result.stderr
    assert AdapterState.load(out).description.formats == {"encoder": TensorTrain(6)}
    assert not AdapterState.load(out).head


def test_a_tuned_model_is_extracted_and_ranks_formats(
    run: Run, adapter_file: Path, tuned_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.safetensors"
    words = ("extract", "nano", tuned_file, "--format", "tt:rank=full", "--tolerance", "1e-3", "--keep", "--out", out)
    result = run(*words)
    assert result.returncode == 0, result.stderr
    assert "tt rank=(4, 4)" in result.stdout
    assert "blocks.0.norm1.bias" in result.stdout
    state = AdapterState.load(out)
    assert "blocks.0.norm1.bias" in state.head
    assert state.num_parameters == AdapterState.load(adapter_file).num_parameters
    base = tmp_path / "base.safetensors"
    save_file({name: value.clone() for name, value in nano().state_dict().items()}, base)
    assert run(*words[:3], "--base", base, "--dry-run").returncode == 0
    formats = ("--format", "tt:rank=2", "--format", "tt:rank=4")
    ranked = run("compare", "--increment", tuned_file, *formats, "--out", tmp_path)
    assert ranked.returncode == 0, ranked.stderr
    assert "best" in ranked.stdout
    assert json.loads((tmp_path / "increment.json").read_text())["rows"][1]["error"] < 1e-3
    assert (tmp_path / "increment.png").stat().st_size > 10_000


def test_lora_goes_out_and_comes_in(run: Run, adapter_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "back.safetensors"
    result = run("to-lora", "nano", adapter_file, "--out", tmp_path / "lora")
    assert result.returncode == 0, result.stderr
    assert "blocks.0.attn.qkv and 23 more" in result.stdout
    result = run(
        "from-lora", "nano", tmp_path / "lora", "--format", "tt:rank=full", "--tolerance", "1e-4", "--out", out
    )
    assert result.returncode == 0, result.stderr
    assert "times fewer parameters" in result.stdout
    assert AdapterState.load(out).num_parameters == 1920
    assert "rank=2" in run("from-lora", "nano", tmp_path / "lora", "--format", "tt:rank=2", "--dry-run").stdout


def test_a_dry_run_writes_nothing(run: Run, adapter_file: Path, tuned_file: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out", "--dry-run")
    for words in (
        ("round", adapter_file, "--rank", "2"),
        ("convert", adapter_file, "--format", "cp:rank=2"),
        ("combine", adapter_file),
        ("to-lora", "nano", adapter_file),
        ("extract", "nano", tuned_file),
    ):
        for each in ((*words, *out), (*words, "--dry-run")):
            result = run(*each)
            assert result.returncode == 0, result.stderr
            assert "nothing written" in result.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("round", "{file}", "--rank", "2"), "no output path"),
        (("round", "{file}", "--out", "{dir}/none/a.safetensors", "--rank", "2"), "no folder"),
        (("round", "{file}", "--dry-run"), "one of rank, tolerance and budget, got none"),
        (("round", "{file}", "--rank", "x", "--dry-run"), "rank"),
        (("round", "{file}", "--budget", "3", "--dry-run"), "264"),
        (("round", "{dir}/none.st", "--rank", "2", "--dry-run"), "cannot read"),
        (("convert", "{file}", "--format", "cp:rank=1", "--tolerance", "1e-3", "--dry-run"), "tolerance 0.001"),
        (("round", "{file}", "--rank", "2", "--out", "{file}"), "is also an input"),
        (("round", "{file}", "--rank", "2", "--out", "{dir}"), "a folder"),
        (("from-lora", "nano", "{file}", "--dry-run"), "load_adapter"),
        (("combine", "{file}=x", "--dry-run"), "FILE=NUMBER"),
        (("combine", "{file}", "{file}", "--dry-run"), "given twice"),
        (("extract", "nano", "{file}", "--dry-run"), "no such tensor"),
        (("extract", "nano", "{dir}/none.st", "--dry-run"), "cannot read"),
        (("to-lora", "vit_tiny_patch16_224", "{file}", "--dry-run"), "tensor"),
        (("from-lora", "nano", "{dir}", "--dry-run"), "adapter_config.json"),
        (("compare", "--increment", "{dir}/none.st", "--out", "{dir}"), "cannot read"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_a_mistake_with_a_file_is_one_line(
    refused: Callable[..., str], adapter_file: Path, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    assert said in refused(*(word.format(file=adapter_file, dir=tmp_path) for word in words))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [("round", "{file}", "--rank", "1", "--out"), ("convert", "{file}", "--format", "cp:rank=1", "--out"), ("report",)],
)
@pytest.mark.parametrize("path", ["x" * 300, "a/" * 3000])
def test_a_path_that_no_system_has_is_one_line(
    refused: Callable[..., str], adapter_file: Path, words: tuple[str, ...], path: str
) -> None:
    assert "File name too long" in refused(*(word.format(file=adapter_file) for word in words), path)
