"""NOAH: a subnet has the number of parameters it states, and is a slice of the supernet."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import Any

import timm
import torch
from hypothesis import given
from hypothesis import strategies as st

from tensorfact.errors import AdaptError, TrainingError
from tensorfact.lab import digits, nano
from tensorfact.lab.baselines import BASELINES, Space, Subnet, Supernet, search_subnet
from tensorfact.lab.models import model_shapes
from tests.helpers import bits, infer, randomise, refused, snapshot, untouched
from tests.lab.baselines.models import SPACE, X, quick_search, small, swin

sizes = st.tuples(*(st.tuples(*[st.sampled_from(choices)] * 2) for choices in dataclasses.astuple(SPACE)))


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


def test_what_cannot_be_is_refused() -> None:
    for wrong in ((1, -1), (1, True), (1, 2.0), 3):
        with refused(AdaptError, "adapters", wrong, fix=False):
            Subnet(wrong, (1, 1), (1, 1))  # type: ignore[arg-type]
    with refused(AdaptError, "1 ranks"):
        Subnet((1, 1), (1,), (1, 1))
    with refused(AdaptError, "ranks is empty", "ranks=(0,)"):
        Space(ranks=())
    for none in ((-1,), 5, "1", (True,)):
        with refused(AdaptError, "Space: ranks", repr(none), fix=False):
            Space(ranks=none)  # type: ignore[arg-type]
    model = small()
    with untouched(model), refused(AdaptError, "2 sizes of each kind, one per block", fix=False):
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
