"""The samples of a batch: taken from arguments, put back into outputs, and found in what reaches a layer."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple, cast

import pytest
import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache
from transformers.modeling_outputs import SequenceClassifierOutput

from tensorfact.adapters.banks.samples import chosen, have_samples_in_front, joined, require_divisible, samples_of
from tensorfact.errors import AdaptError
from tensorfact.model.example import ExampleInput
from tests.helpers import refused


class Pair(NamedTuple):
    logits: Tensor
    features: Tensor


@dataclasses.dataclass(frozen=True)
class Plain:
    """An output without the interface of a mapping."""

    logits: Tensor
    past: object


class Rows(nn.Module):
    """A linear layer that gets (samples, tokens, width) in another order."""

    def __init__(self, order: str) -> None:
        super().__init__()
        self.order, self.layer = order, nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        if self.order == "tokens in front":
            return cast("Tensor", self.layer(x.transpose(0, 1))).transpose(0, 1)
        if self.order == "one row":
            return cast("Tensor", self.layer(x.reshape(1, -1, 4))).reshape(x.shape)
        if self.order == "a table":
            return x + cast("Tensor", self.layer(torch.ones(2, 4))).sum()
        if self.order == "mixed":
            return cast("Tensor", self.layer(x + x.mean(0)))
        read = self.order == "read"
        return nn.functional.linear(x, self.layer.weight) if read else cast("Tensor", self.layer(x))


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        *(("samples in front", True), ("tokens in front", False), ("one row", False)),
        *(("a table", False), ("mixed", False), ("read", False)),
    ],
)
def test_only_samples_in_front_are_found(order: str, expected: bool) -> None:
    model = Rows(order)
    example = ExampleInput((torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(0)),))
    assert have_samples_in_front(model, [model.layer], example) is expected


class Padded(nn.Module):
    """A layer of sequences that leaves padding out, or sorts them by length."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.layer = how, nn.Linear(4, 4)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        if self.how == "left out":
            return cast("Tensor", self.layer(x[mask.bool()]))
        if self.how == "masked":
            return cast("Tensor", self.layer(x)) * mask[..., None]
        order = mask.argsort(descending=self.how == "longest first")
        return cast("Tensor", self.layer(x[order]))


@pytest.mark.parametrize(
    ("how", "mask", "expected"),
    [
        ("masked", torch.tensor([[1, 0, 0], [1, 1, 0]]), True),
        ("left out", torch.tensor([[1, 0, 0], [1, 1, 0]], dtype=torch.bool), False),
        ("left out", torch.ones(2, 3, dtype=torch.long), False),
        ("longest first", torch.tensor([3, 1]), False),
        ("shortest first", torch.tensor([3, 3]), False),
    ],
)
def test_samples_of_other_lengths_are_found(how: str, mask: Tensor, expected: bool) -> None:
    model = Padded(how)
    example = ExampleInput((torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)), mask))
    assert have_samples_in_front(model, [model.layer], example) is expected


def test_a_model_that_does_not_run_tells_nothing() -> None:
    model = Rows("samples in front")
    assert have_samples_in_front(model, [model.layer], ExampleInput((torch.randn(3, 6, 5),))) is None
    assert have_samples_in_front(model, [model.layer], ExampleInput(("words",))) is False


def test_samples_are_taken_from_what_has_one_for_each() -> None:
    x, mask, table = torch.arange(6).reshape(3, 2), torch.tensor([True, False, True]), torch.ones(2)
    example = ExampleInput((x, [mask, "as it is"]), {"table": table, "flag": None})
    assert samples_of(example) == 3
    found = chosen(example, torch.tensor([2, 0]), 3)
    assert torch.equal(found.arguments[0], x[[2, 0]])  # type: ignore[arg-type]  # it is a tensor
    assert found.arguments[1][0].tolist() == [True, True]  # type: ignore[index]  # a list
    assert found.keywords["table"] is table
    assert samples_of(ExampleInput((None, "words"))) is None


def test_caches_are_not_divided() -> None:
    example = ExampleInput((torch.ones(2, 1),), {"past": [DynamicCache()]})
    with refused(AdaptError, "DynamicCache", "use_cache=False"):
        require_divisible(example)
    require_divisible(ExampleInput((torch.ones(2, 1), [None, "words"]), {"options": {"flag": True}}))


def test_outputs_come_back_in_the_order_of_the_batch_and_padded() -> None:
    one, two = torch.tensor([2, 0]), torch.tensor([1])
    wide, narrow = torch.ones(2, 3), torch.zeros(1, 2)
    whole = joined([(one, wide), (two, narrow)], 3)
    assert whole.tolist() == [[1, 1, 1], [0, 0, -math.inf], [1, 1, 1]]
    outputs = [(one, SequenceClassifierOutput(logits=wide)), (two, SequenceClassifierOutput(logits=narrow))]
    found = joined(outputs, 3)
    assert isinstance(found, SequenceClassifierOutput)
    assert torch.equal(found.logits, whole)
    pair = joined([(one, Pair(wide, torch.tensor([[2.0], [0.0]]))), (two, Pair(narrow, torch.tensor([[1.0]])))], 3)
    assert isinstance(pair, Pair)
    assert pair.features.flatten().tolist() == [0, 1, 2]
    plain = joined([(one, Plain(wide, DynamicCache())), (two, Plain(narrow, DynamicCache()))], 3)
    assert torch.equal(plain.logits, whole)
    assert plain.past is None
    with refused(AdaptError, "one for each sample", "shape ()", "without labels"):
        joined([(one, (torch.tensor(1.0), wide)), (two, (torch.tensor(1.0), narrow))], 3)
