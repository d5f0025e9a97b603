"""Methods of peft: known sizes, starts at the base model, training by `fit`, and a base model that comes back."""

from __future__ import annotations

import copy
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import timm
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from torch import nn

from tensorfact import TensorTrain, adapt, compare, fit, plan_for
from tensorfact.errors import AdaptError, SweepError
from tensorfact.lab import digits, nano
from tensorfact.lab.baselines import BASELINES, LinearProbe, PeftMethod
from tensorfact.lab.baselines.peers import BLOCK_SIZE, KINDS
from tensorfact.lab.methods import method_of, num_parameters
from tensorfact.lab.sweep import SweepRow, narrowed, run_sweep
from tensorfact.storage.files import read_tensors
from tests.helpers import bits, difference, infer, refused, snapshot, state_bits, untouched
from tests.lab.baselines.models import X, small
from tests.lab.sweep.tiny import tiny
from tests.make_benchmarks import lay_out_vtab

IMAGES = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
DEPTH, IN, OUT = 6, (96, 96, 96, 384), (288, 96, 384, 96)
"""Blocks of `nano`, and inputs and outputs of their four layers: qkv, proj, fc1 and fc2."""

LAYERS = [f"blocks.{at}.{layer}" for at in range(DEPTH) for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")]
LORA = DEPTH * 8 * (sum(IN) + sum(OUT))

COUNTS = {
    "peft-lora": LORA,
    "peft-lora:r=4,lora_alpha=16": LORA // 2,
    "peft-dora": LORA + DEPTH * sum(OUT),
    "peft-vera:r=64": DEPTH * (sum(OUT) + 4 * 64),
    "peft-loha": 2 * LORA,
    "peft-lokr": DEPTH * (16 * 8 + 8 * (18 + 12) + 8 * 8 + 12 * 12 + 2 * (16 * 8 + 8 * (24 + 12))),
    "peft-oft": DEPTH * (sum(IN) // 32) * 32 * 31 // 2,
    "peft-oft:oft_block_size=8": DEPTH * (sum(IN) // 8) * 8 * 7 // 2,
}
METHODS = [f"peft-{name}" for name in KINDS]


def trained_names(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def train(model: nn.Module) -> None:
    """Give peft's numbers and the head random values, as training does."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)


@pytest.mark.parametrize("text", COUNTS)
def test_the_count_is_known_and_needs_no_values(text: str) -> None:
    model = nano()
    with untouched(model):
        assert num_parameters(text, model) == COUNTS[text]
    assert num_parameters(text, nano().to("meta")) == COUNTS[text]


@pytest.mark.parametrize("name", METHODS)
def test_only_the_layers_of_peft_and_the_head_train(name: str) -> None:
    model = nano().train()
    model.blocks[0].eval()  # type: ignore[index, union-attr]
    modes = {path: module.training for path, module in model.named_modules()}
    before = {id(parameter): bits(parameter) for parameter in model.parameters()}
    trained = method_of(name).attach(model, 0)
    inside = tuple(f"{layer}." for layer in LAYERS)
    found = trained_names(model)
    assert {path for path in found if not path.startswith(inside)} == {"head.weight", "head.bias"}
    assert not any(".base_layer." in path for path in found)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trained.num_parameters + 970
    for path, module in model.named_modules():
        if path in modes:
            assert module.training == modes[path]
            shared = ("vera_A", "vera_B")  # of all layers
            parts = [part for name, part in module.named_modules() if name not in shared]
            assert path not in LAYERS or {part.training for part in parts} == {modes[path]}
    assert {id(p): bits(p) for p in model.parameters() if id(p) in before} == before
    assert type(model) is type(nano())


@pytest.mark.parametrize("name", METHODS)
def test_a_fresh_method_changes_no_output(name: str) -> None:
    model = nano()
    base = infer(model, IMAGES)
    method_of(name).attach(model, 0)
    torch.testing.assert_close(infer(model, IMAGES), base)


@pytest.mark.parametrize("name", METHODS)
def test_fit_trains_a_method_and_it_can_be_merged_and_taken_off(name: str, tmp_path: Path) -> None:
    model = nano()
    before, base = snapshot(model), infer(model, IMAGES)
    data = digits(model, train=32, val=8, test=8)
    trained = method_of(name).attach(model, 0)
    start = {path: parameter.detach().clone() for path, parameter in model.named_parameters()}
    result = fit(model, data.train, data.val, epochs=3, batch_size=16, lr=1e-2, warmup_epochs=0, seed=0)
    assert result.epochs[-1].train_loss < result.epochs[0].train_loss
    changed = {path for path, parameter in model.named_parameters() if not torch.equal(parameter, start[path])}
    assert changed == trained_names(model)
    trained.save(tmp_path / "file")
    stored = read_tensors(tmp_path / "file")
    assert {bits(tensor) for tensor in stored.values()} >= {
        bits(parameter) for path, parameter in model.named_parameters() if path in changed
    }
    copied: Any = copy.deepcopy(model)
    adapted = infer(copied, IMAGES)
    copied.baseline.merge()
    assert difference(infer(copied, IMAGES), adapted) < 1e-5
    copied.baseline.remove()
    assert difference(infer(copied, IMAGES), adapted) < 1e-5
    assert list(copied.state_dict()) == list(nano().state_dict())

    trained.remove()
    trained.remove()
    head = {path: bits(tensor) for path, tensor in nano().state_dict().items() if path.startswith("head.")}
    model.load_state_dict({path: nano().state_dict()[path] for path in head}, strict=False)  # the head has trained
    assert snapshot(model) == before
    assert bits(infer(model, IMAGES)) == bits(base)


@pytest.mark.parametrize("name", METHODS)
def test_peft_reads_what_is_stored(name: str, tmp_path: Path) -> None:
    model = nano()
    method: Any = method_of(name)
    trained = method.attach(model, 0)
    train(model)
    trained.save(tmp_path / "file")
    stored = read_tensors(tmp_path / "file")
    base = nano()
    base.load_state_dict({path: stored.pop(path) for path in ("head.weight", "head.bias")}, strict=False)
    kind = KINDS[name.removeprefix("peft-")]
    config = PEFT_TYPE_TO_CONFIG_MAPPING[kind.peft_type](target_modules=LAYERS, **kind.fixed)
    theirs = peft.get_peft_model(base, config)
    found = peft.set_peft_model_state_dict(theirs, stored)
    assert not found.unexpected_keys
    assert bits(infer(theirs, IMAGES)) == bits(infer(model, IMAGES))


@pytest.mark.parametrize("name", METHODS)
def test_the_seed_decides_the_numbers_and_leaves_the_random_state(name: str) -> None:
    def drawn(seed: int) -> dict[str, bytes]:
        model = nano()
        state = bits(torch.get_rng_state())
        method_of(name).attach(model, seed)
        assert bits(torch.get_rng_state()) == state
        return state_bits(model)

    first = drawn(0)
    torch.rand(3)
    assert drawn(0) == first
    assert (drawn(1) == first) == (name == "peft-oft")  # OFT draws nothing: it starts at the identity


def test_the_options_are_those_of_peft() -> None:
    for kind in KINDS.values():
        fields = {each.name for each in dataclasses.fields(PEFT_TYPE_TO_CONFIG_MAPPING[kind.peft_type])}
        assert {*kind.checks, *kind.fixed} <= fields
    assert peft.OFTConfig().oft_block_size == BLOCK_SIZE
    model = nano()
    method_of("peft-lora:r=2,lora_alpha=6,use_rslora=True").attach(model, 0)
    layer: Any = model.get_submodule("blocks.0.mlp.fc1")
    assert layer.scaling == {"default": 6 / 2**0.5}
    method = method_of("peft-vera:r=4,projection_prng_key=3,d_initial=0.5")
    first, second = nano(), nano()
    method.attach(first, 0)
    method.attach(second, 1)
    assert state_bits(first) == state_bits(second)
    constrained, base = nano(), infer(nano(), IMAGES)
    method_of("peft-oft:coft=True,block_share=True,use_cayley_neumann=False").attach(constrained, 0)
    assert difference(infer(constrained, IMAGES), base) < 1e-5


def test_methods_are_rows_of_a_comparison() -> None:
    model = nano()
    rows = [PeftMethod("lora", {"r": 2}), PeftMethod("dora", {"r": 2})]
    data = digits(model, train=16, val=8, test=16)
    found = compare(model, data, [], seeds=[0], epochs=1, baselines=rows)
    assert [row.label for row in found.rows] == ["peft-lora r=2", "peft-dora r=2"]
    assert [row.parameters for row in found.rows] == [LORA // 4, LORA // 4 + DEPTH * sum(OUT)]


def test_a_method_runs_in_a_sweep(tmp_path: Path) -> None:
    lay_out_vtab(tmp_path / "data", "svhn")
    sweep = narrowed(tiny(SweepRow("LoRA", ("peft-lora:r=1",))), tasks=["vtab:svhn"])
    sweep = dataclasses.replace(sweep, seeds=(0,))
    results = run_sweep(sweep, tmp_path / "runs", root=tmp_path / "data")
    assert {run.outcome.parameters for run in results.runs.values()} == {LORA // 8}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("peft-lora:rank=8", ("no option 'rank'", "lora_alpha")),
        ("peft-lora:use_dora=True", ("no option 'use_dora'",)),
        ("peft-oft:block=8", ("no option 'block'",)),
        ("peft-lora:target_modules=all", ("no option 'target_modules'",)),
        ("peft-loro", ("did you mean 'peft-lora'",)),
    ],
)
def test_unknown_names_are_refused_as_those_of_other_methods(text: str, words: tuple[str, ...]) -> None:
    with refused(SweepError, *words):
        method_of(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("peft-lora:r=0", ("peft-lora: r", "an int of at least 1", "0")),
        ("peft-lora:r=2.5", ("2.5",)),
        ("peft-dora:lora_alpha='x'", ("lora_alpha", "a number above 0")),
        ("peft-lora:lora_dropout=1", ("0 <= lora_dropout < 1",)),
        ("peft-lokr:decompose_both=1", ("True or False",)),
        ("peft-vera:d_initial=nan", ("d_initial",)),
        ("peft-oft:oft_block_size=-8", ("oft_block_size",)),
    ],
)
def test_bad_values_are_refused_before_peft_sees_them(text: str, words: tuple[str, ...]) -> None:
    with refused(AdaptError, *words):
        method_of(text)
    with refused(SweepError, "no scale"):
        method_of(text.partition(":")[0], scale=2.0)
    with refused(AdaptError, "PeftMethod: name", "'lara'", "did you mean 'lora'"):
        PeftMethod("lara")


def test_what_peft_refuses_leaves_the_model_as_it_was() -> None:
    model = small()
    with untouched(model):
        with refused(AdaptError, "peft-oft: oft_block_size", "24, 96", "32", "oft_block_size=24"):
            method_of("peft-oft").attach(model, 0)
        with refused(AdaptError, "peft-oft: r", "got 5", "r=4"):
            method_of("peft-oft:r=5,oft_block_size=0").attach(model, 0)
        with refused(AdaptError, "cannot be attached", "ValueError", "r, oft_block_size", "change r"):
            method_of("peft-oft:r=4").attach(model, 0)


def test_an_error_between_two_layers_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    tuner = peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING[peft.PeftType.LORA]
    create: Callable[..., None] = tuner._create_and_replace

    def until_the_second(*args: Any, **options: Any) -> None:
        create(*args, **options)
        if options["current_key"] == LAYERS[1] and not args[3].weight.is_meta:  # not in the trial without values
            raise RuntimeError("out of memory\nin peft")

    monkeypatch.setattr(tuner, "_create_and_replace", until_the_second)
    model = nano()
    with untouched(model), refused(AdaptError, "peft-lora cannot be attached", "RuntimeError: out of memory."):
        method_of("peft-lora").attach(model, 0)


def test_adapters_on_top_of_each_other_are_refused() -> None:
    model = nano()
    trained: Any = method_of("peft-lora:r=1").attach(model, 0)
    for method in (method_of("peft-oft"), LinearProbe()):
        with refused(AdaptError, "model.baseline.remove()"):
            method.attach(model, 0)
    with refused(AdaptError, "baseline"):
        adapt(model, plan_for(nano()), TensorTrain(2))
    trained.merge()
    with refused(AdaptError, "merged already"):
        trained.merge()
    trained.remove()
    for call in (trained.merge, lambda: trained.save("none")):
        with refused(AdaptError, "removed already"):
            call()
    peft.get_peft_model(model, peft.LoraConfig(target_modules=["fc2"]))
    with refused(AdaptError, "holds adapters of peft already", "blocks.0.mlp.fc2"):
        method_of("peft-lora").attach(model, 0)
    named = nano()
    named.add_module("baseline", nn.Linear(2, 2))
    with untouched(named), refused(AdaptError, "already has an attribute"):
        method_of("peft-lora").attach(named, 0)


def test_layers_that_are_not_called_are_left_out() -> None:
    """BEiT reads the weight of its fused projection."""
    model = timm.create_model("beit_base_patch16_224", depth=2, embed_dim=32, num_heads=2, img_size=32, num_classes=3)
    method_of("peft-lora:r=2").attach(model, 0)
    adapted = {path.partition(".lora_A")[0] for path in trained_names(model) if ".lora_A" in path}
    assert adapted == {f"blocks.{at}.{layer}" for at in range(2) for layer in ("attn.proj", "mlp.fc1", "mlp.fc2")}


@pytest.mark.parametrize("name", [name for name in METHODS if nn.Conv2d in KINDS[name.removeprefix("peft-")].layers])
def test_convolutions_are_adapted(name: str) -> None:
    torch.manual_seed(0)
    model: Any = timm.create_model("resnet10t", num_classes=3).eval()
    x = torch.randn(2, 3, 32, 32)
    with untouched(model):
        base = infer(model, x)
        trained = BASELINES[name](r=2).attach(model, 0)
        assert isinstance(model.layer4[0].conv2.base_layer, nn.Conv2d)
        torch.testing.assert_close(infer(model, x), base)
        trained.remove()


def test_a_model_without_layers_for_the_method_is_refused() -> None:
    model = timm.create_model("resnet10t", num_classes=3)
    for name in ("peft-vera", "peft-oft"):
        with untouched(model), refused(AdaptError, f"{name} adapts no layer of ResNet", "a called nn.Linear"):
            method_of(name).attach(model, 0)


def test_a_model_that_does_not_run_with_the_layers_is_refused() -> None:
    """OFT takes inputs of four dimensions for images, also those of a linear layer."""
    model = timm.create_model("convnext_tiny", depths=(2, 2, 2, 2), dims=(8, 8, 8, 8), num_classes=3)
    with untouched(model), refused(AdaptError, "peft-oft cannot be attached to ConvNeXt", "RuntimeError"):
        method_of("peft-oft:oft_block_size=8").attach(model, 0)
    assert method_of("peft-lora:r=1").attach(model, 0).num_parameters > 0


def test_modules_whose_names_end_alike_stay_apart() -> None:
    model: Any = small()
    model.tower = nn.Module()
    model.tower.blocks = nn.ModuleList([nn.Module()])
    model.tower.blocks[0].mlp = nn.Module()
    model.tower.blocks[0].mlp.fc1 = nn.Linear(2, 2)
    method_of("peft-lora:r=2").attach(model, 0)
    assert type(model.tower.blocks[0].mlp.fc1) is nn.Linear
    assert infer(model, X).shape == (2, 5)


def test_without_peft_the_fix_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    method = method_of("peft-lora:r=2")
    model = nano()
    with untouched(model), refused(AdaptError, "pip install 'tensorfact[peft]'"):
        method.attach(model, 0)


def test_a_rank_that_only_costs_memory_is_refused_before_anything_is_allocated() -> None:
    for text in ("peft-lora:r=1000000", "peft-vera:r=100000"):
        with refused(AdaptError, "an int from 1 to 4096"):
            method_of(text)


def test_compare_takes_the_names_of_baselines() -> None:
    model = nano()
    data = digits(model, train=16, val=8, test=8)
    found = compare(model, data, {}, baselines=["linear", "peft-lora:r=2"], seeds=[0], epochs=1)
    assert [(row.label, row.parameters) for row in found.rows] == [("linear probe", 0), ("peft-lora r=2", LORA // 4)]
