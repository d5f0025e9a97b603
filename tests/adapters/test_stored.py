"""A base weight that was exchanged after `adapt`: a moved or reloaded one is accepted, an effective one is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from tensorfact import Adapter, TensorTrain, adapt
from tensorfact.adapters.factors import Factors
from tensorfact.errors import AdaptError
from tests.helpers import difference, draw, infer, layers, layers_plan, randomise, refused, state_bits

X = torch.linspace(-1, 1, 18).reshape(3, 6)


def adapted(dtype: torch.dtype = torch.float32, **options: object) -> tuple[nn.Sequential, Adapter]:
    model = randomise(layers(3)).to(dtype).eval()
    adapter = adapt(model, layers_plan(), TensorTrain(2), seed=0, check=False, train_head=False)
    draw(adapter)
    return model, adapter


def store(model: nn.Module, at: int, weight: Tensor) -> None:
    model.get_submodule(str(at))._parameters["weight"] = nn.Parameter(weight, requires_grad=False)


def stored(model: nn.Module, at: int) -> Tensor:
    return cast("Tensor", model.get_submodule(str(at))._parameters["weight"]).detach()


# ------------------------------------------------------------------------------------------------------------- accepted


@pytest.mark.parametrize(
    "move",
    [
        lambda weight: weight.clone(),
        lambda weight: weight.double().float(),
        lambda weight: weight.cpu(),
        lambda weight: weight.t().contiguous().t(),
    ],
)
def test_a_moved_base_is_accepted(move: Callable[[Tensor], Tensor]) -> None:
    model, adapter = adapted()
    expected = infer(model, X)
    store(model, 1, move(stored(model, 1)))
    assert difference(infer(model, X), expected) < 1e-6
    adapter.merge()
    assert difference(infer(model, X), expected) < 1e-5
    adapter.unmerge()
    assert difference(infer(model, X), expected) < 1e-6


def test_a_base_that_was_rounded_or_replaced_by_another_is_accepted() -> None:
    model, _ = adapted()
    store(model, 1, stored(model, 1).half().float())
    infer(model, X)
    store(model, 1, torch.randn(6, 6))
    infer(model, X)


def test_a_base_reloaded_by_assignment_is_accepted() -> None:
    model, _ = adapted()
    expected = infer(model, X)
    model.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()}, assign=True)
    assert torch.equal(infer(model, X), expected)


def test_a_base_of_a_model_made_on_the_meta_device_is_accepted() -> None:
    base = randomise(layers(3))
    with torch.device("meta"):
        model = layers(3)
    adapt(model, layers_plan(), TensorTrain(2), seed=0, check=False, train_head=False)
    for at in range(3):
        store(model, at, stored(base, at))
    assert model.get_parameter("1.weight").device.type == "cpu"


def test_without_an_increment_effective_and_base_are_one() -> None:
    model = randomise(layers(3)).eval()
    adapt(model, layers_plan(), TensorTrain(2), check=False, train_head=False)
    expected = infer(model, X)
    store(model, 1, cast("nn.Linear", model[1]).weight.detach().clone())
    assert torch.equal(infer(model, X), expected)


# -------------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "made",
    [
        lambda weight: weight.clone(),
        lambda weight: 2.5 * weight,
        lambda weight: weight * torch.linspace(0.5, 2, 6, dtype=weight.dtype)[:, None],  # as layers are fused
    ],
)
@pytest.mark.parametrize("use", ["forward", "read", "merge", "save"])
def test_an_effective_weight_stored_as_the_base_is_refused(
    made: Callable[[Tensor], Tensor], dtype: torch.dtype, use: str, tmp_path: Path
) -> None:
    model, adapter = adapted(dtype)
    effective = made(cast("nn.Linear", model[1]).weight.detach())
    store(model, 1, effective)
    before = state_bits(model)
    uses: dict[str, Callable[[], object]] = {
        "forward": lambda: model(X.to(dtype)),
        "read": lambda: model[1].weight,
        "merge": adapter.merge,
        "save": lambda: adapter.save(tmp_path / "a.safetensors"),
    }
    for _ in range(2):  # it stays an error
        with refused(AdaptError, "'1.weight'", "W + s dW", "adapter.remove()"):
            uses[use]()
    assert state_bits(model) == before
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("assign", [False, True])
def test_merged_weights_are_not_loaded_into_an_adapted_model(assign: bool) -> None:
    model, adapter = adapted()
    adapter.merge()
    merged = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    adapter.unmerge()
    before = state_bits(model)
    with refused(AdaptError, "'0.weight'", "W + s dW"):
        model.load_state_dict(merged, assign=assign)
    assert state_bits(model) == before
    wrapper = nn.ModuleDict({"inner": model})
    with refused(AdaptError, "'0.weight'"):
        wrapper.load_state_dict({f"inner.{name}": tensor for name, tensor in merged.items()})


def test_merged_weights_with_their_factors_are_not_loaded_into_a_fresh_adapter() -> None:
    model, adapter = adapted()
    adapter.merge()
    merged = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fresh = cast("nn.Module", randomise(layers(3)))
    adapt(fresh, layers_plan(), TensorTrain(2), seed=0, check=False, train_head=False)
    with refused(AdaptError, "'0.weight'", "W + s dW"):
        fresh.load_state_dict(merged)


def test_a_merged_model_loads_its_own_state() -> None:
    model, adapter = adapted()
    adapter.merge()
    expected = infer(model, X)
    model.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()})
    assert torch.equal(infer(model, X), expected)


@pytest.mark.parametrize("core", ["U", "S1", "V"])
def test_a_new_base_beside_offloaded_factors_is_refused(core: str) -> None:
    model, adapter = adapted()
    parameters = cast("Factors", adapter.factors["stack"]).cores._parameters
    parameters[core] = nn.Parameter(cast("Tensor", parameters[core]).to("meta"))
    store(model, 1, stored(model, 1).clone())
    with refused(AdaptError, "the factors of '1.weight'", "meta device", "accelerate"):
        model[1](X)


@pytest.mark.parametrize("use", ["merge", "save"])
@pytest.mark.parametrize("new", [nn.Linear(6, 6), nn.Linear(6, 3), nn.Identity(), nn.Bilinear(6, 6, 6)], ids=str)
def test_a_replaced_layer_is_refused(new: nn.Module, use: str, tmp_path: Path) -> None:
    model, adapter = adapted()
    model[1] = new
    before = state_bits(model)
    with refused(AdaptError, "'1.weight'", "replaced", f"got {type(new).__name__}"):
        adapter.merge() if use == "merge" else adapter.save(tmp_path / "a")
    assert state_bits(model) == before
    adapter.remove()


@pytest.mark.parametrize("use", ["merge", "save", "state"])
@pytest.mark.parametrize("deleted", [True, False])
def test_a_layer_that_was_deleted_is_named(deleted: bool, use: str, tmp_path: Path) -> None:
    model, adapter = adapted()
    cast("dict[str, object]", model._modules)["1"] = None
    if deleted:
        del model._modules["1"]
    uses: dict[str, Callable[[], object]] = {
        "merge": adapter.merge,
        "save": lambda: adapter.save(tmp_path / "a"),
        "state": lambda: adapter.state,
    }
    with refused(AdaptError, "'1.weight'", "replaced", "got nothing"):
        uses[use]()
    adapter.remove()


@pytest.mark.parametrize("late", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm])
def test_a_parametrization_put_on_afterwards_is_refused(late: Callable[[nn.Module], object]) -> None:
    model, _ = adapted()
    before, expected = state_bits(model), infer(model, X)
    with refused(AdaptError, "'1.weight'", "before adapt()"):
        late(model[1])
    assert state_bits(model) == before
    assert torch.equal(infer(model, X), expected)


# ------------------------------------------------------------------------------------------------------ found by a name


def test_an_adapted_parameter_is_found_by_its_name_also_in_a_copy() -> None:
    model, adapter = adapted()
    for each in (model, copy.deepcopy(model)):
        assert each.get_parameter("1.weight") is each[1]._parameters["weight"]
        assert each.get_parameter("1.bias") is each[1].bias
    with pytest.raises(AttributeError, match="nothing"):
        model.get_parameter("1.nothing")
    adapter.remove()
    assert "get_parameter" not in model.__dict__
