"""NOAH's search keeps its budget and finds the best subnet of a small space."""

from __future__ import annotations

import itertools
import random
from typing import Any

import torch

from tensorfact import fit
from tensorfact.lab import digits, evaluate, nano
from tensorfact.lab.baselines import Space, Subnet, Supernet, search_subnet
from tests.helpers import bits, untouched
from tests.lab.baselines.models import SPACE, quick_search


def test_a_search_is_repeatable_keeps_its_budget_and_leaves_the_model_alone() -> None:
    model, budget = nano(), 3_000
    data = digits(model, train=32, val=32)
    state = random.getstate(), bits(torch.get_rng_state())
    with untouched(model):
        found = quick_search(model, data, budget=budget)
    assert found == quick_search(model, data, budget=budget)
    assert 0 < found.num_parameters(96) <= budget < SPACE.largest(6).num_parameters(96)
    assert (random.getstate(), bits(torch.get_rng_state())) == state


def test_the_search_returns_the_best_there_is() -> None:
    """In a small space the search finds the same subnet as trying all of them."""
    model = nano()
    data = digits(model, train=64, val=32)
    space = Space(adapters=(0, 8), ranks=(0,), prompts=(0,))
    settings: dict[str, Any] = {"epochs": 2, "batch_size": 16, "lr": 1e-2, "seed": 3}
    found = search_subnet(model, data, space=space, budget=4_000, population=20, generations=2, **settings)
    supernet = Supernet(model, space, seed=3)
    fit(model, data.train, data.val, weight_decay=1e-4, **settings)
    scores = {}
    for adapters in itertools.product((0, 8), repeat=6):
        supernet.subnet = Subnet(adapters, (0,) * 6, (0,) * 6)
        if supernet.subnet.num_parameters(96) <= 4_000:
            scores[supernet.subnet] = evaluate(model, data.val).accuracy
    assert scores[found] == max(scores.values()) > min(scores.values())
