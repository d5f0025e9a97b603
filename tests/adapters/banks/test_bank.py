"""Banks of tasks: a mixed batch gives every sample what its task gives alone, for every plan and format."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any, cast
from unittest import mock

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tensorfact import (
    AdapterState,
    Bank,
    Group,
    Rule,
    Tasks,
    TensorizationPlan,
    TensorTrain,
    adapt,
    load_adapter,
    plan_by_shape,
    plan_for,
)
from tensorfact.adapters.banks import increment
from tensorfact.adapters.factors import Factors
from tensorfact.adapters.increments.planned import Kind
from tensorfact.errors import AdaptError
from tensorfact.lab import nano
from tests.helpers import CLASSES, difference, draw, ids, infer, refused, state_bits, untouched
from tests.strategies import Adaptation, adaptations

NAMES = ("flowers", "pets", "cars")


def drawn(bank: Bank, seed: int = 0) -> Bank:
    """Give a bank factors and heads that differ between tasks."""
    draw(bank, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in bank.heads.values.values():
            value.add_(torch.randn(value.shape, generator=generator) / 10)
    return bank


def small(tasks: Any = NAMES, format: Any = "tt:rank=4", **options: Any) -> tuple[nn.Module, Bank]:
    model = nano()
    model.eval()
    return model, drawn(adapt(model, plan_for(model), format, tasks=tasks, seed=0, **options))


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 1, 28, 28, generator=torch.Generator().manual_seed(0))


@st.composite
def banks(draw: st.DrawFn) -> tuple[Adaptation, Tasks, list[str]]:
    """Draw a model and a plan, tasks with shared cores, and the tasks of a batch."""
    adaptation = draw(adaptations())
    resolved = adaptation.case.resolve()
    trained = [
        [core.name for core in tensor.network(resolved.formats(adaptation.formats)[tensor.name]).cores if core.trained]
        for tensor in resolved.tensors
    ]
    shared = draw(st.lists(st.sampled_from(sorted({name for each in trained for name in each})), unique=True))
    while shared and any(set(each) <= set(shared) for each in trained):
        shared.pop()
    classes = draw(st.none() | st.lists(st.integers(1, 5), min_size=3, max_size=3))
    batch = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=5))
    return adaptation, Tasks(NAMES, shared, classes), batch


PRECISION = [(torch.float32, 2e-6), (torch.float64, 1e-14), (torch.bfloat16, 0.04)]


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISION)
@given(given=banks())
def test_a_mixed_batch_is_each_sample_with_its_task(
    given: tuple[Adaptation, Tasks, list[str]], dtype: torch.dtype, tolerance: float
) -> None:
    adaptation, tasks, batch = given
    model = adaptation.case.build(dtype)
    options = {"scale": adaptation.scale, "train_head": "head", "seed": 0, "check": False}
    bank = drawn(adapt(model, adaptation.case.plan, adaptation.formats, tasks=tasks, **options))
    x, alone, sizes = ids(len(batch)), {}, {}
    for name in set(batch):
        bank.use(name)
        alone[name], sizes[name] = with_sizes(model, x)
        assert alone[name].shape[1] == bank.classes(name)
    with bank.batch(batch):
        mixed = infer(model, x)
    mapped = bank.map(x, batch)
    for at, name in enumerate(batch):
        count = bank.classes(name)
        for found in (mixed[at], mapped[at].detach()):
            assert bool(((found[:count] - alone[name][at]).abs() <= tolerance * sizes[name][at]).all())
            assert bool((found[count:] == -torch.inf).all())


def with_sizes(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return a model's outputs and, for each, the sum of the absolute terms that its head adds."""
    kept: list[Tensor] = []
    head = cast("nn.Linear", model.head)
    hook = head.register_forward_pre_hook(lambda _, arguments: kept.append(arguments[0].double().abs()))
    found = infer(model, x)
    hook.remove()
    weight, bias = head.weight.detach().double().abs(), head.bias.detach().double().abs()
    return found, nn.functional.linear(kept[0], weight, bias)


