"""Baselines of the paper: their published counts, that they start at the base model, train, and come off again."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import timm
import torch
from torch import nn

from tensorfact import TensorTrain, adapt, compare, fit, lab, plan_for
from tensorfact.errors import AdaptError
from tensorfact.lab import digits
from tensorfact.lab.baselines import (
    BASELINES,
    Adapters,
    AdaptFormer,
    BitFit,
    FullFineTuning,
    LinearProbe,
    Method,
    PromptTuning,
)
from tensorfact.lab.models import model_shapes
from tensorfact.storage.files import read_tensors

from .helpers import bits, infer, refused, snapshot, untouched

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
METHODS: dict[str, Callable[[], Method]] = {
    **BASELINES,
    "noah-subnet": lambda: BASELINES["noah-subnet"](adapters=[2, 0], ranks=[1, 2], prompts=[0, 3]),
}
ADDED = ["adapter", "adaptformer", "vpt-shallow", "vpt-deep", "noah-subnet"]


def small(name: str = "vit_base_patch16_224") -> nn.Module:
    torch.manual_seed(0)
    sizes = {"depth": 2, "embed_dim": 24, "num_heads": 3, "img_size": 32, "patch_size": 8, "num_classes": 5}
    return cast("nn.Module", timm.create_model(name, **sizes)).eval()


def swin(name: str = "swin_tiny_patch4_window7_224", **options: Any) -> nn.Module:
    torch.manual_seed(0)
    sizes = {"depths": (1, 1, 1, 1), "embed_dim": 12, "num_heads": (1, 1, 2, 2), "img_size": 64, "num_classes": 5}
    return cast("nn.Module", timm.create_model(name, **{"window_size": 2, **sizes, **options})).eval()


@pytest.mark.parametrize(
    ("method", "count"),
    [
        (LinearProbe(), 0),
        (FullFineTuning(), 85_798_656),
        (BitFit(), 102_912),
        (Adapters(8), 156_768),
        (AdaptFormer(8), 156_768),
        (PromptTuning(50), 50 * 768),
        (PromptTuning(50, deep=True), 12 * 50 * 768),
    ],
    ids=lambda value: value.label if hasattr(value, "label") else str(value),
)
def test_the_count_is_the_published_one(method: Method, count: int) -> None:
    assert method.attach(model_shapes("vit_base_patch16_224"), seed=0).num_parameters == count


def test_biases_of_swin_are_those_of_the_paper() -> None:
    count = BitFit().attach(model_shapes("swin_base_patch4_window7_224"), seed=0).num_parameters
    assert round(count / 1e6, 3) == 0.201


@pytest.mark.parametrize("name", METHODS)
def test_a_baseline_trains_what_it_counts_and_the_head(name: str) -> None:
    model = small()
    trained = METHODS[name]().attach(model, seed=0)
    numbers = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert numbers == trained.num_parameters + 24 * 5 + 5
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    seen: set[str] = set()
    for _ in range(2):
        optimizer.zero_grad()
        model(X).square().mean().backward()
        seen |= {n for n, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}
        optimizer.step()
    wanted = {name for name, p in model.named_parameters() if p.requires_grad}
    assert seen == wanted


@pytest.mark.parametrize("name", ["linear", "bitfit", "full", "adapter", "adaptformer"])
@pytest.mark.parametrize("make", [small, swin])
def test_a_fresh_baseline_changes_no_bit(name: str, make: Callable[[], nn.Module]) -> None:
    model = make()
    x = X if make is small else torch.randn(1, 3, 64, 64)
    base = infer(model, x)
    METHODS[name]().attach(model, seed=0)
    assert bits(infer(model, x)) == bits(base)


@pytest.mark.parametrize("name", METHODS)
def test_a_baseline_comes_off_again(name: str, tmp_path: Path) -> None:
    model = small()
    before, base = snapshot(model), infer(model, X)
    trained = METHODS[name]().attach(model, seed=0)
    trained.save(tmp_path / "file")
    stored = sum(tensor.numel() for tensor in read_tensors(tmp_path / "file").values())
    assert stored == trained.num_parameters + 24 * 5 + 5
    trained.remove()
    assert snapshot(model) == before
    assert bits(infer(model, X)) == bits(base)


@pytest.mark.parametrize("name", ADDED)
def test_a_copy_has_modules_of_its_own(name: str) -> None:
    model = small()
    METHODS[name]().attach(model, seed=0)
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in cast("nn.Module", model.baseline).parameters():
            parameter.add_(1.0)
    fresh = small()
    METHODS[name]().attach(fresh, seed=0)
    assert bits(infer(copied, X)) == bits(infer(fresh, X)) != bits(infer(model, X))


def test_one_seed_gives_the_same_modules() -> None:
    def drawn(seed: int) -> list[bytes]:
        return [bits(p) for p in cast("nn.Module", Adapters().attach(small(), seed)).parameters()]

    assert drawn(0) == drawn(0) != drawn(1)


@pytest.mark.parametrize("name", METHODS)
def test_attaching_leaves_the_random_state_alone(name: str) -> None:
    model = small()
    state = bits(torch.get_rng_state())
    METHODS[name]().attach(model, seed=0)
    assert bits(torch.get_rng_state()) == state


def test_what_cannot_take_a_baseline_is_refused() -> None:
    with refused(AdaptError, "no blocks"):
        Adapters().attach(timm.create_model("resnet18", num_classes=3), 0)
    with refused(AdaptError, "prompts"):
        PromptTuning().attach(swin("swinv2_tiny_window8_256"), 0)
    refusals: dict[tuple[str, ...], Method] = {
        ("swinv2_tiny_window8_256", "swinv2_cr_tiny_224", "vit_relpos_small_patch16_rpn_224"): AdaptFormer(2),
        ("levit_128s",): Adapters(2),
        ("vit_relpos_small_patch16_224", "beit_base_patch16_224", "eva02_tiny_patch14_224"): PromptTuning(2),
    }
    for names, method in refusals.items():
        for name in names:
            other = model_shapes(name)
            hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in other.modules()]
            with refused(AdaptError, "Vi" if method == PromptTuning(2) else "leave this baseline out"):
                method.attach(other, 0)
            assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in other.modules()] == hooks
    adapted = small()
    adapt(adapted, plan_for(adapted), TensorTrain(2))
    for method in (Adapters(), BitFit()):
        with refused(AdaptError, "adapted already"):
            method.attach(adapted, 0)


def test_baselines_are_rows_of_a_comparison() -> None:
    model = lab.nano()
    rows: list[Any] = [BitFit(), Adapters(4), AdaptFormer(4), PromptTuning(3)]
    found = compare(model, digits(model, train=16, val=8), [], seeds=[0], epochs=1, baselines=rows)
    assert [row.label for row in found.rows] == ["bitfit", "adapter h=4", "adaptformer h=4", "vpt-shallow p=3"]


def test_an_mlp_without_its_norm_has_nothing_to_stand_beside() -> None:
    model: Any = small()
    AdaptFormer(2).attach(model, 0)
    with refused(AdaptError, "norm2"):
        model.blocks[0].mlp(torch.zeros(1, 1, 24))


@pytest.mark.parametrize("under", [False, True])
def test_nothing_goes_on_top_of_a_baseline(under: bool) -> None:
    model = small()
    Adapters(2).attach(model, 0)
    whole = nn.Sequential(model) if under else model
    with untouched(whole):
        for method in (LinearProbe(), BitFit(), FullFineTuning(), AdaptFormer(2)):
            with refused(AdaptError, f"model{'.0' if under else ''}.baseline.remove()"):
                method.attach(whole, 0)
        with refused(AdaptError, "baseline"):
            adapt(whole, plan_for(whole), TensorTrain(2))
    nano = lab.nano()
    Adapters(2).attach(nano, 0)
    data: Any = digits(nano, train=16, val=8)
    for formats, rows in (((), [LinearProbe()]), ((TensorTrain(2),), ())):
        with refused(AdaptError, "baseline"):
            compare(nano, data, formats, seeds=[0], epochs=1, baselines=cast("Any", rows))


def test_a_module_named_baseline_is_the_models_own() -> None:
    model = small()
    model.add_module("baseline", nn.Linear(2, 2))
    with untouched(model), refused(AdaptError, "of its own"):
        Adapters(2).attach(model, 0)
    LinearProbe().attach(model, 0)
    adapt(model, plan_for(model), TensorTrain(2))


@pytest.mark.parametrize("method", [LinearProbe(), BitFit(), FullFineTuning()], ids=lambda method: method.label)
def test_statistics_that_train_are_stored(method: Method, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model: Any = timm.create_model("resnet10t", num_classes=3)
    before = copy.deepcopy(model)
    trained = method.attach(model, 0)
    data = torch.utils.data.TensorDataset(torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0]))
    fit(model, data, None, epochs=1, batch_size=2)
    trained.save(tmp_path / "file")
    before.load_state_dict(read_tensors(tmp_path / "file"), strict=False)
    assert snapshot(before)["state"] == snapshot(model)["state"]


@pytest.mark.parametrize("wrong", [0, -1, 2.5, "3", None, True])
@pytest.mark.parametrize("name", ["adapter", "adaptformer", "vpt-shallow", "vpt-deep"])
def test_a_size_that_is_none_is_refused(name: str, wrong: object) -> None:
    with refused(AdaptError, repr(wrong)):
        BASELINES[name](wrong)
    with refused(AdaptError, "scale", "nan"):
        AdaptFormer(scale=float("nan"))
