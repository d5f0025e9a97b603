"""Formats with other starts and frozen cores: which core is zero, and which is trained and counted."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tensorfact import TensorTrain, adapt, fit
from tensorfact.adapters.factors import Factors
from tensorfact.errors import FormatError
from tensorfact.formats import Started
from tensorfact.network import Mode
from tests.bundled import FROZEN, nano, plan, samples
from tests.helpers import refused, state_bits

MODES = (Mode("layer", 3, "stack"), Mode("in", 32, "in"), Mode("out", 24, "out"))


def test_one_core_starts_at_zero_and_another_may() -> None:
    factors = Factors(Started(TensorTrain(4), {"S1": "zero", "U": "normal:1"}).network(MODES), MODES)
    cores = factors.named_cores()
    assert not cores["S1"].any()
    assert cores["V"].any()
    assert float(cores["U"].detach().std()) == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize("name", ["U", "S1", "V"])
def test_the_scale_law_holds_whichever_core_is_zero(name: str) -> None:
    """What the zero core is applied to has variance 1: here, the other cores' product with an input, bond by bond."""
    network = Started(TensorTrain(8), {name: "zero"}).network(MODES)
    deviations = Factors(network, MODES, {"layer": 1, "in": 32, "out": 24}).deviations
    assert deviations["U"] == (1 / math.sqrt(32) if name != "U" else deviations["U"])
    assert deviations["V"] == 1 if name == "S1" else True


@pytest.mark.parametrize(
    ("starts", "frozen", "word"),
    [
        ({"W": "zero"}, (), "'W'"), ({}, ("W",), "'W'"), ({"U": "one"}, (), "one"), ({"U": "given"}, (), "given"),
        ({}, "U", "U"), ({}, ("V",), "frozen"),
        ({}, ("U", "S1", "V"), "frozen"), ({"U": "zero", "V": "zero"}, (), "more than one"),
    ],
)  # fmt: skip
def test_starts_that_cannot_be_are_refused(starts: Any, frozen: Any, word: str) -> None:
    with refused(FormatError, word, fix=False):
        Started(TensorTrain(4), starts, frozen).network(MODES)


@pytest.mark.parametrize("kind", FROZEN)
def test_a_frozen_core_is_neither_trained_nor_counted(kind: str) -> None:
    model = nano()
    adapter = adapt(model, plan(), FROZEN[kind], seed=0)
    network = FROZEN[kind].network(adapter.resolved.tensors[0].modes)
    trained = {f"factors.encoder.cores.{core.name}" for core in network.cores if core.trained}
    assert {n for n, p in adapter.named_parameters() if p.requires_grad} == trained
    assert adapter.num_parameters == sum(p.numel() for p in adapter.parameters() if p.requires_grad)
    assert adapter.num_parameters == adapter.state.num_parameters == network.num_parameters
    before = state_bits(adapter)
    fit(model, samples(), samples(), epochs=2, lr=1e-2)
    assert {name for name, value in state_bits(adapter).items() if value != before[name]} == trained


@pytest.mark.parametrize("frozen", [5, None, "U", [1], torch.ones(2), TensorTrain(2)])
def test_frozen_cores_are_named_in_a_list(frozen: Any) -> None:
    with refused(FormatError, "Started: frozen"):
        Started(TensorTrain(2), frozen=frozen)
