"""The head of a model: which parameters it has, also where they are tied."""

from __future__ import annotations

import fnmatch
import itertools
from typing import Any, cast

import pytest
import torch
import torchvision
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tensorfact import Group, Rule, TensorizationPlan, TensorTrain, adapt, load_adapter, plan_by_shape
from tensorfact.errors import AdaptError
from tensorfact.model.head import head_parameters, is_below
from tests.helpers import (
    TT,
    Tied,
    Tiny,
    ids,
    infer,
    one_rule,
    qkv_plan,
    randomise,
    refused,
    state_bits,
    untouched,
)


@pytest.mark.parametrize(
    ("train_head", "head"),
    [
        (True, {"head.weight", "head.bias"}),
        (False, set()),
        ("blocks.1.fc2", {"blocks.1.fc2.weight", "blocks.1.fc2.bias"}),
        (["head", "blocks.0.norm"], {"head.weight", "head.bias", "blocks.0.norm.weight", "blocks.0.norm.bias"}),
        (("head.bias",), {"head.bias"}),
    ],
)
def test_the_head_that_trains(train_head: Any, head: set[str]) -> None:
    model = Tiny()
    adapter = adapt(model, qkv_plan(), TT, train_head=train_head)
    assert set(adapter.head) == head
    assert {n for n, p in model.named_parameters() if p.requires_grad and not n.startswith("tensorfact.")} == head


PATTERNS = ["norm", "nor*", "bias", "blocks.1.norm", "blocks.*.norm", "mha", "*.fc1.bias", "embed", "fc2.weight"]


@given(st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=3), st.booleans())
def test_what_a_pattern_names_is_trained_stored_and_brought_back(patterns: list[str], head: bool) -> None:
    base, model = randomise(Tiny()), randomise(Tiny())
    adapter = adapt(model, qkv_plan(), TT, train=patterns, train_head=head, seed=0)
    runs = {name: name.split(".") for name in model.state_dict() if not name.startswith("tensorfact.")}
    meant = {
        name
        for name, parts in runs.items()
        for start, end in itertools.combinations(range(len(parts) + 1), 2)
        if any(fnmatch.fnmatchcase(".".join(parts[start:end]), pattern) for pattern in patterns)
    }
    meant |= {"head.weight", "head.bias"} if head else set()
    assert {n for n, p in model.named_parameters() if p.requires_grad and not n.startswith("tensorfact.")} == meant
    assert set(adapter.head) == meant
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == adapter.num_parameters + sum(model.get_parameter(name).numel() for name in meant)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(parameter.requires_grad * torch.rand(parameter.shape))
    fresh = randomise(Tiny())
    load_adapter(fresh, adapter)
    assert torch.equal(infer(fresh, ids()), infer(model, ids()))
    assert set(adapter.state.head) == meant
    adapter.remove()
    assert state_bits(model) == state_bits(base)


def test_a_pattern_takes_the_buffers_of_its_modules() -> None:
    model = torchvision.models.resnet18(num_classes=3)
    adapter = adapt(model, plan_by_shape(model), TensorTrain(1), train="bn1", check=False)
    assert "layer1.0.bn1.running_mean" in adapter.state.head
    assert "layer1.0.bn2.running_mean" not in adapter.state.head


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ("nrm", ["'nrm'", "did you mean 'norm'?"]),
        (("norm", "classifier"), ["'classifier'"]),
        ("norm.wight", ["did you mean 'norm.weight'?"]),
        *[(wrong, ["train: expected", repr(wrong)]) for wrong in (3, None, True, ["norm", 3], "", [""])],
        ("qkv", ["'blocks.0.qkv.weight'", "narrower patterns"]),
        ("*", ["is in both the plan", "narrower patterns"]),
    ],
)
def test_a_pattern_that_is_none_or_matches_nothing_is_refused(train: Any, words: list[str]) -> None:
    model = randomise(Tiny())
    with untouched(model), refused(AdaptError, *words):
        adapt(model, qkv_plan(), TT, train=train)


def test_a_tied_parameter_is_stored_once() -> None:
    adapter = adapt(Tied(head_first=False), one_rule("fc.weight"), TensorTrain(1), train=("embed", "head"))
    assert len(adapter.head) == len(adapter.state.head) == 1


def test_a_head_of_another_name_is_refused() -> None:
    model = Tiny()
    with untouched(model), refused(AdaptError, "'haed'", "did you mean 'head'?"):
        adapt(model, qkv_plan(), TT, train_head="haed")


@pytest.mark.parametrize("names", [["head", "haed"], ["head", ""], [], 3, ["head", 3], None])
def test_all_of_several_heads_are_known(names: Any) -> None:
    model = Tiny()
    with untouched(model), refused(AdaptError, "train_head", "haed" if "haed" in str(names) else repr(names)):
        adapt(model, qkv_plan(), TT, train_head=names)


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