@given(adaptations())
def test_a_bank_of_one_task_is_an_adapter(adaptation: Adaptation) -> None:
    model, adapter = adaptation.fresh()
    other = adaptation.case.build()
    bank = adapt(
        other, adaptation.case.plan, adaptation.formats, scale=adaptation.scale, train_head=False, seed=0, tasks=["one"]
    )
    assert bank.num_parameters == adapter.num_parameters
    for name, core in bank.named_cores().items():
        own = adapter.named_cores()[name]
        assert torch.equal(core[0] if core.dim() > own.dim() else core, own)
    draw(adapter)
    with torch.no_grad():
        for name, core in bank.named_cores().items():
            core.copy_(adapter.named_cores()[name])
    assert torch.equal(infer(other, ids()), infer(model, ids()))


@given(banks())
def test_what_is_stored_for_the_tasks_is_counted(given: tuple[Adaptation, Tasks, list[str]]) -> None:
    adaptation, tasks, _ = given
    one = adaptation.fresh()[1]
    bank = adapt(adaptation.case.build(), adaptation.case.plan, adaptation.formats, tasks=tasks, check=False)
    sizes = {name: (core.numel(), core.requires_grad) for name, core in one.named_cores().items()}
    owned = {name for name, (_, trained) in sizes.items() if trained and name.rpartition(".")[2] not in tasks.shared}
    own = sum(sizes[name][0] for name in owned)
    shared = one.num_parameters - own
    assert bank.num_parameters == shared + len(NAMES) * own
    for tensor in bank.resolved.tensors:
        assert cast("Factors", bank.factors[tensor.name]).dense().shape == (len(NAMES), *tensor.shape)


def test_a_fresh_bank_changes_nothing_and_no_task_is_the_base_model() -> None:
    model, x = nano(), images()
    expected = infer(model, x)
    bank = adapt(model, tasks=NAMES, seed=0)
    assert bank.task == "flowers"
    for name in NAMES:
        bank.use(name)
        assert torch.equal(infer(model, x), expected)
    drawn(bank)
    assert not torch.equal(infer(model, x), expected)
    bank.use(None)
    assert str(bank.task) == "None"
    assert torch.equal(infer(model, x), expected)
    with bank.batch(["pets"] * 4):
        assert not torch.equal(infer(model, x), expected)
    assert torch.equal(infer(model, x), expected)
    bank.use("cars")
    with bank.disabled():
        assert torch.equal(infer(model, x), expected)
    bank.remove()
    assert torch.equal(infer(model, x), expected)


def test_the_state_of_a_task_is_an_adapter() -> None:
    model, bank = small(Tasks(NAMES, ["U", "V"]))
    for name in NAMES:
        bank.use(name)
        other = nano()
        adapter = load_adapter(other, bank.state(name))
        assert adapter.num_parameters == TensorTrain(4).num_parameters(bank.resolved.tensors[0].modes)
        assert torch.equal(infer(other, images()), infer(model, images()))


def test_a_merged_task_has_its_head_and_unmerges_bit_for_bit() -> None:
    model, bank = small()
    before = state_bits(model)
    bank.use("pets")
    expected = infer(model, images())
    bank.use("cars")
    bank.merge("pets")
    assert bank.merged
    assert bank.task == "pets"
    assert difference(infer(model, images()), expected) < 1e-4
    with refused(AdaptError, "the adapter is already merged", "adapter.unmerge()"):
        bank.use("cars")
    bank.unmerge()
    assert state_bits(model) == before
    assert torch.equal(infer(model, images()), expected)


def test_training_a_mixed_batch_is_training_each_task_on_its_samples() -> None:
    (one, first), (two, second) = small(), small()
    x, batch, labels = images(6), ["pets", "flowers", "cars", "pets", "cars", "pets"], torch.arange(6)
    with first.batch(batch):
        torch.autograd.backward(nn.functional.cross_entropy(one(x), labels, reduction="sum"))
    for name in NAMES:
        index = torch.tensor([at for at, task in enumerate(batch) if task == name])
        second.use(name)
        torch.autograd.backward(nn.functional.cross_entropy(two(x[index]), labels[index], reduction="sum"))
    for (name, p), q in zip(first.named_parameters(), second.parameters(), strict=True):
        assert p.grad is not None
        assert q.grad is not None
        assert difference(p.grad, q.grad) < 1e-4, name


