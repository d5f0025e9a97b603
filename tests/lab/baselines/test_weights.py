"""Baselines that train a model's own parameters: counts, and statistics that are stored."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from tensorfact import fit
from tensorfact.lab.baselines import BitFit, FullFineTuning, LinearProbe, Method
from tensorfact.lab.models import model_shapes
from tensorfact.storage.files import read_tensors
from tests.helpers import snapshot


def test_biases_of_swin_are_those_of_the_paper() -> None:
    count = BitFit().attach(model_shapes("swin_base_patch4_window7_224"), seed=0).num_parameters
    assert round(count / 1e6, 3) == 0.201


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
