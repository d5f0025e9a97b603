"""Python arguments in messages become options of the command, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorfact.cli.wording import in_options

OPTIONS = {
    "check_base": ("--check-base", "--no-check-base"),
    "rank": ("--rank",),
    "by_shape": ("--by-shape",),
    "format": ("--format",),
    "lr": ("--lr",),
    "blocks": ("--blocks",),
    "checkpoint": ("--checkpoint",),
    "pretrained": ("--pretrained",),
}


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("or pass check_base=False to use these", "or pass --no-check-base to use these"),
        ("pass rank=4.", "pass --rank 4."),
        ("pass rank=(4, 8), or lr=0.1", 'pass --rank "(4,8)", or --lr 0.1'),
        ("or less; or plan.resolve(model).fitted(format), which lowers ranks that are too high.", "or less."),
        ("adapter.save_pretrained(folder) writes one", "tensorfact train MODEL DATA --out FOLDER writes one"),
        ("use tt:rank=16, or each:format=tt(rank=5)", "use tt:rank=16, or each:format=tt(rank=5)"),
        ("plan_for(model, blocks='all')", "plan_for(model, blocks='all')"),
        ("pass blocks='all'", "pass --blocks all"),
        ("format='tt:rank=full', tolerance=0.1", "--format tt:rank=full, tolerance=0.1"),
        ("plan_by_shape(model), which folds 3", "--by-shape, which folds 3"),
        ("pass by_shape=True", "pass --by-shape"),
        ("pass checkpoint=FILE, or leave out pretrained=True.", "pass --checkpoint FILE, or leave out --pretrained."),
        ("fit: lr: expected a number, got -1", "fit: lr: expected a number, got -1"),
    ],
)
def test_arguments_are_options(message: str, said: str) -> None:
    assert in_options(message, OPTIONS) == said


@given(st.text(max_size=60))
def test_a_message_without_arguments_stays(text: str) -> None:
    if "=" not in text and "(" not in text:
        assert in_options(text, OPTIONS) == text
    assert in_options(text, {}) == text


def test_a_sum_of_two_formats_is_said_in_options(
    refused: Callable[..., str], adapter_file: Path, tmp_path: Path
) -> None:
    from tensorfact import convert

    convert(adapter_file, "cp:rank=2").save(tmp_path / "cp.safetensors")
    line = refused("combine", adapter_file, tmp_path / "cp.safetensors", "-o", tmp_path / "sum.safetensors")
    assert "--format tt:rank=full" in line
