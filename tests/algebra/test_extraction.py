"""Extraction of adapters from fully fine-tuned weights: models, state dicts, files."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from tensorfact import Group, MatrixBatch, Rule, TensorizationPlan, TensorTrain, adapt, extract, load_adapter, plan_for
from tensorfact.errors import AdaptError, CheckpointError, DataError, PlanError, RankError
from tests.algebra.tuned import pair, weights
from tests.helpers import difference, infer, layers, layers_plan, randomise, refused, untouched

FULL = TensorTrain("full")


@pytest.mark.parametrize("name", ["models", "state dicts", "files"])
@pytest.mark.parametrize("keep", [False, True])
def test_the_tuned_model_comes_back(sources: dict[str, tuple[Any, Any]], name: str, keep: bool) -> None:
    (base, tuned), (old, new) = sources["models"], sources[name]
    with untouched(base, tuned):
        found = extract(old, new, layers_plan(), FULL, tolerance=1e-5, keep=keep, model=base, scale=0.5)
    assert found.changes[0].format == TensorTrain((1, 1))
    assert max(found.errors.values()) < 1e-5
    assert set(found.errors) == {"0.weight", "1.weight", "2.weight"}
    changed = {each.parameter: each for each in found.left_over if each.change}
    assert set(changed) == {"0.bias"}
    assert changed["0.bias"].stored == keep
    expected = copy.deepcopy(tuned)
    if not keep:
        expected[0].bias.data.copy_(base[0].bias.data)
    adapted = copy.deepcopy(base)
    adapter = load_adapter(adapted, found.state, check=False)
    assert adapter.scales == {"stack": 0.5}
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    assert difference(infer(adapted, x), infer(expected, x)) < 1e-4


def test_names_alone_will_do(sources: dict[str, tuple[Any, Any]]) -> None:
    base, _ = sources["models"]
    found = extract(*sources["files"], layers_plan(), FULL, tolerance=1e-5)
    assert load_adapter(base, found.state, check=False).num_parameters == found.parameters
    with refused(DataError, "keep=True needs a model"):
        extract(*sources["files"], layers_plan(), FULL, keep=True)


def test_the_errors_of_parameters_make_up_that_of_the_tensor() -> None:
    base, tuned = randomise(layers(3, 6)), randomise(layers(3, 6), seed=1)
    found = extract(base, tuned, layers_plan(), TensorTrain(2))
    energies = {
        name: float((tuned.get_parameter(name) - base.get_parameter(name)).detach().square().sum())
        for name in found.errors
    }
    lost = sum(found.errors[name] ** 2 * energy for name, energy in energies.items())
    assert math.sqrt(lost / sum(energies.values())) == pytest.approx(found.changes[0].error, rel=1e-4)


def test_nothing_tuned_is_an_adapter_of_zero_that_can_learn() -> None:
    base, _ = pair()
    found = extract(base, copy.deepcopy(base), layers_plan(), TensorTrain(2), keep=True)
    assert found.errors == dict.fromkeys(found.errors, 0.0)
    assert not found.state.head
    load_adapter(base, found.state, check=False)
    base(torch.ones(2, 6)).sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in base.tensorfact.parameters())  # type: ignore[union-attr]


def test_a_swin_s_stages_are_extracted_with_its_new_head() -> None:
    base = timm.create_model("swin_tiny_patch4_window7_224", embed_dim=24, num_classes=3).eval()
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.mul_(1.01)
    tuned.reset_classifier(5)
    found = extract(base, tuned, plan_for(base), TensorTrain(4))
    assert len(found.changes) == 4
    table = str(found.left_over_table())
    assert "head.fc.weight" in table
    assert "was 3x192" in table


def test_running_statistics_are_kept_beside_their_norm(tmp_path: Path) -> None:
    base = timm.create_model("resnet10t", num_classes=3).eval()
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        for name, value in tuned.state_dict().items():
            if "bn" in name and value.is_floating_point():
                value.add_(0.1)
            elif "layer" in name and value.ndim == 4:
                value.mul_(1.01)
    rule = Rule("layer1.0.conv{layer}.weight", "out in h w")
    plan = TensorizationPlan((Group("g", "layer in out (h w)", (rule,)),))
    found = extract(base, tuned, plan, TensorTrain("full"), keep=True)
    found.save(tmp_path / "a.safetensors")
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = infer(tuned, x)
    load_adapter(base, tmp_path / "a.safetensors")
    assert difference(infer(base, x), expected) < 1e-4


def broken(given: dict[str, Tensor], fault: str) -> dict[str, Tensor]:
    new = {name: value.clone() for name, value in given.items()}
    if fault == "missing":
        del new["1.weight"]
    elif fault == "shape":
        new["1.weight"] = torch.ones(6, 7)
    elif fault == "architecture":
        new = {f"module.{name}": value for name, value in new.items()}
    else:
        new["1.weight"][0, 0] = math.nan if fault == "nan" else math.inf
    return new


@pytest.mark.parametrize("fault", ["missing", "shape", "architecture", "nan", "inf"])
def test_weights_that_do_not_fit_are_refused(sources: dict[str, tuple[Any, Any]], fault: str, tmp_path: Path) -> None:
    old, new = sources["state dicts"]
    with refused(DataError, "1.weight" if fault != "architecture" else "0.weight"):
        extract(old, broken(new, fault), layers_plan(), FULL)
    with pytest.raises((DataError, PlanError)):
        extract(broken(old, fault), new, layers_plan(), FULL)


def test_files_that_are_none_are_refused(sources: dict[str, tuple[Any, Any]], tmp_path: Path) -> None:
    old, new = sources["files"]
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(Path(new).read_bytes()[:-20])
    for bad in (cut, tmp_path / "none.safetensors", tmp_path):
        with refused(CheckpointError, str(bad)):
            extract(old, bad, layers_plan(), FULL)
    with refused(DataError, "list", fix=False):
        extract(old, [1], layers_plan(), FULL)  # type: ignore[arg-type]


def test_what_a_plan_leaves_frozen_is_said_to_be_left_over() -> None:
    base, tuned = randomise(layers(2, 6)), randomise(layers(2, 6), seed=1)
    rule = Rule("{layer}.weight", "(part out) in", part=["a", None, "b"])
    plan = TensorizationPlan((Group("g", "(layer part) in out", (rule,)),))
    found = extract(base, tuned, plan, MatrixBatch("full"))
    assert found.changes[0].error < 1e-5
    assert {each.parameter for each in found.left_over} >= {"0.weight, frozen part", "1.weight, frozen part"}
    assert "0.weight, frozen part" in str(found.left_over_table())


def test_small_changes_of_fp64_weights_are_seen() -> None:
    base = randomise(layers(2, 6)).double()
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            parameter.add_(torch.randn(parameter.shape, dtype=torch.float64), alpha=1e-9 if "weight" in name else 0)
    found = extract(base, tuned, layers_plan(), MatrixBatch("full"))
    adapter = load_adapter(base, found.state, check=False)
    for name in adapter.resolved.parameters:
        expected = tuned.get_parameter(name).detach() - base.state_dict()[name]
        assert difference(adapter.delta(name), expected) < 1e-6


def test_numbers_that_are_none_are_not_kept() -> None:
    base, tuned = pair()
    with torch.no_grad():
        tuned.get_parameter("1.bias")[0] = math.nan
    with refused(DataError, "'1.bias' holds NaN"):
        extract(base, tuned, layers_plan(), FULL, keep=True)
    assert "1.bias" in str(extract(base, tuned, layers_plan(), FULL).left_over_table())


@pytest.mark.parametrize("name", ["0", "a..b", "training", "forward.x", 3])
def test_names_that_make_no_model_are_refused(name: Any) -> None:
    base, tuned = pair()
    with refused(DataError, fix=False):
        extract({**weights(base), name: torch.ones(1)}, weights(tuned), layers_plan(), FULL)


def test_what_cannot_be_extracted_is_refused() -> None:
    base, tuned = randomise(layers(3, 6)), randomise(layers(3, 6), seed=1)
    with refused(RankError, "tolerance 0.01"):
        extract(base, tuned, layers_plan(), TensorTrain(1), tolerance=0.01)
    with refused(RankError, "stack"):
        extract(base, tuned, layers_plan(), TensorTrain(99))
    for scale in (0.0, math.nan, math.inf, "x", {"stack": 1.0}):
        with refused(AdaptError, "scale"):
            extract(base, tuned, layers_plan(), FULL, scale=scale)  # type: ignore[arg-type]
    adapt(tuned, layers_plan(), TensorTrain(1), check=False)
    with refused(AdaptError, "adapted already"):
        extract(base, tuned, layers_plan(), FULL)


@pytest.mark.parametrize("wrong", [None, 5, "plan", [1], torch.ones(2, 2)])
def test_the_plan_and_the_callback_are_what_they_are_called(wrong: Any) -> None:
    model = randomise(layers())
    with refused(AdaptError, "a TensorizationPlan"):
        extract(model, layers(), wrong, TensorTrain(2))
    with refused(AdaptError, "extract: progress"):
        extract(model, layers(), layers_plan(), TensorTrain(2), progress=wrong)


@pytest.mark.parametrize("wrong", [None, "yes", 1, torch.ones(2, 2)])
def test_whether_to_keep_is_a_bool(wrong: Any) -> None:
    with refused(DataError, "extract: keep"):
        extract(layers(), layers(), layers_plan(), TensorTrain(2), keep=wrong)
