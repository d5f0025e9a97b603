"""Sweeps as data: they read back equal, and duplicates are refused."""

from __future__ import annotations

import dataclasses

import pytest

from tensorfact.errors import SweepError
from tensorfact.lab.sweep import PRESETS, PROTOCOLS, Sweep, narrowed, preset
from tests.helpers import refused


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_sweep_reads_back_equal(name: str, protocol: str) -> None:
    sweep = PROTOCOLS[protocol](preset(name))
    assert Sweep.from_json(sweep.to_json()) == sweep


def test_duplicates_are_refused() -> None:
    for change in ({"tasks": ["digits", "digits"]}, {"methods": ["bitfit", "bitfit"]}):
        with refused(SweepError, "duplicate"):
            narrowed(preset("small"), **change)
    with refused(SweepError, "duplicate"):
        dataclasses.replace(preset("small"), seeds=(0, 0))
    assert narrowed(preset("small"), rows=["LoRA"], scales=[1, 1.0]).parts[0].rows[0].scales == (1.0,)