@given(banks())
@settings(max_examples=5)
def test_cores_are_gathered_for_all_layers_or_for_each_alike(given: tuple[Adaptation, Tasks, list[str]]) -> None:
    adaptation, tasks, batch = given
    outputs, gradients = [], []
    for most in (1 << 24, 0):
        model = adaptation.case.build(torch.float64)
        alike = Tasks(tasks.names, tasks.shared)
        bank = drawn(adapt(model, adaptation.case.plan, adaptation.formats, tasks=alike, seed=0, train_head="head"))
        with mock.patch.object(increment, "_MOST_GATHERED", most), bank.batch(batch):
            found = model(ids(len(batch)))
        found.square().mean().backward()
        outputs.append(found.detach())
        gradients.append([p.grad for p in bank.parameters() if p.grad is not None])
    assert difference(*outputs) < 1e-12
    for one, other in zip(*gradients, strict=True):
        assert difference(one, other) < 1e-10


def test_the_head_of_a_task_has_its_own_classes_and_padding_gets_no_gradient() -> None:
    model, bank = small(Tasks(NAMES, classes=[10, 3, 12]))
    assert [bank.classes(name) for name in NAMES] == [10, 3, 12]
    with bank.batch(["pets", "cars"]):
        logits = model(images(2))
    assert logits.shape == (2, 12)
    assert logits.isinf().sum(1).tolist() == [9, 0]
    torch.autograd.backward(nn.functional.cross_entropy(logits, torch.tensor([2, 11])))
    assert all(bool(p.grad.isfinite().all()) for p in bank.parameters() if p.grad is not None)
    weight = bank.heads.values["head/weight"]
    assert weight.grad is not None
    assert not weight.grad[1, 3:].any()
    assert weight.grad[1, :3].any()


@pytest.mark.parametrize(
    ("name", "options", "together"),
    [
        ("swin_tiny_patch4_window7_224", {"img_size": 56, "depths": (2, 2)}, True),
        ("swinv2_tiny_window8_256", {"img_size": 64, "window_size": 4, "depths": (2, 2)}, False),
        ("mixer_s32_224", {"img_size": 64}, True),
        ("convnext_atto", {"depths": (1, 1, 1, 1)}, False),
    ],
)
def test_models_that_have_no_exact_product_run_task_by_task(name: str, options: dict[str, Any], together: bool) -> None:
    model = timm.create_model(name, num_classes=CLASSES, **options).eval()
    bank = drawn(adapt(model, plan_for(model), "tt:rank=2", tasks=NAMES[:2], check=False))
    size = options.get("img_size", 64)
    x, batch = torch.randn(3, 3, size, size), ["pets", "flowers", "pets"]
    with bank.batch(batch):
        mixed = infer(model, x)
    assert bank.together is together
    assert ("in one pass" if together else "task by task") in str(bank.explain()).splitlines()[-1]
    for at, task in enumerate(batch):
        bank.use(task)
        assert difference(mixed[at], infer(model, x)[at]) < 1e-4


