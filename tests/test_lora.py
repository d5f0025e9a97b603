"""LoRA out and in: peft's own library is the oracle; LyCORIS's files are written by hand from its formulas."""

from __future__ import annotations

import copy
import json
import math
import warnings
from pathlib import Path
from typing import Any, cast

import peft
import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tensorfact import (
    CP,
    Format,
    Group,
    MatrixBatch,
    Rule,
    TensorizationPlan,
    TensorTrain,
    Tucker,
    adapt,
    extract,
    from_lora,
    load_adapter,
    plan_by_shape,
    plan_for,
    to_lora,
)
from tensorfact.errors import AdaptError, CheckpointError, DataError, RankError

from .helpers import difference, draw, infer, layers, layers_plan, randomise, refused, untouched

KINDS = [TensorTrain(4), Tucker(4), CP(6), MatrixBatch(2)]


def in_peft(base: nn.Module, folder: Path) -> Any:
    """Load a folder into a copy of a model as a user of peft does; nothing may be missing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.PeftModel.from_pretrained(copy.deepcopy(base), str(folder)).eval()


def vit(classes: int = 5) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm.create_model("vit_tiny_patch16_224", num_classes=classes).eval()


@pytest.mark.parametrize("format", KINDS, ids=str)
def test_peft_gives_the_same_logits_merged_and_unmerged_and_they_come_back(format: Format, tmp_path: Path) -> None:
    base, model, x = vit(), vit(), torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    adapter = adapt(model, plan_for(model), format, scale=3.0, seed=0)
    draw(adapter, size=0.1)
    with torch.no_grad():
        model.head.bias.add_(1.0)
    expected = infer(model, x)
    written = adapter.to_lora(tmp_path)
    assert max(layer.error for layer in written.layers) < 1e-12
    exported = in_peft(base, tmp_path)
    assert difference(infer(exported, x), expected) < 1e-5
    assert difference(infer(exported.merge_and_unload(), x), expected) < 1e-5

    again = format if isinstance(format, CP) else type(format)("full")  # type: ignore[call-arg]
    tolerance = None if isinstance(format, CP) else 1e-6
    found = from_lora(base, tmp_path, adapter.plan, again, tolerance=tolerance)
    assert found.parameters == adapter.num_parameters
    assert found.shrank == pytest.approx(written.parameters / found.parameters)
    load_adapter(base, found.state)
    assert difference(infer(base, x), expected) < 1e-5


def test_a_rank_through_every_layer_is_the_network_s(tmp_path: Path) -> None:
    model = vit()
    plan = plan_for(model)
    ranks = {}
    for format in (TensorTrain(4), CP(6), MatrixBatch(2)):
        adapter = adapt(model, plan, format, seed=0)
        draw(adapter)
        ranks[type(format).__name__] = {layer.module: layer.rank for layer in adapter.to_lora(tmp_path).layers}
        adapter.remove()
    assert set(ranks["TensorTrain"].values()) == {4}
    assert set(ranks["CP"].values()) == {6}
    block = {
        name.removeprefix("blocks.0."): r for name, r in ranks["MatrixBatch"].items() if name.startswith("blocks.0.")
    }
    assert block == {"attn.qkv": 6, "attn.proj": 2, "mlp.fc1": 8, "mlp.fc2": 8}


def test_a_lower_rank_is_the_best_of_its_rank(tmp_path: Path) -> None:
    model = randomise(layers(3, 12))
    adapter = adapt(model, layers_plan(), TensorTrain(6), seed=0, check=False)
    draw(adapter)
    written = adapter.to_lora(tmp_path, rank=2)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    for layer in written.layers:
        delta = adapter.delta(f"{layer.module}.weight").detach()
        singular = torch.linalg.svdvals(delta)
        best = float(singular[2:].norm() / singular.norm())
        found = (
            weights[f"base_model.model.{layer.module}.lora_B.weight"]
            @ weights[f"base_model.model.{layer.module}.lora_A.weight"]
        )
        assert layer.rank == 2
        assert layer.error == pytest.approx(best, rel=1e-4)
        assert float((found - delta).norm() / delta.norm()) == pytest.approx(best, rel=1e-4)


def test_names_that_end_alike_get_their_own_matrices(tmp_path: Path) -> None:
    """peft finds modules by the ends of their names, and ranks by patterns."""
    inner = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)))
    base = randomise(inner)
    rules = [Rule(f"{path}.weight", "out in", layer=at) for at, path in enumerate(("0", "2.1"))]
    plan = TensorizationPlan(tuple(Group(f"g{at}", "layer in out", (rule,)) for at, rule in enumerate(rules)))
    model = copy.deepcopy(base)
    adapter = adapt(model, plan, {"g0": MatrixBatch(3), "g1": MatrixBatch(1)}, seed=0, check=False)
    draw(adapter)
    adapter.to_lora(tmp_path)
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    assert difference(infer(in_peft(base, tmp_path), x), infer(model, x)) < 1e-5


def test_gpt2_and_frozen_slots(tmp_path: Path) -> None:
    config = transformers.GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=40, n_positions=8)
    base = randomise(transformers.GPT2Model(config)).eval()
    rule = Rule("h.{layer}.attn.c_attn.weight", "in (role out)", role=["q", None, "v"])
    plan = TensorizationPlan((Group("qv", "(layer role) in out", (rule,)),))
    model = copy.deepcopy(base)
    adapter = adapt(model, plan, TensorTrain(3), seed=0)
    draw(adapter)
    written = to_lora(adapter, model, tmp_path)
    assert {layer.rank for layer in written.layers} == {3}
    tokens = torch.arange(6)[None]
    expected = model(tokens).last_hidden_state.detach()
    assert difference(in_peft(base, tmp_path)(tokens).last_hidden_state.detach(), expected) < 1e-5
    found = from_lora(base, tmp_path, plan, TensorTrain("full"), tolerance=1e-6)
    assert found.parameters == adapter.num_parameters
    load_adapter(base, found.state)
    assert difference(base(tokens).last_hidden_state.detach(), expected) < 1e-5


def test_no_numbers_of_the_model_are_needed(tmp_path: Path) -> None:
    model = vit()
    adapter = adapt(model, plan_for(model), TensorTrain(2), seed=0)
    draw(adapter)
    adapter.save(tmp_path / "a.safetensors")
    with torch.device("meta"):
        shapes = timm.create_model("vit_tiny_patch16_224", num_classes=5)
    for name, model_ in (("one", model), ("two", shapes)):
        to_lora(tmp_path / "a.safetensors", model_, tmp_path / name)
    one, two = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


NOT_LORA = {
    "convolution": ("resnet10t", "layer in out h w", Rule("layer1.0.conv{layer}.weight", "out in h w")),
    "read, not called": ("beit_base_patch16_224", "layer in out", Rule("blocks.{layer}.attn.qkv.weight", "out in")),
    "'bias' of Linear": ("vit_tiny_patch16_224", "layer out", Rule("blocks.{layer}.attn.proj.bias", "out")),
}


@pytest.mark.parametrize("case", NOT_LORA)
def test_what_cannot_be_lora_is_named(case: str, tmp_path: Path) -> None:
    name, modes, rule = NOT_LORA[case]
    model = timm.create_model(name, num_classes=2).eval()
    plan = TensorizationPlan((Group("g", modes, (rule,)),))
    adapter = adapt(model, plan, CP(2), train_head=False, check=False)
    with untouched(model), refused(AdaptError, "cannot be LoRA", "Conv2d" if case == "convolution" else case):
        adapter.to_lora(tmp_path / "lora")
    assert not (tmp_path / "lora").exists()


def test_a_bias_that_is_stored_beside_lora_is_named(tmp_path: Path) -> None:
    base = randomise(layers(3, 6))
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        cast("nn.Linear", tuned[0]).bias.add_(1.0)
    state = extract(base, tuned, layers_plan(), CP(2), keep=True).state
    with refused(AdaptError, "'0.bias'", "head=False"):
        to_lora(state, base, tmp_path / "lora")
    assert len(to_lora(state, base, tmp_path / "lora", head=False).layers) == 3


# ----------------------------------------------------------------------------------------------------------------- in


class Small(nn.Module):
    """Layers of three names in blocks, and a head."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        names = ("q", "k", "fc")
        self.blocks = nn.ModuleList(nn.ModuleDict({n: nn.Linear(width, width) for n in names}) for _ in range(2))
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        for each in self.blocks:
            block = cast("nn.ModuleDict", each)
            x = x + torch.tanh(block["q"](x)) * torch.sigmoid(block["k"](x)) + block["fc"](x)
        return cast("Tensor", self.head(x))


