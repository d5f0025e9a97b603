"""Test samples are read once, after training, and a method that reads them earlier is caught."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tensorfact.errors import DataError
from tensorfact.lab import Splits, evaluate
from tensorfact.lab.data.sealed import Sealed
from tensorfact.lab.sweep import Runner, RunSpec, Settings, execute
from tensorfact.lab.sweep.spec import Stage
from tests.helpers import refused

SAMPLES = TensorDataset(torch.eye(5, 2), torch.arange(5) % 2)


def test_sealed_samples_are_read_once_after_they_are_opened() -> None:
    sealed = Sealed(SAMPLES)
    assert len(sealed) == 5
    with refused(DataError, "before the training ended", "splits.val"):
        evaluate(nn.Identity(), sealed)
    sealed.open()
    found = [y for _, batch in DataLoader(sealed, 2) for y in batch.tolist()]
    assert found == [0, 1, 0, 1, 0]
    with refused(DataError, "twice"):
        sealed[0]


@pytest.mark.parametrize("stage", ["select", "final"])
def test_a_method_that_chooses_on_the_test_split_is_caught(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leaking(text: str) -> Any:
        def search(model: nn.Module, splits: Splits, **training: Any) -> str:
            return f"tt:rank={1 + round(evaluate(model, splits.test).accuracy)}"

        return search

    settings = Settings(epochs=1, warmup_epochs=0)
    spec = RunSpec("nano", "digits", "tt:rank=1", None, 0, stage, settings)
    monkeypatch.setattr(execute, "search_of", leaking)
    with refused(DataError, "the test samples were read before the training ended"):
        Runner(tmp_path).run(spec)
    assert not list(tmp_path.rglob("result.json"))
