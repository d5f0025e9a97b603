"""The bundled model: the file is the one its README describes, and it does what the README says."""

from __future__ import annotations

import gzip
import hashlib
import re
from pathlib import Path
from typing import Any

import numpy
import pytest
import timm
import torch
from torch.utils.data import TensorDataset

from tensorfact.lab import evaluate, nano
from tensorfact.lab.bundled import CHECKPOINT, MEAN, STD
from tensorfact.storage.files import read_tensors
from tests.helpers import state_bits

FASHION = Path("/usr/share/datasets/fashion-mnist")
README = CHECKPOINT.with_name("README.md").read_text()


def test_the_file_is_the_one_that_was_measured() -> None:
    (digest,) = re.findall(r"\b[0-9a-f]{64}\b", README)
    assert hashlib.sha256(CHECKPOINT.read_bytes()).hexdigest() == digest


def test_the_file_is_small_and_its_size_is_stated() -> None:
    size = CHECKPOINT.stat().st_size
    assert size <= 2_500_000
    assert f"{size:,} bytes" in README
    assert f"{sum(p.numel() for p in nano().parameters()):,} parameters" in README


def test_the_model_is_timm_s_and_holds_the_file_s_numbers() -> None:
    model, weights = nano(), read_tensors(CHECKPOINT)
    assert isinstance(model, timm.models.VisionTransformer)
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(torch.equal(tensor, weights[name].float()) for name, tensor in model.state_dict().items())
    assert state_bits(nano()) == state_bits(model)
    assert model.pretrained_cfg["classifier"] == "head"
    assert timm.data.resolve_model_data_config(model)["input_size"] == (1, 28, 28)


@pytest.mark.parametrize("pretrained", [True, False])
@pytest.mark.parametrize("classes", [10, 2, 100])
def test_another_number_of_classes_gets_a_fresh_head(classes: int, pretrained: bool) -> None:
    torch.manual_seed(0)
    model = nano(num_classes=classes, pretrained=pretrained)
    with torch.no_grad():
        assert model(torch.zeros(2, 1, 28, 28)).shape == (2, classes)
    same = torch.equal(model.state_dict()["blocks.0.attn.qkv.weight"], nano().state_dict()["blocks.0.attn.qkv.weight"])
    assert same == pretrained


def test_a_model_without_a_head_gives_features() -> None:
    """timm's `num_classes=0`."""
    model = nano(num_classes=0)
    with torch.no_grad():
        assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 96)


def idx(name: str) -> Any:
    """Read one of the data set's files: a header of big-endian sizes, then bytes."""
    raw = gzip.decompress((FASHION / name).read_bytes())
    sizes = [int.from_bytes(raw[4 * k : 4 * k + 4], "big") for k in range(1, 1 + raw[3])]
    return torch.from_numpy(numpy.frombuffer(raw, numpy.uint8, offset=4 + 4 * raw[3]).copy()).reshape(sizes)


@pytest.mark.skipif(not FASHION.exists(), reason="Fashion-MNIST is not on this machine")
def test_the_model_knows_fashion_mnist() -> None:
    images = (idx("t10k-images-idx3-ubyte.gz")[:, None].float() / 255 - MEAN) / STD
    accuracy = evaluate(nano(), TensorDataset(images, idx("t10k-labels-idx1-ubyte.gz").long())).accuracy
    assert accuracy >= 0.88
    (stated,) = re.findall(r"test accuracy \(10,000 images\)[^|]*\| ([0-9.]+) %", README)
    assert accuracy == pytest.approx(float(stated) / 100, abs=0.001)


@pytest.mark.skipif(not FASHION.exists(), reason="Fashion-MNIST is not on this machine")
def test_the_stated_normalisation_is_the_data_s() -> None:
    pixels = idx("train-images-idx3-ubyte.gz").float() / 255
    assert float(pixels.mean()) == pytest.approx(MEAN, abs=5e-5)
    assert float(pixels.std()) == pytest.approx(STD, abs=5e-5)