# ------------------------------------------------------------------------------------------------ models of other kinds

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "num_labels": 3}
BART = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "num_labels": 3}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 2, "num_labels": 3, "vocab_size": 50}
DISTIL = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "num_labels": 3, "vocab_size": 50}
TOWER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
TWO = {"vision_config": {**TOWER, "image_size": 32, "patch_size": 8}, "text_config": {**TOWER, "vocab_size": 50}}
OF_TRANSFORMERS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "BertForSequenceClassification": ("BertConfig", {**SMALL, "vocab_size": 50}, ("classifier",)),
    "BertForTokenClassification": ("BertConfig", {**SMALL, "vocab_size": 50}, ("classifier",)),
    "BertForQuestionAnswering": ("BertConfig", {**SMALL, "vocab_size": 50}, ("qa_outputs",)),
    "DistilBertForSequenceClassification": ("DistilBertConfig", DISTIL, ("pre_classifier", "classifier")),
    "BartForSequenceClassification": ("BartConfig", {**BART, "vocab_size": 50}, ("classification_head",)),
    "GPT2ForSequenceClassification": ("GPT2Config", GPT2, ("score",)),
    "ViTForImageClassification": ("ViTConfig", {**SMALL, "image_size": 32, "patch_size": 8}, ("classifier",)),
    "CLIPForImageClassification": ("CLIPConfig", {**TWO, "num_labels": 3}, ("classifier",)),
    "SiglipForImageClassification": ("SiglipConfig", {**TWO, "num_labels": 3}, ("classifier",)),
    "DINOv3ViTModel": ("DINOv3ViTConfig", {**SMALL, "image_size": 32, "patch_size": 8}, ()),
    "BertForMaskedLM": ("BertConfig", {**SMALL, "vocab_size": 50}, ()),
    "GPT2LMHeadModel": ("GPT2Config", GPT2, ()),
    "BertModel": ("BertConfig", {**SMALL, "vocab_size": 50}, ()),
}


@pytest.mark.parametrize("name", OF_TRANSFORMERS)
def test_heads_of_transformers_are_found(name: str) -> None:
    config, options, expected = OF_TRANSFORMERS[name]
    model = getattr(transformers, name)(getattr(transformers, config)(**options))
    found = head_parameters(model, True)
    assert {parameter.partition(".")[0] for parameter in found} == set(expected)
    assert all(is_below(parameter, expected) for parameter in found)
    plan = plan_by_shape(model)
    assert not set(found) & set(plan.resolve(model).parameters), "the head is no tensor"
    format = plan.resolve(model).fitted(TensorTrain(2))
    assert adapt(model, plan, format, check=False).head == found


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("resnet18", "fc"),
        ("vgg11", "classifier.6"),
        ("efficientnet_b0", "classifier.1"),
        ("convnext_tiny", "classifier.2"),
        ("vit_b_16", "heads.head"),
        ("swin_t", "head"),
        ("densenet121", "classifier"),
        ("squeezenet1_0", "classifier.1"),
    ],
)
def test_heads_of_torchvision_are_found(name: str, head: str) -> None:
    with torch.device("meta"):
        model = torchvision.models.get_model(name)
    assert set(head_parameters(model, True)) == {f"{head}.weight", f"{head}.bias"}


class Odd(nn.Module):
    """A classifier whose head has a name of its own."""

    def __init__(self, classes: int | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(6, 6) for _ in range(2))
        self.answer = nn.Linear(6, 4)
        if classes is not None:
            self.num_classes = classes

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = torch.tanh(block(x))
        return cast("Tensor", self.answer(x))


def test_a_classifier_whose_head_is_not_found_is_refused_with_the_name_that_could_be_meant() -> None:
    plan = TensorizationPlan((Group("g", "layer in out", (Rule("blocks.{layer}.weight", "out in"),)),))
    model = Odd(4)
    with untouched(model), refused(AdaptError, "4 classes", "train_head='answer'"):
        adapt(model, plan, TensorTrain(1))
    assert set(adapt(model, plan, TensorTrain(1), train_head="answer").head) == {"answer.weight", "answer.bias"}
    assert adapt(Odd(None), plan, TensorTrain(1)).head == ()


def test_what_the_plan_covers_of_a_head_that_was_found_by_its_name_is_no_head() -> None:
    model = nn.Sequential()
    model.fc = nn.Linear(4, 4)
    adapter = adapt(model, one_rule("fc.weight"), TensorTrain(1), check=False)
    assert adapter.head == ("fc.bias",)
