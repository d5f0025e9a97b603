"""Parameters without effect are found: at once if an example input is known, else in the first forward pass."""

from __future__ import annotations

import copy
import dataclasses
import math
import types
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from tensorfact import Adapter, Group, Rule, TensorizationPlan, TensorTrain, adapt, plan_for
from tensorfact.adapters.liveness import Effect, Liveness, Watch
from tensorfact.errors import AdaptError, UnusedError
from tensorfact.lab import nano
from tensorfact.model.example import called_names, known_example
from tensorfact.model.outputs import numbers
from tests.helpers import difference, draw, infer, layers, layers_plan, randomise, refused, snapshot, untouched


class Branches(nn.Module):
    """Two linear layers; a forward pass uses those that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

    def forward(self, x: Tensor, which: tuple[int, ...] = (0,)) -> Tensor:
        for at in which:
            x = x + cast("Tensor", self.layers[at](x))
        return x


class Caching(nn.Module):
    """A module that copies its layer's weight at construction and uses the copy."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4, bias=False)])
        self.kept = cast("nn.Linear", self.layers[0]).weight.detach().clone()

    def forward(self, x: Tensor) -> Tensor:
        return x + 0 * cast("Tensor", self.layers[0](x)) + nn.functional.linear(x, self.kept)


class Gated(Branches):
    """A residual branch with a frozen last scale of zero."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, which: tuple[int, ...] = (0,)) -> Tensor:
        return x + cast("Tensor", self.layers[0](x)) + self.gamma * cast("Tensor", self.layers[1](x))


PLAN = TensorizationPlan((Group("g", "layer in out", (Rule("layers.{layer}.weight", "out in"),)),))
X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


def adapted(model: nn.Module, **options: Any) -> Adapter:
    return cast("Adapter", adapt(model, PLAN, TensorTrain(1), seed=0, **options))


def watches(model: nn.Module) -> list[Watch]:
    return [hook for hook in model._forward_hooks.values() if isinstance(hook, Watch)]


def test_the_first_forward_pass_names_an_unused_parameter() -> None:
    model = Branches()
    adapted(model)
    for _ in range(2):  # it stays an error
        with refused(UnusedError, "'layers.1.weight'", "check=False"):
            model(X)


def test_passes_that_together_use_all_are_enough() -> None:
    model = Branches()
    adapted(model)
    assert len(watches(model)) == 1
    model(X, (0, 1))
    assert not watches(model)
    model(X)


def test_without_the_check_parts_may_stay_unused() -> None:
    model = Branches()
    adapter = adapted(model, check=False)
    model(X)
    assert not watches(model)
    adapter.remove()


def test_a_removed_adapter_looks_no_more() -> None:
    model = Branches()
    with untouched(model):
        adapted(model).remove()
    assert not watches(model)
    model(X)


def test_a_known_example_tells_at_once_and_leaves_the_model_as_it_was() -> None:
    model = cast("Any", nano())
    model.spare = nn.Linear(96, 96)
    plan = TensorizationPlan((Group("spare", "in out", (Rule("spare.weight", "out in"),)),))
    state = torch.random.get_rng_state()
    with untouched(model), refused(UnusedError, "'spare.weight'"):
        adapt(model, plan, TensorTrain(1), seed=0)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not watches(model)


def test_the_look_at_an_example_changes_nothing() -> None:
    model = nano().train()
    state = torch.random.get_rng_state()
    adapter = adapt(model, plan_for(model), TensorTrain(2), seed=0)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    assert not watches(model)
    assert not any(slot.read for slot in adapter._slots.values()), "a copy without numbers ran instead"


class Shown(nn.Module):
    """Two linear layers with a known example; a forward pass uses the first alone, and the head."""

    def __init__(self) -> None:
        super().__init__()
        self.pretrained_cfg = {"input_size": (4, 1, 1)}
        self.layers, self.head = layers(2, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.head(self.layers[0](x.flatten(1))))


class Shared(Shown):
    """A module whose copies are itself."""

    def __deepcopy__(self, memo: object) -> Shared:
        return self


def traced() -> nn.Module:
    graph: Any = torch.fx.symbolic_trace(Shown())
    graph.layers.add_module("1", nn.Linear(4, 4))  # tracing had left it out
    graph.pretrained_cfg = {"input_size": (4, 1, 1)}
    return cast("nn.Module", graph)


@pytest.mark.parametrize("make", [Shared, traced])
def test_a_model_whose_copies_are_no_outlines_runs_itself(make: Any) -> None:
    with refused(UnusedError, "'layers.1.weight'"):
        adapted(make())


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning", "ignore:The .grad attribute:UserWarning")
@pytest.mark.parametrize("wrap", ["script", "trace", "compile"])
def test_a_scripted_traced_or_compiled_part_is_called_as_it_is(wrap: str) -> None:
    model = cast("Any", Shown())
    calls = {
        "script": torch.jit.script,
        "trace": lambda layer: cast("Any", torch.jit).trace(layer, X),
        "compile": lambda layer: torch.compile(layer, backend="eager"),
    }
    model.head = cast("Any", calls[wrap])(model.head)
    called = called_names(model)
    assert called is not None
    assert called - {"head._orig_mod"} == {"", "layers.0", "head"}
    with refused(UnusedError, "'layers.1.weight'"):
        adapted(model)
    model.layers = model.layers[:1]
    adapter = adapted(model, train_head=False)
    model(X).sum().backward()
    assert all(core.grad is not None for core in adapter.parameters() if core.requires_grad)
    model.load_state_dict(model.state_dict())
    assert bool(model.head._load_state_dict_pre_hooks) == (wrap != "script"), "what is loaded into the part is followed"
    adapter.remove()


def test_a_check_that_waits_goes_on_after_the_cores_were_exchanged() -> None:
    model = Branches()
    adapted(model).convert(TensorTrain(2))
    with refused(UnusedError, "'layers.1.weight'"):
        model(X)


def test_an_example_that_does_not_run_tells_nothing() -> None:
    model = cast("Any", nano())
    model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (7, 5, 5), "first_conv": None}  # 7 channels
    adapt(model, plan_for(model), TensorTrain(2))
    assert len(watches(model)) == 1
    model(torch.zeros(1, 1, 28, 28))
    assert not watches(model)


def test_a_copy_made_before_the_first_pass_is_watched_by_itself() -> None:
    model = Branches()
    adapter = adapted(model)
    twin = copy.deepcopy(model)
    model(X, (0, 1))
    assert not watches(model)
    with refused(UnusedError, "'layers.1.weight'"):
        twin(X)
    cast("Adapter", twin.tensorfact).remove()
    twin(X)
    assert adapter._attached


def test_what_a_compiler_runs_is_no_sign_of_a_dead_parameter() -> None:
    torch._dynamo.reset()
    model = Branches()
    adapted(model)
    for layer in model.layers:
        layer.compile(backend="eager", fullgraph=True)
    whole = Branches()
    adapted(whole)
    compiled = cast("nn.Module", torch.compile(whole, backend="eager", fullgraph=True))
    with torch.no_grad():
        model(X, (0, 1))
        assert difference(compiled(X, (0, 1)), whole(X, (0, 1))) < 1e-6


# -------------------------------------------------------------------------------------------------------------- check()


def test_check_measures_every_parameter_and_leaves_no_trace() -> None:
    model = randomise(nano())
    adapter = adapt(model, plan_for(model), TensorTrain(2), seed=0)
    draw(adapter)
    before = snapshot(model)
    found = adapter.check()
    assert snapshot(model) == before
    assert [effect.parameter for effect in found.effects] == list(adapter.resolved.parameters)
    assert all(effect.moved > 1e-3 and effect.difference < found.tolerance for effect in found.effects)
    assert "blocks.5.mlp.fc2.weight" in str(found)


@pytest.mark.parametrize("given", [X, (X, (0, 1)), {"x": X, "which": (0, 1)}], ids=["tensor", "arguments", "keywords"])
def test_check_takes_any_form_of_input(given: Any) -> None:
    model = Branches()
    adapter = adapted(model, check=False)
    if isinstance(given, Tensor):
        with refused(AdaptError, "'layers.1.weight'", "does not depend"):
            adapter.check(given)
    else:
        assert len(adapter.check(given).effects) == 2


def test_check_finds_a_copied_weight_and_a_frozen_zero() -> None:
    model = Caching()
    adapter = adapted(model)
    model(X)  # the layer is called, so it looks used
    with untouched(model), refused(AdaptError, "'layers.0.weight'", "does not depend"):
        adapter.check(X)
    gated = Gated()
    adapter = adapted(gated)
    with refused(AdaptError, "'layers.1.weight'", "frozen zero"):
        adapter.check(X)
    nn.init.constant_(gated.gamma, 1e-7)
    assert not adapter.check(X).dead


def test_check_finds_a_model_that_answers_otherwise_once_merged() -> None:
    class Odd(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            stored = next(p for n, p in self.named_parameters() if n == "0.weight")
            return cast("Tensor", nn.Sequential(*self)(x)) + stored.sum()

    model = Odd(*layers(2))
    adapter = adapt(model, layers_plan(), TensorTrain(2), seed=0)
    with refused(AdaptError, "'0.weight'", "adapted and merged"):
        adapter.check(torch.ones(2, 6))


def test_an_effect_is_dead_without_a_change_and_apart_above_the_tolerance() -> None:
    found = Liveness(tuple(Effect(*each) for each in (("a", 1.0, 0.5), ("b", 0.0, 0.75), ("c", 1e-9, math.nan))), 0.5)
    assert (found.dead, found.apart) == (("b",), ("b", "c"))


def test_check_says_what_it_needs() -> None:
    model = Branches()
    adapter = adapted(model)
    with refused(AdaptError, "Branches", "example_input"):
        adapter.check()
    adapter.merge()
    with refused(AdaptError, "already merged"):
        adapter.check(X)


def test_numbers_come_out_of_any_container() -> None:
    found = numbers({"a": torch.ones(2), "b": [torch.zeros(1, dtype=torch.long), (torch.ones(1), None)], "c": "x"})
    assert found.tolist() == [1, 1, 1]

    @dataclasses.dataclass
    class Out:
        logits: Tensor

    assert numbers([Out(torch.ones(2))]).tolist() == [1, 1]
    for nothing in (3, torch.ones(2, dtype=torch.long), torch.empty(0), torch.full((2,), float("nan"))):
        with refused(AdaptError, type(nothing).__name__, "finite"):
            numbers(nothing)


def test_infinite_numbers_of_an_output_do_not_count() -> None:
    class Masked(Branches):
        def forward(self, x: Tensor, which: tuple[int, ...] = (0, 1)) -> Tensor:
            x = super().forward(x, which)
            return torch.cat([x, torch.full_like(x, float("-inf"))])

    adapter = adapted(Masked())
    assert all(effect.moved > 0 for effect in adapter.check(X).effects)


def test_an_output_of_another_length_is_another_output() -> None:
    class Kept(Branches):
        def forward(self, x: Tensor, which: tuple[int, ...] = (0, 1)) -> Tensor:
            x = super().forward(x, which)
            return x.flatten()[: 2 + round(1e2 * float(x.abs().sum())) % 7]

    assert math.inf in {effect.moved for effect in adapted(randomise(Kept())).check(X).effects}


def test_a_check_tells_the_same_whatever_torch_s_random_state() -> None:
    adapter, found = adapted(Branches()), []
    for seed in range(3):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        found.append(adapter.check((X, (0, 1))))
        assert torch.equal(torch.get_rng_state(), state)
    assert found[0] == found[1] == found[2]


def test_buffers_stay_as_they_were() -> None:
    class Counting(Branches):
        def __init__(self) -> None:
            super().__init__()
            self.calls: Tensor
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor, which: tuple[int, ...] = (0, 1)) -> Tensor:
            self.calls = self.calls + 1
            return super().forward(x, which)

    model = Counting()
    adapter = adapted(model)
    calls = model.calls
    adapter.check(X)
    assert model.calls is calls
    assert calls == 0


def test_one_compiled_model_says_nothing_of_another() -> None:
    torch._dynamo.reset()
    first, second = layers(2), Branches()
    adapt(first, layers_plan(), TensorTrain(2), seed=0)
    torch.compile(first, backend="eager", fullgraph=True)(torch.ones(2, 6))
    adapted(second)
    with refused(UnusedError, "'layers.1.weight'"):
        second(X)


def test_layers_that_are_dropped_at_random_are_not_judged_in_training() -> None:
    model = cast("Any", Branches())
    model.config = types.SimpleNamespace(layerdrop=0.1)
    adapted(model)
    model.train()(X)
    with refused(UnusedError, "'layers.1.weight'"):
        model.eval()(X)


@pytest.mark.parametrize(
    "config",
    ["text", {"input_size": None}, {"input_size": 3, "classifier": 3}, {"input_size": (1, "x", 2)}, {"classifier": ()}],
    ids=repr,
)
def test_whatever_a_model_says_of_itself_is_no_reason_to_fail(config: Any) -> None:
    model = cast("Any", Branches())
    model.pretrained_cfg = config
    model.config = types.SimpleNamespace(image_size=(1, 2, 3))
    adapted(model)
    assert known_example(model) is None
    model(X, (0, 1))


def test_what_cannot_be_adapted_or_checked_is_refused() -> None:
    model = layers(2)
    with refused(AdaptError, "compiled already"):
        adapt(cast("nn.Module", torch.compile(model)), layers_plan(), TensorTrain(2))
    with torch.inference_mode():
        inferred = layers(2)
    with refused(AdaptError, "'0.weight'", "inference_mode"):
        adapt(inferred, layers_plan(), TensorTrain(2))
    with torch.device("meta"):
        outline = layers(2)
    adapter = adapt(outline, layers_plan(), TensorTrain(2))
    with refused(AdaptError, "meta device"):
        adapter.check(torch.ones(2, 6))


def test_infer_and_watch_get_along_with_sequential_roots() -> None:
    model = layers(3)
    adapt(model, layers_plan(), TensorTrain(2), seed=0)
    infer(model, torch.ones(2, 6))
    assert not watches(model)


@pytest.mark.parametrize("example", ["text", 5, torch.ones(2, 5), (torch.ones(2, 6), 1), {"x": torch.ones(2, 6)}, []])
def test_an_input_that_the_model_does_not_take_is_refused(example: Any) -> None:
    model = layers()
    adapter = adapt(model, layers_plan(), TensorTrain(2), check=False)
    with untouched(model), refused(AdaptError, "Sequential does not run on the example input"):
        adapter.check(example)