class Windows(nn.Module):
    """Layers over four windows of each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.layers(x.reshape(4 * len(x), 4, 8))).reshape(len(x), 16, 8)


def test_the_first_mixed_batch_runs_where_layers_see_several_rows_of_a_sample() -> None:
    model = Windows().eval()
    bank = drawn(adapt(model, plan_by_shape(model), "tt:rank=2", tasks=NAMES[:2], check=False))
    x, batch = torch.randn(3, 16, 8), ["pets", "flowers", "pets"]
    with bank.batch(batch):
        mixed = infer(model, x)
    for at, task in enumerate(batch):
        bank.use(task)
        assert difference(mixed[at], infer(model, x)[at]) < 1e-5


def test_a_copy_has_a_choice_of_its_own_and_goes_through_pickle() -> None:
    model, bank = small()
    bank.use("pets")
    expected = infer(model, images())
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):  # noqa: S301  # our own bytes
        assert torch.equal(infer(other, images()), expected)
        cast("Bank", other.tensorfact).use("cars")
        assert not torch.equal(infer(other, images()), expected)
    assert torch.equal(infer(model, images()), expected)


def test_a_state_dict_brings_all_tasks_back() -> None:
    (model, bank), (other, second) = small(), small()
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.zero_()
    other.load_state_dict(model.state_dict())
    for name in NAMES:
        bank.use(name)
        second.use(name)
        assert torch.equal(infer(other, images()), infer(model, images()))


def test_checkpointing_does_not_compute_the_gradient_of_another_task() -> None:
    model, bank = small()
    cast("Any", model).set_grad_checkpointing(True)
    model.train()
    bank.use("pets")
    loss = model(images()).square().sum()
    bank.use("cars")
    with refused(AdaptError, "with other tasks than the forward pass", "before bank.use()"):
        loss.backward()
    with bank.batch(["pets", "cars"]):
        model(images(2)).square().sum().backward()
    losses = []
    for name in ("pets", "cars"):  # the backward pass begins with the last one, which is right
        bank.use(name)
        losses.append(model(images()).square().sum())
    with refused(AdaptError, "with other tasks than the forward pass"):
        sum(losses).backward()
    model(images()).square().sum().backward()


def test_checkpointing_of_what_runs_task_by_task_is_refused() -> None:
    model = cast("Any", timm.create_model("resnet10t", num_classes=CLASSES))
    bank = drawn(adapt(model, plan_for(model), "cp:rank=2", tasks=NAMES[:2], check=False))
    model.set_grad_checkpointing(True)
    x, batch = torch.randn(2, 3, 64, 64), list(NAMES[:2])
    with refused(AdaptError, "runs task by task", "turn gradient checkpointing off"), bank.batch(batch):
        model(x).sum().backward()
    with refused(AdaptError, "runs task by task"):
        bank.map(x, batch).sum().backward()
    bank.use("pets")
    model(x).sum().backward()


class Reads(nn.Module):
    """A model that calls a layer and also reads its weight, as T5 does."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, CLASSES)
        self.pretrained_cfg = {"input_size": (1, 2, 2), "classifier": "head"}  # by which an example input is known

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.head(self.body(x.flatten(1).to(self.body.weight.dtype)).tanh()))


BODY = TensorizationPlan((Group("body", "in out", (Rule("body.weight", "out in"),)),))


@pytest.mark.parametrize("explained", [False, True])
def test_a_layer_that_is_called_and_read_runs_task_by_task(explained: bool) -> None:
    model, x, batch = Reads(), torch.randn(2, 1, 2, 2), ["pets", "flowers"]
    bank = drawn(adapt(model, BODY, "matrix-batch:rank=1", tasks=NAMES[:2], train_head="head", check=False))
    if explained:  # while the base model is in use, which reads no weight of a task
        bank.use(None)
        assert "task by task" in str(bank.explain())
        assert bank.task is None
    with bank.batch(batch):
        mixed = infer(model, x)
    assert bank.together is False
    for at, name in enumerate(batch):
        bank.use(name)
        assert difference(mixed[at], infer(model, x)[at]) < 1e-6


