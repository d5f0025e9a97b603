"""The command line as a whole: one line per error, and every verb in the help."""

from __future__ import annotations

import importlib.metadata
import itertools
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.cli.calls import Run


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("compare", "--format", "tukcer:rank=8"), "did you mean 'tucker'?"),
        (("compare", "--format", "tt:rank=0"), "expected an int of at least 1, a fraction"),
        (("compare", "--format", "tt:rank=97"), "expected bond 1 <= 96"),
        (("compare", "--format", "tt:rnak=8"), "got rnak"),
        (("compare", "--format", "tt:rank=8;"), "NAME:option=value"),
        (("compare", "--scale", "nan"), "a finite number, got 'nan'"),
        (("compare", "--data", "no-such-folder"), "folder:PATH"),
        (("compare", "--lr", "-1"), "fit: lr"),
        (("compare", "--device", "abacus"), "abacus"),
        (("plan", "vit_bse_patch16_224"), "did you mean 'vit_base_patch16_224'?"),
        (("plan", "densenet121"), "belongs to no known family"),
        (("plan", "densenet121", "--by-shape", "--mlp", "whole"), "--by-shape"),
        (("plan", "torch:Tensor"), "torch.nn has no module 'Tensor'"),
        (("plan", "torch:torchvision.models.resnet18"), "such as torch:Transformer."),
        (("plan", "torch:Linear(4,4)"), "Fix: torch:Linear(in_features=4,out_features=4)."),
        (("plan", "nano", "--format", "tucker:rank=2/3/4"), "several numbers are written rank=(2,3,4)"),
        (("compare", "--data", "digit"), "did you mean 'digits'?"),
        (("train", "nano", "digits", "--out", ""), "--out is empty"),
        (("train", "nano", "digits", "--out="), "--out is empty"),
        (("predict", "shapes", ""), "the argument after 'shapes' is empty"),
        (("plan", "nano", "--draw", "plan.png"), "Fix: plan.svg."),
        (("merge", "nano", "a.safetensors", "--out", "x.pth"), "Fix: x.safetensors."),
        (("plan", "jax:thing"), "begins with hf:, torch:"),
        (("plan", "mixer_s32_224", "--blocks", "attention"), "no attention blocks"),
        (("plan", "nano", "--blocks", "heads"), "expected one or several of"),
        (("inspect", "no-such-file"), "cannot read no-such-file"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_two(
    refused: Callable[..., str], words: tuple[str, ...], named: str
) -> None:
    assert named in refused(*words)


@pytest.mark.parametrize("verb", ["train", "evaluate", "compare", "formats", "predict"])
def test_the_help_is_not_broken_within_a_sentence(run: Run, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = run(verb, "--help").stdout.partition("╭")[0]
    lines = [line.strip() for line in text.splitlines()]
    for line, following in itertools.pairwise(lines):
        if line and following:
            assert len(f"{line} {following.split()[0]}") > 76, line


def test_the_version(run: Run) -> None:
    assert run("--version").stdout == f"tensorfact {importlib.metadata.version('tensorfact')}\n"


def test_help_names_every_verb(run: Run) -> None:
    result = run("--help")
    assert all(verb in result.stdout for verb in VERBS)


VERBS = (
    "compare", "plan", "formats", "inspect", "merge", "calibrate",
    "extract", "convert", "round", "combine", "to-lora", "from-lora",
)  # fmt: skip


def test_a_process_ends_as_its_mistake_says() -> None:
    command = [sys.executable, "-c", "from tensorfact.cli import main; main()", "compare", "--format", "tt:rank=zero"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("error: TensorTrain: rank: expected an int of at least 1")
    assert result.stderr.count("\n") == 1
