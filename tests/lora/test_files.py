"""LoRA files: LyCORIS's are written by its package, and by hand from its formulas; damaged ones are refused."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import lycoris
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tensorfact import (
    Group,
    MatrixBatch,
    Rule,
    TensorizationPlan,
    TensorTrain,
    from_lora,
    load_adapter,
    plan_by_shape,
)
from tensorfact.errors import CheckpointError, DataError
from tests.helpers import difference, infer, randomise, refused, untouched
from tests.lora.saved import CONFIGS, Small, saved_by_peft


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


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        ("lora", {}),
        ("lora", {"rank_dropout": 0.5}),
        ("loha", {}),
        ("lokr", {}),
        ("lokr", {"factor": 4}),
        ("lokr", {"factor": 4, "decompose_both": True}),
    ],
)
def test_files_of_lycoris_give_its_own_outputs(algorithm: str, options: dict[str, Any], tmp_path: Path) -> None:
    """The package that writes the files is the judge."""
    model = randomise(nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 64)))
    base, x = copy.deepcopy(model), torch.randn(4, 64)
    network = lycoris.create_lycoris(model, 1.0, linear_dim=2, linear_alpha=3.0, algo=algorithm, **options)
    network.apply_to()
    randomise(network).eval()
    expected = infer(model, x)
    network.save_weights(str(tmp_path / "file.safetensors"), torch.float32, {})
    rules = [Rule("{layer}.weight", "out in")]
    plan = TensorizationPlan([Group("g", "in out", rules, partition="layer")])  # type: ignore[arg-type]  # lists are read
    state = from_lora(base, tmp_path / "file.safetensors", plan, MatrixBatch("full"), tolerance=1e-6).state
    load_adapter(base, state)
    assert difference(infer(base, x), expected) < 1e-5