CONFIGS: dict[str, Any] = {
    "lora": lambda: peft.LoraConfig(r=2, lora_alpha=5, target_modules=["q", "fc"]),
    "patterns": lambda: peft.LoraConfig(
        r=2, lora_alpha=5, target_modules=["q", "fc"], rank_pattern={"0.q": 3}, alpha_pattern={"fc": 7}
    ),
    "rslora": lambda: peft.LoraConfig(r=4, use_rslora=True, target_modules=["q", "k"], modules_to_save=["head"]),
    "loha": lambda: peft.LoHaConfig(r=2, alpha=3, target_modules=["q", "fc"]),
    "lokr": lambda: peft.LoKrConfig(r=2, alpha=3, target_modules=["q", "k"]),
    "lokr, both": lambda: peft.LoKrConfig(r=1, alpha=3, target_modules=["q", "k"], decompose_both=True),
    "lokr, whole": lambda: peft.LoKrConfig(r=8, alpha=3, target_modules=["q", "fc"]),
}


def saved_by_peft(config: Any, folder: Path) -> tuple[Small, Any]:
    """Return a base model, and peft's model of it with random factors, saved."""
    base = randomise(Small()).eval()
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model = peft.get_peft_model(copy.deepcopy(base), config).eval()
        for parameter in model.parameters():
            if parameter.requires_grad:
                nn.init.normal_(parameter, std=0.2)
        model.save_pretrained(str(folder))
    return base, model


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("kind", [TensorTrain, Tucker, MatrixBatch])
def test_what_peft_wrote_comes_in_exactly(name: str, kind: Any, tmp_path: Path) -> None:
    base, model = saved_by_peft(CONFIGS[name](), tmp_path)
    x = torch.randn(4, 12, generator=torch.Generator().manual_seed(0))
    with untouched(base):
        found = from_lora(base, tmp_path, plan_by_shape(base), kind("full"), tolerance=1e-6, scale=-2.0)
    load_adapter(base, found.state, check=False)
    assert difference(infer(base, x), infer(model, x)) < 1e-5