@pytest.mark.parametrize("at_once", [False, True])
def test_layers_form_the_effective_weight_of_the_task_in_use(at_once: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Kind, "at_once", lambda *_: at_once)  # on a GPU all layers form theirs at once
    (model, bank), (other, narrow) = (small(Tasks(NAMES, ["U"]), route=route) for route in ("formed", "activation"))
    x, labels = images(6), torch.arange(6)
    for name in (*NAMES, NAMES[0]):
        for one, its in ((model, bank), (other, narrow)):
            its.use(name)
            torch.autograd.backward(nn.functional.cross_entropy(one(x), labels))
        assert difference(infer(model, x), infer(other, x)) < 1e-5
    for (name, p), q in zip(bank.named_parameters(), narrow.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        assert p.grad is None or difference(p.grad, cast("Tensor", q.grad)) < 1e-4, name
    batch = ["pets", "flowers", "cars", "pets", "cars", "pets"]
    with bank.batch(batch):
        mixed = infer(model, x)
    assert difference(bank.map(x, batch), mixed) < 1e-5


def test_under_autocast_and_inference_mode_tasks_are_as_alone() -> None:
    model, bank = small(Tasks(NAMES, ["U", "V"]))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        with bank.batch(["pets", "cars"]):
            mixed = model(images(2)).float()
        for at, name in enumerate(("pets", "cars")):
            bank.use(name)
            assert difference(mixed[at], model(images(2))[at].float()) < 0.05


def test_what_is_wrong_is_refused_and_changes_nothing() -> None:
    model, bank = small()
    expected = infer(model, images())
    with refused(AdaptError, "use: no such task", "'flowers', 'pets', 'cars'", "did you mean 'pets'"):
        bank.use("pet")
    for tasks, word in ((["pets", "dogs"], "no such task"), (torch.tensor([0, 3]), "from 0 to 2"), ([], "names")):
        with refused(AdaptError, "batch", word), bank.batch(tasks):
            pass
    with refused(AdaptError, "another number of samples", "2, one for each task"), bank.batch(["pets", "cars"]):
        model(images(4))
    with refused(AdaptError, "another number of samples"):
        bank.map(images(4), ["pets", "cars"])
    with refused(AdaptError, "has no single value in a mixed batch", "bank.map"), bank.batch(["pets", "cars"]):
        bank.delta("blocks.0.attn.qkv.weight")
    assert torch.equal(infer(model, images()), expected)
    with refused(AdaptError, "adapt: tasks", "init="):
        adapt(nano(), tasks=NAMES, init="hosvd")
    bank.remove()
    with refused(AdaptError, "removed from its model"):
        bank.use("pets")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("use", lambda bank: bank.use("pets")),
        ("merge", lambda bank: bank.merge("pets")),
        ("add", lambda bank: bank.add("birds")),
        ("drop", lambda bank: bank.drop("cars")),
        ("train_only", lambda bank: bank.train_only("pets")),
    ],
)
def test_nothing_changes_inside_a_mixed_batch(name: str, change: Callable[[Bank], None]) -> None:
    model, bank = small()
    batch = ["cars", "flowers", "pets", "cars"]
    with bank.batch(batch):
        expected = infer(model, images())
        with refused(AdaptError, f"{name}() inside", "after the block"):
            change(bank)
        assert torch.equal(infer(model, images()), expected)
    assert bank.tasks == NAMES


def test_parts_of_a_model_are_called_with_one_sample_a_task() -> None:
    model, bank = small()
    with torch.no_grad(), bank.batch(["pets", "cars"]):
        assert len(cast("Any", model).forward_features(images(2))) == 2
        with refused(AdaptError, "2 rows", "call the whole model"):
            cast("Any", model).forward_features(images())


def test_the_base_model_has_no_increment_to_merge() -> None:
    _, bank = small()
    bank.use(None)
    for call in (bank.merge, lambda: bank.delta("blocks.0.attn.qkv.weight")):
        with refused(AdaptError, "no task is in use", "bank.use('flowers')"):
            call()


def test_a_state_dict_of_other_tasks_is_refused() -> None:
    model, _ = small(Tasks(["one", "two"], (), [3, 5]))
    for tasks in (Tasks(["two", "one"], (), [3, 5]), Tasks(["one", "two"], (), [5, 3])):
        other, _ = small(tasks)
        with refused(AdaptError, "a bank of other tasks", tasks.names[0]):
            other.load_state_dict(model.state_dict())
    other, _ = small(Tasks(["one", "two"], (), [3, 5]))
    other.load_state_dict(model.state_dict())


def test_heads_that_do_not_fit_are_refused_and_nothing_changes() -> None:
    models = []
    for width in (6, 5):
        model = nn.Sequential()
        model.add_module("body", nn.Linear(4, 4))
        model.add_module("fc", nn.Linear(4, width))
        model.add_module("out", nn.Linear(width, CLASSES))
        models.append(model)
    heads: Any = {"train_head": ["fc", "out"], "check": False, "seed": 0}
    models[1].get_submodule("body").load_state_dict(models[0].get_submodule("body").state_dict())
    other = adapt(models[1], BODY, "matrix-batch:rank=1", **heads)
    bank = adapt(models[0], BODY, "matrix-batch:rank=1", tasks=NAMES[:2], **heads)
    with untouched(models[0]), refused(AdaptError, "fc.weight", "shape (6, 4)", "shape (5, 4)"):
        bank.add("cars", other)
    two = timm.create_model("deit_tiny_distilled_patch16_224", img_size=32, depth=1, num_classes=4)
    with untouched(two), refused(AdaptError, "one linear layer of classes", "head_dist"):
        adapt(two, plan_for(two), tasks=Tasks(["a", "b"], (), [3, 6]))
    headless = nano()
    bare = adapt(headless, tasks=["a"], train_head=False)
    with refused(AdaptError, "add: classes", "train_head"):
        bare.add("b", classes=3)


