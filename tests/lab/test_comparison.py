"""A comparison measures what it says it does."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import Subset

from tensorfact import CP, TensorTrain, adapt, compare, plan_for
from tensorfact.errors import AdaptError, DataError, RankError, TrainingError
from tensorfact.lab import Comparison, digits, nano
from tensorfact.lab.baselines import FullFineTuning, LinearProbe
from tensorfact.lab.data import Splits
from tensorfact.lab.report import write_report
from tests.helpers import draw


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    model = nano()
    formats = {"tt": TensorTrain(rank=4), "cp": CP(rank=4)}
    return compare(model, few(model), formats, seeds=(0, 1), epochs=1, lr=3e-3, scale=10.0, increment=tuned())


def few(model: nn.Module) -> Splits:
    return digits(model, train=64, val=32, test=64)


def tuned() -> nn.Module:
    """Return the model as full fine-tuning might leave it: what changed is a tensor train of rank 4."""
    model = nano()
    adapter = adapt(model, plan_for(model), TensorTrain(4), seed=0)
    draw(adapter)
    adapter.merge()
    adapter.remove()
    return model


def test_rows_hold_counts_sizes_and_one_accuracy_a_seed(comparison: Comparison) -> None:
    rows = {row.label: row for row in comparison.rows}
    assert list(rows) == ["linear probe", "full fine-tuning", "tt", "cp"]
    assert [row.parameters for row in rows.values()] == [0, 677_760, 2 * 96 * 4 + 72 * 16, 4 * (96 + 72 + 96)]
    for row in rows.values():
        assert len(row.val_accuracy) == len(row.test_accuracy) == 2
        assert 0 <= min(row.test_accuracy) <= max(row.test_accuracy) <= 1
        head = 970
        assert 4 * (row.parameters + head) <= row.bytes <= 4 * (row.parameters + head) + 12_000
        assert row.merge_error < 1e-4


def test_a_column_says_how_well_an_increment_is_held(comparison: Comparison) -> None:
    errors = {row.label: row.increment_error for row in comparison.rows}
    assert errors["linear probe"] is None
    assert errors["full fine-tuning"] is None
    assert errors["tt"] is not None
    assert errors["tt"] < 1e-4
    assert errors["cp"] is not None
    assert 0.1 < errors["cp"] < 1
    assert comparison.table().headers[-1] == "increment error"
    assert comparison.to_dict()["train_info"]["cp"]["increment_error"] == errors["cp"]


def test_the_floor_lies_between_the_linear_probe_and_full_fine_tuning(comparison: Comparison) -> None:
    rows = {row.label: row for row in comparison.rows}
    assert rows["linear probe"].peak_bytes < rows["tt"].peak_bytes
    assert rows["linear probe"].step_ratio < rows["full fine-tuning"].step_ratio


def test_the_model_is_not_changed() -> None:
    model = nano()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    compare(model, few(model), [CP(rank=1)], seeds=[0], epochs=1, baselines=())
    assert list(before) == list(model.state_dict())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_report_files_agree_with_the_comparison(comparison: Comparison, tmp_path: Path) -> None:
    results, table, picture = write_report(comparison, tmp_path / "deep" / "folder")
    data = json.loads(results.read_text())
    assert data["train_info"]["tt"]["test_accuracy"] == list(comparison.rows[2].test_accuracy)
    assert data["run_info"]["settings"]["seeds"] == [0, 1]
    assert data["run_info"]["model"]["name"] == "nano"
    assert table.read_text().strip() == str(comparison)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_mistake_shows_before_anything_trains() -> None:
    model = nano()
    data, trained = digits(model), []
    with pytest.raises(RankError):
        compare(model, data, [CP(1), TensorTrain(97)], progress=lambda *what: trained.append(what))
    with pytest.raises(TrainingError, match="seeds is empty"):
        compare(model, data, [CP(1)], seeds=())
    with pytest.raises(TrainingError, match="the same label"):
        compare(model, data, [CP(1)], baselines=(LinearProbe(), LinearProbe()))
    for wrong in (None, lambda one: None, 3):
        with pytest.raises(TrainingError, match="progress: expected a function"):
            compare(model, data, [CP(1)], progress=wrong)  # type: ignore[arg-type]
    with pytest.raises(AdaptError, match="reset_classifier"):
        compare(nn.Linear(2, 2), data, [CP(1)], plan=plan_for(model))
    with pytest.raises(DataError, match=r"compare needs test samples.*a folder test"):
        compare(model, dataclasses.replace(data, test=Subset(data.test, [])), [CP(1)])
    assert not trained


def test_baselines_train_what_they_say() -> None:
    model = nano()
    assert LinearProbe().attach(model, 0).num_parameters == 0
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {"head.weight", "head.bias"}
    assert FullFineTuning().attach(model, 0).num_parameters == 677_760
    assert all(p.requires_grad for p in model.parameters())