def test_a_lower_rank_across_layers_reports_its_true_error(tmp_path: Path) -> None:
    base, model = saved_by_peft(CONFIGS["lora"](), tmp_path)
    found = from_lora(base, tmp_path, plan_by_shape(base), TensorTrain("full"), rank=3)
    merged = model.merge_and_unload()
    dense = {
        n: merged.get_parameter(n).detach() - base.get_parameter(n).detach()
        for n in found.state.description.plan.resolve(base).parameters
    }
    adapter = load_adapter(base, found.state, check=False)
    lost = sum(float((adapter.delta(n).detach() - value).square().sum()) for n, value in dense.items())
    whole = sum(float(value.square().sum()) for value in dense.values())
    assert found.changes[0].error == pytest.approx(math.sqrt(lost / whole), rel=1e-3)


def test_lycoris_files_are_read_by_their_formulas(tmp_path: Path) -> None:
    """Names, alpha and scales as in LyCORIS 4.1: alpha / rank, and 1 where both matrices of LoKr are whole."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) / 4

    down, up = random(3, 12), random(12, 3)
    b1, a1, b2, a2 = random(12, 2), random(2, 12), random(12, 2), random(2, 12)
    w1, wa, wb, whole = random(3, 4), random(4, 2), random(2, 3), random(4, 3)
    file = {
        "lycoris_blocks_0_q.lora_down.weight": down,
        "lycoris_blocks_0_q.lora_up.weight": up,
        "lycoris_blocks_0_q.alpha": torch.tensor(6.0),
        "lycoris_blocks_0_k.hada_w1_a": b1,
        "lycoris_blocks_0_k.hada_w1_b": a1,
        "lycoris_blocks_0_k.hada_w2_a": b2,
        "lycoris_blocks_0_k.hada_w2_b": a2,
        "lycoris_blocks_0_k.alpha": torch.tensor(1.0),
        "lycoris_blocks_0_fc.lokr_w1": w1,
        "lycoris_blocks_0_fc.lokr_w2_a": wa,
        "lycoris_blocks_0_fc.lokr_w2_b": wb,
        "lycoris_blocks_0_fc.alpha": torch.tensor(4.0),
        "lycoris_blocks_1_fc.lokr_w1": w1,
        "lycoris_blocks_1_fc.lokr_w2": whole,
        "lycoris_blocks_1_fc.alpha": torch.tensor(9.0),
    }
    save_file({name: value.clone() for name, value in file.items()}, tmp_path / "l.safetensors")
    expected = {
        "blocks.0.q.weight": 2.0 * up @ down,
        "blocks.0.k.weight": 0.5 * (b1 @ a1) * (b2 @ a2),
        "blocks.0.fc.weight": 2.0 * torch.kron(w1, wa @ wb),
        "blocks.1.fc.weight": torch.kron(w1, whole),
    }
    base = randomise(Small())
    found = from_lora(base, tmp_path / "l.safetensors", plan_by_shape(base), TensorTrain("full"), tolerance=1e-6)
    adapter = load_adapter(base, found.state, check=False)
    for name in adapter.resolved.parameters:
        lost = adapter.delta(name).detach() - expected.get(name, torch.zeros(12, 12))
        assert float(lost.abs().max()) < 1e-5


def edited(folder: Path, change: str) -> None:
    """Spoil what peft wrote."""
    file, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    weights, words = load_file(file), json.loads(config.read_text())
    first = next(name for name in weights if "lora_A" in name)
    if change == "nan":
        weights[first][0, 0] = math.nan
    elif change == "foreign layer":
        weights[first.replace("blocks.0", "blocks.7")] = weights.pop(first)
    elif change == "foreign tensor":
        weights["base_model.model.mystery"] = torch.ones(2)
    elif change == "half a layer":
        del weights[first]
    elif change == "other width":
        weights[first] = torch.ones(2, 5)
    elif change == "convolution":
        weights[first] = torch.ones(2, 12, 3, 3)
    elif change == "dora":
        weights[first.replace("lora_A", "lora_magnitude_vector")] = torch.ones(12)
    elif change == "empty":
        weights = {}
    elif change == "kind":
        words["peft_type"] = "IA3"
    elif change == "biases":
        words["bias"] = "all"
    elif change == "pissa":
        words["init_lora_weights"] = "pissa"
    elif change == "another rank":
        words["r"] = 3
    elif change == "unequal halves":
        weights[first] = torch.ones(3, 12)
    elif change == "integers":
        weights[first] = weights[first].long()
    elif change == "two adapters":
        weights[first.replace("lora_A", "lora_A.other")] = weights[first]
    elif change == "covered":
        weights["base_model.model.blocks.0.k.weight"] = torch.ones(12, 12)
    elif change == "other head":
        weights["base_model.model.head.weight"] = torch.ones(4, 12)
    else:
        words |= NUMBERS.get(change, {})
    save_file(weights, file)
    config.write_text(json.dumps(words) if change != "json" else "{")
    if change == "truncated":
        file.write_bytes(file.read_bytes()[:-30])
    if change == "no config":
        config.unlink()


NUMBERS: dict[str, dict[str, Any]] = {
    "rank x": {"r": "x"},
    "rank 0": {"r": 0},
    "no alpha": {"lora_alpha": None},
    "list of ranks": {"rank_pattern": ["a"]},
    "pattern that is none": {"rank_pattern": {"(": 3}},
}


@pytest.mark.parametrize("change", ["json", "truncated", "no config", *NUMBERS])
def test_a_damaged_folder_is_refused(change: str, tmp_path: Path) -> None:
    base, _ = saved_by_peft(CONFIGS["lora"](), tmp_path)
    edited(tmp_path, change)
    with untouched(base), refused(CheckpointError, str(tmp_path)):
        from_lora(base, tmp_path, plan_by_shape(base), TensorTrain("full"))


@pytest.mark.parametrize(
    "change",
    [
        "nan",
        "foreign layer",
        "foreign tensor",
        "half a layer",
        "other width",
        "convolution",
        "dora",
        "empty",
        "kind",
        "biases",
    ],
)
def test_a_folder_that_does_not_fit_is_refused(change: str, tmp_path: Path) -> None:
    base, _ = saved_by_peft(CONFIGS["lora"](), tmp_path)
    edited(tmp_path, change)
    with untouched(base), refused(DataError, fix=False):
        from_lora(base, tmp_path, plan_by_shape(base), TensorTrain("full"))


def test_a_plan_must_cover_the_file_and_its_modes_must_keep_sides_apart(tmp_path: Path) -> None:
    base, _ = saved_by_peft(CONFIGS["lora"](), tmp_path)
    some = TensorizationPlan((Group("g", "layer in out", (Rule("blocks.{layer}.q.weight", "out in"),)),))
    with refused(DataError, "blocks.0.fc.weight"):
        from_lora(base, tmp_path, some, TensorTrain(2))
    for modes in ("(layer name in) out", "layer (name in) out", "layer name (in out)"):
        mixed = TensorizationPlan((Group("g", modes, (Rule("blocks.{layer}.{name}.weight", "out in"),)),))
        with refused(DataError, "low-rank matrices"):
            from_lora(base, tmp_path, mixed, TensorTrain(2))
    rule = Rule("blocks.{layer}.{name}.weight", "out in")
    good = TensorizationPlan((Group("g", "layer name in out", (rule,)),))
    assert from_lora(base, tmp_path, good, Tucker("full")).changes[0].error < 1e-6
    with refused(RankError, "tolerance"):
        from_lora(base, tmp_path, good, TensorTrain(1), tolerance=1e-3)


def test_a_part_that_the_plan_leaves_frozen_may_not_be_changed(tmp_path: Path) -> None:
    base = vit()
    adapter = adapt(base, plan_for(base), TensorTrain(2), seed=0)
    draw(adapter)
    adapter.to_lora(tmp_path)
    adapter.remove()
    rules = []
    for name, pattern, roles in (
        ("attn.qkv", "(role out) in", ["q", None, "v"]),
        ("attn.proj", "(role out) in", ["o"]),
        ("mlp.fc1", "(role out) in", [f"up{k}" for k in range(4)]),
        ("mlp.fc2", "out (role in)", [f"down{k}" for k in range(4)]),
    ):
        rules.append(Rule(f"blocks.{{layer}}.{name}.weight", pattern, role=roles))
    plan = TensorizationPlan((Group("g", "(layer role) in out", tuple(rules)),))
    with refused(DataError, "leaves frozen", "attn.qkv.weight"):
        from_lora(base, tmp_path, plan, TensorTrain(2))


def test_a_head_whose_name_ends_another_s_is_named(tmp_path: Path) -> None:
    model = nn.ModuleDict({"body": nn.Linear(6, 6), "head": nn.Linear(6, 2), "aux_head": nn.Linear(6, 2)})
    plan = TensorizationPlan((Group("g", "layer in out", (Rule("body.weight", "out in", layer=0),)),))
    adapter = adapt(model, plan, MatrixBatch(2), train_head="head", check=False)
    with refused(AdaptError, "aux_head", "head=False"):
        adapter.to_lora(tmp_path / "lora")
    assert not (tmp_path / "lora").exists()
    assert adapter.to_lora(tmp_path / "lora", head=False).path


@pytest.mark.parametrize("rank", [0, -1, "full", 0.5, (2,), True])
def test_a_rank_that_is_none_is_refused(rank: Any, tmp_path: Path) -> None:
    model = randomise(layers(3, 6))
    adapter = adapt(model, layers_plan(), TensorTrain(2), check=False)
    with refused(AdaptError, "to_lora: rank"):
        adapter.to_lora(tmp_path / "lora", rank=rank)


def test_a_folder_that_cannot_be_written_is_refused_and_left_alone(tmp_path: Path) -> None:
    model = randomise(layers(3, 6))
    adapter = adapt(model, layers_plan(), TensorTrain(2), check=False)
    (tmp_path / "a" / "adapter_config.json").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    for folder in ("", "a\0b", tmp_path / "a", tmp_path / "file"):
        with refused(CheckpointError, "cannot write"):
            adapter.to_lora(folder)
    assert not (tmp_path / "a" / "adapter_model.safetensors").exists()
