"""The head of a model: which parameters it has, also where they are tied."""

from __future__ import annotations

from typing import Any

import pytest

from tensorfact import Group, Rule, TensorizationPlan, TensorTrain, adapt
from tensorfact.errors import AdaptError
from tests.helpers import TT, Tied, Tiny, one_rule, qkv_plan, refused, untouched


@pytest.mark.parametrize(
    ("train_head", "head"),
    [
        (True, {"head.weight", "head.bias"}),
        (False, set()),
        ("blocks.1.fc2", {"blocks.1.fc2.weight", "blocks.1.fc2.bias"}),
    ],
)
def test_the_head_that_trains(train_head: Any, head: set[str]) -> None:
    model = Tiny()
    adapter = adapt(model, qkv_plan(), TT, train_head=train_head)
    assert set(adapter.head) == head
    assert {n for n, p in model.named_parameters() if p.requires_grad and not n.startswith("tensorfact.")} == head


def test_a_head_of_another_name_is_refused() -> None:
    model = Tiny()
    with untouched(model), refused(AdaptError, "'haed'", "did you mean 'head'?"):
        adapt(model, qkv_plan(), TT, train_head="haed")


def test_a_head_in_the_plan_is_refused() -> None:
    model = Tiny()
    plan = TensorizationPlan((Group("g", "in out", (Rule("head.weight", "out in"),)),))
    with untouched(model), refused(AdaptError, "'head.weight'", "train_head=False"):
        adapt(model, plan, TT)
    adapt(model, plan, TT, train_head=False)


@pytest.mark.parametrize("head_first", [False, True])
def test_a_head_that_is_tied_trains_whatever_the_order_of_its_names(head_first: bool) -> None:
    model = Tied(head_first=head_first)
    adapter = adapt(model, one_rule("fc.weight"), TensorTrain(1))
    assert adapter.head == ("head.weight",)
    assert model.head.weight.requires_grad


@pytest.mark.parametrize("head_first", [False, True])
def test_a_head_that_is_in_the_plan_under_its_other_name_is_refused(head_first: bool) -> None:
    model = Tied(head_first=head_first)
    with untouched(model), refused(AdaptError):
        adapt(model, one_rule("embed.weight"), TensorTrain(1))