def test_tasks_are_added_in_inference_mode_and_train() -> None:
    model, bank = small()
    with torch.inference_mode():
        bank.add("birds")
    bank.use("birds")
    model(images()).sum().backward()
    with torch.inference_mode():
        bank.train_only("birds")
    model(images()).sum().backward()


def test_what_the_user_froze_stays_frozen_after_training_one_task() -> None:
    _, bank = small(Tasks(NAMES, ["U", "V"]))
    cores = bank.named_cores()
    cores["encoder.U"].requires_grad_(False)
    bank.train_only("pets")
    assert not any(cores[name].requires_grad for name in ("encoder.U", "encoder.V"))
    bank.train_only(None)
    assert [cores[name].requires_grad for name in ("encoder.U", "encoder.V")] == [False, True]
    assert bank.trained is None


def test_what_cannot_be_a_bank_leaves_the_model_as_it_is() -> None:
    model = nano()
    for tasks in ([], ["a", "a"], "flowers", [""], ["\ud800"], Tasks(["a"], ["U", "S1", "V"]), Tasks(["a"], ["W"])):
        with untouched(model), refused(AdaptError, "tasks"):
            adapt(model, tasks=tasks)


# ------------------------------------------------------------------------------------------------------------ the tasks


@pytest.mark.parametrize("shared", [(), ("U", "V"), ("S1",)], ids=str)
def test_a_task_is_added_dropped_and_renamed_and_the_others_stay(shared: tuple[str, ...]) -> None:
    model, bank = small(Tasks(NAMES, shared))
    x, expected = images(), {}
    base = infer(nano(), x)
    for name in NAMES:
        bank.use(name)
        expected[name] = infer(model, x)
    bank.add("birds", classes=4, seed=1)
    bank.use("birds")
    assert infer(model, x).shape == (4, 4)
    bank.add("trees", seed=1)
    bank.use("trees")
    assert torch.equal(infer(model, x), base), "a new task is the base model"
    gradients = torch.autograd.grad(model(x).square().sum(), [p for p in bank.parameters() if p.requires_grad])
    assert any(bool(each.any()) for each in gradients)
    bank.rename("pets", "animals")
    with refused(AdaptError, "drop: the task 'trees' is in use", "bank.use('flowers')"):
        bank.drop("trees")
    bank.use("animals")
    bank.drop("flowers")
    assert bank.task == "animals"
    assert bank.tasks == ("animals", "cars", "birds", "trees")
    for name, task in (("animals", "pets"), ("cars", "cars")):
        bank.use(name)
        assert torch.equal(infer(model, x), expected[task])
    with bank.batch(["cars", "trees", "animals", "birds"]):
        mixed = infer(model, x)
    assert difference(mixed[2, :10], expected["pets"][2]) < 1e-4
    with refused(AdaptError, "the bank has a task 'cars'"):
        bank.add("cars")
    with refused(AdaptError, "the bank has a task 'trees'"):
        bank.rename("cars", "trees")
    with refused(AdaptError, "drop: no such task"):
        bank.drop("dogs")
    assert bank.num_parameters == sum(core.numel() for core in bank.named_cores().values())


