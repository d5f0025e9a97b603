"""NOAH: a subnet has the numbers it says, is a slice of the supernet, and the search keeps its budget and its word."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import random
from typing import Any

import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tensorfact import fit
from tensorfact.errors import AdaptError, TrainingError
from tensorfact.lab import Splits, digits, evaluate, nano
from tensorfact.lab.baselines import BASELINES, Space, Subnet, Supernet, search_subnet
from tensorfact.lab.models import model_shapes

from .helpers import bits, infer, randomise, refused, snapshot, untouched
from .test_baselines import X, small, swin

SPACE = Space(adapters=(0, 1, 3), ranks=(0, 2), prompts=(0, 1, 4))
sizes = st.tuples(*(st.tuples(*[st.sampled_from(choices)] * 2) for choices in dataclasses.astuple(SPACE)))


def quick_search(model: nn.Module, data: Splits, **options: Any) -> Subnet:
    quick = {"epochs": 1, "batch_size": 8, "population": 4, "generations": 3, "space": SPACE}
    return search_subnet(model, data, **{**quick, **options})


def test_a_released_subnet_has_the_published_size() -> None:
    """CIFAR-100's, one of the 19 whose published mean is 0.361 M."""
    adapters, ranks = (5, 10, 10, 10, 5, 1, 1, 1, 10, 10, 10, 1), (10, 1, 5, 5, 1, 10, 1, 1, 1, 10, 1, 1)
    subnet = Subnet(adapters, ranks, prompts=(10, 5, 10, 1, 5, 1, 10, 1, 10, 5, 1, 10))
    trained = subnet.attach(model_shapes("vit_base_patch16_224"), seed=0)
    assert trained.num_parameters == subnet.num_parameters(768) == 74 * 1537 + 12 * 768 + 47 * 3072 + 69 * 768


@given(sizes)
def test_a_subnet_is_the_leading_slice_of_the_supernet(drawn: tuple[tuple[int, int], ...]) -> None:
    subnet, whole, alone = Subnet(*drawn), small(), small()
    supernet, trained = Supernet(whole, SPACE, seed=0), subnet.attach(alone, seed=1)
    supernet.subnet = subnet
    randomise(supernet)
    stored = supernet.state_dict()
    for name, parameter in trained.named_parameters():
        parameter.data.copy_(stored[name][tuple(slice(size) for size in parameter.shape)])
    assert trained.num_parameters == subnet.num_parameters(24)
    assert torch.equal(infer(whole, X), infer(alone, X))


@given(sizes)
def test_a_subnet_reads_back_from_json(drawn: tuple[tuple[int, int], ...]) -> None:
    subnet = Subnet(*drawn)
    assert BASELINES["noah-subnet"](**json.loads(json.dumps(dataclasses.asdict(subnet)))) == subnet


def test_training_draws_a_subnet_for_every_step_and_reaches_every_weight() -> None:
    model = small()
    supernet = Supernet(model, SPACE, seed=0)
    randomise(supernet)
    outputs = {bits(model.train()(X)) for _ in range(8)}
    assert len(outputs) > 1
    loss: Any = torch.stack([model(X).square().mean() for _ in range(8)]).sum()
    loss.backward()
    assert all(p.grad is not None and p.grad.ne(0).all() for p in supernet.parameters())
    assert bits(infer(model, X)) == bits(infer(model, X))


def test_a_supernet_comes_off_again_and_a_copy_has_its_own() -> None:
    model = small()
    with untouched(model):
        supernet = Supernet(model, SPACE, seed=0)
        copied: Any = copy.deepcopy(model)
        copied.baseline.subnet = SPACE.smallest(2)
        assert not torch.equal(infer(copied, X), infer(model, X))
        supernet.remove()
    copied.baseline.remove()
    assert snapshot(copied) == snapshot(model)


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
    """In a space small enough to try everything, it finds what trying everything finds."""
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
            scores[supernet.subnet] = evaluate(model, data.val)[0]
    assert scores[found] == max(scores.values()) > min(scores.values())


def test_what_cannot_be_is_refused() -> None:
    for wrong in ((1, -1), (1, True), (1, 2.0), 3):
        with refused(AdaptError, "adapters", wrong, fix=False):
            Subnet(wrong, (1, 1), (1, 1))  # type: ignore[arg-type]
    with refused(AdaptError, "1 ranks"):
        Subnet((1, 1), (1,), (1, 1))
    with refused(AdaptError, "no ranks"):
        Space(ranks=())
    for none in ((-1,), 5, "1", (True,)):
        with refused(AdaptError, "Space: ranks", repr(none), fix=False):
            Space(ranks=none)  # type: ignore[arg-type]
    model = small()
    with untouched(model), refused(AdaptError, "each of 2 blocks", fix=False):
        Subnet((1,), (1,), (1,)).attach(model, 0)
    for other in (swin(), timm.create_model("beit_base_patch16_224", depth=1, embed_dim=24, num_heads=2)):
        with untouched(other), refused(AdaptError, type(other).__name__):
            SPACE.largest(4).attach(other, 0)
    with refused(AdaptError, "budget", "73,740", "10", fix=False):
        search_subnet(model_shapes("vit_base_patch16_224"), digits(nano()), budget=10)
    for budget in (float("nan"), "x", None):
        with refused(TrainingError, "budget", budget, fix=False):
            quick_search(nano(), digits(nano()), budget=budget)
    with refused(TrainingError, "population", fix=False):
        quick_search(nano(), digits(nano()), population=0)
