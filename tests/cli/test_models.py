"""Commands on a model: plan, doctor, merge."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from tensorfact import load_adapter
from tensorfact.lab import nano
from tests.cli.calls import Run


def test_plan_prints_tensors_and_counts(run: Run) -> None:
    result = run("plan", "vit_base_patch16_224", "--format", "tt:rank=16", "--format", "tucker:rank=8")
    assert result.returncode == 0, result.stderr
    assert "(layer role)=144 in=768 out=768" in result.stdout
    assert "61,440" in result.stdout
    assert "13,952" in result.stdout


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (("hf:gpt2",), ("(layer role)=144 in=768 out=768", "wte.weight", "an embedding", "21,504")),
        (("hf:bert", "--mlp", "whole"), ("hid=3072", "encoder_mlp")),
        (("convnext_atto", "--blocks", "all", "--blocks", "depthwise"), ("depthwise[40,7,7]",)),
        (("densenet121", "--by-shape", "--format", "cp:rank=8"), ("matrices[128,128]", "cp rank=8")),
        (("resnext50_32x4d",), ("kernels[4,128,3,3]", "a lower rank where a tensor does not admit this one")),
        (("torch:Transformer",), ("decoder_layers", "vectors")),
    ],
    ids=lambda value: value[0],
)
def test_plan_knows_models_of_many_sources(run: Run, words: tuple[str, ...], shown: tuple[str, ...]) -> None:
    result = run("plan", *words)
    assert result.returncode == 0, result.stderr
    # transformers imports torchao, which makes torch log a note about an enum
    assert not [line for line in result.stderr.splitlines() if "_pytree.py" not in line]
    assert all(text in result.stdout for text in shown), result.stdout


def test_plan_counts_the_format_that_train_takes(run: Run) -> None:
    assert "| tt rank=8 " in run("plan", "nano").stdout


def test_plan_draws_a_picture(run: Run, tmp_path: Path) -> None:
    result = run("plan", "nano", "--draw", tmp_path / "plan.svg")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "plan.svg").read_text().startswith("<svg")


def test_merge_writes_the_weights_of_the_merged_model(run: Run, adapter_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "merged.safetensors"
    result = run("merge", "nano", adapter_file, "-o", out)
    assert result.returncode == 0, result.stderr
    model, x = nano(), torch.randn(2, 1, 28, 28)
    load_adapter(model, adapter_file)
    plain = nano(pretrained=False)
    plain.load_state_dict(load_file(out))
    torch.testing.assert_close(plain(x), model(x))


def test_merge_refuses_another_base(refused: Callable[..., str], run: Run, adapter_file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save_file({name: tensor + 0.1 for name, tensor in nano().state_dict().items()}, other)
    line = refused("merge", "nano", adapter_file, "-o", tmp_path / "out.safetensors", "--checkpoint", other)
    assert "made for another base model" in line
    assert not (tmp_path / "out.safetensors").exists()
    words = ("merge", "nano", adapter_file, "-o", tmp_path / "out.safetensors", "--checkpoint", other)
    assert "pass --no-check-base to use these" in line
    assert run(*words, "--no-check-base").returncode == 0


def test_doctor_prints_what_an_adapter_would_reach(run: Run) -> None:
    result = run("doctor", "vit_tiny_patch16_224", "--format", "tucker:rank=8")
    assert result.returncode == 0, result.stderr
    for text in ("1, by plan_for", "48 of 48", "head.weight, head.bias", "full fine-tuning", "patch_embed.proj.weight"):
        assert text in result.stdout
    assert run("doctor", "no_such_model").returncode == 2


def test_doctor_finds_layers_of_peft_that_are_never_called(run: Run, tmp_path: Path) -> None:
    LoraConfig(target_modules=["qkv"]).save_pretrained(tmp_path)
    result = run("doctor", "beit_base_patch16_224(depth=2)", "--peft", tmp_path)
    assert result.returncode == 0, result.stderr
    assert "blocks.1.attn.qkv" in result.stdout
    assert "the forward pass calls 0 of 2 adapted layers" in result.stdout
    assert run("doctor", "nano", "--peft", tmp_path / "none").returncode == 2
    attention = run("doctor", "vit_tiny_patch16_224", "--blocks", "attention")
    assert "24 of 24" in attention.stdout