def test_an_adapter_becomes_a_task_and_a_task_an_adapter() -> None:
    model, bank = small()
    other = nano()
    adapter = adapt(other, plan_for(other), "tt:rank=4", seed=5)
    draw(adapter, 7)
    expected = infer(other, images())
    bank.add("new", adapter)
    bank.use("new")
    assert difference(infer(model, images()), expected) < 1e-5
    assert adapter.scales != bank.scales
    bank.add("again", bank.state("pets"))
    bank.use("pets")
    expected = infer(model, images())
    bank.use("again")
    assert torch.equal(infer(model, images()), expected)
    wrong = adapt(nano(), format="tt:rank=5")
    with refused(AdaptError, "differs from the bank in its formats", "TensorTrain(rank=5"):
        bank.add("wrong", wrong)
    assert "wrong" not in bank.tasks
    shared = small(Tasks(NAMES, ["U"]))[1]
    with refused(AdaptError, "the core 'U' of tensor 'encoder'", "tensorfact.bank("):
        shared.add("wrong", adapter)


@pytest.mark.parametrize("shared", [(), ("U", "V")], ids=str)
def test_training_one_task_leaves_all_others_bit_for_bit(shared: tuple[str, ...]) -> None:
    model, bank = small(Tasks(NAMES, shared))
    x, before = images(), {}
    for name in NAMES:
        bank.use(name)
        before[name] = infer(model, x)
    bank.train_only("pets")
    assert bank.task == "pets"
    assert torch.equal(infer(model, x), before["pets"])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01, weight_decay=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(model(x), torch.arange(4)))
        optimizer.step()
    trained = infer(model, x)
    assert not torch.equal(trained, before["pets"])
    with bank.batch(["pets", "cars", "pets", "flowers"]):
        mixed = infer(model, x)
    assert difference(mixed[0], trained[0]) < 1e-5
    with refused(AdaptError, "the task 'pets' trains alone", "train_only(None)"):
        bank.add("new")
    assert torch.equal(infer(_adapted(bank.state("pets")), x), trained)
    bank.train_only(None)
    for name in NAMES:
        bank.use(name)
        assert torch.equal(infer(model, x), trained if name == "pets" else before[name])
    assert all(p.requires_grad for p in bank.parameters())


def _adapted(state: AdapterState) -> nn.Module:
    model = nano()
    load_adapter(model, state)
    return model


def test_compiled_models_run_other_tasks_without_compiling_again() -> None:
    model, bank = small(Tasks(NAMES, ["U", "V"]))
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    x, counts = images(3), list[int]()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with torch.no_grad():
        for batch in (["pets", "cars", "pets"], ["flowers", "flowers", "cars"], ["cars", "pets", "flowers"]):
            with bank.batch(batch):
                found, expected = compiled(x), model(x)
            assert difference(found, expected) < 1e-5
            counts.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
        assert counts[0] == counts[-1]
        for name in ("pets", "cars", "flowers"):
            bank.use(name)
            assert difference(compiled(x), model(x)) < 1e-5
            counts.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
        assert counts[3] == counts[-1]


def test_dropout_applies_to_mixed_batches_too() -> None:
    model, bank = small(dropout=0.5)
    model.train()
    torch.manual_seed(0)
    with bank.batch(["pets", "cars"]):
        first, second = model(images(2)), model(images(2))
    assert not torch.equal(first, second)
    model.eval()
    with bank.batch(["pets", "cars"]):
        assert torch.equal(model(images(2)), model(images(2)))
    model, bank = small(dropout={"increment": 0.5})
    model.train()
    with refused(AdaptError, "no product for a mixed batch", "bank.map"), bank.batch(["pets", "cars"]):
        model(images(2))


def test_a_merged_task_stays_with_its_head_when_the_bank_is_removed() -> None:
    model, bank = small(Tasks(NAMES, classes=[10, 10, 4]))
    bank.use("pets")
    expected = infer(model, images())
    bank.merge("cars")
    with refused(AdaptError, "the head of the merged task 'cars'", "shape (4,"):
        bank.remove()
    bank.unmerge()
    bank.merge("pets")
    bank.remove()
    assert difference(infer(model, images()), expected) < 1e-4


def test_learning_rates_are_given_by_core_and_for_the_heads() -> None:
    _, bank = small(Tasks(NAMES, ["U", "V"]))
    groups = bank.parameter_groups(1e-3, {"S1": 2.0, "head": 10.0})
    assert sorted(group["lr"] for group in groups) == [1e-3, 2e-3, 1e-2]
