"""Adapted and merged models leave torch: torch.export, ONNX, files for timm and transformers."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, cast

import numpy
import pytest
import timm
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn

from tensorfact import Adapter, TensorTrain, adapt, plan_for
from tensorfact.lab import nano
from tensorfact.model.example import known_example
from tests.helpers import draw, infer

MODELS: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": {"depth": 2, "embed_dim": 48, "num_heads": 2, "img_size": 32, "patch_size": 8},
    "test_resnet": {},
    "test_convnext": {},
    "swin_tiny_patch4_window7_224": {"img_size": 56, "depths": (1,) * 4, "embed_dim": 24, "num_heads": (1, 2, 4, 8)},
}


def adapted(name: str) -> tuple[nn.Module, Adapter, Tensor]:
    """Return a model with drawn factors, its adapter and two inputs."""
    model = timm.create_model(name, num_classes=5, **MODELS[name]).eval()
    example = known_example(model)
    assert example is not None
    resolved = plan_for(model).resolve(model)
    adapter = adapt(model, plan_for(model), resolved.fitted(TensorTrain(4)), seed=0)
    draw(adapter)
    (image,) = example.arguments
    return model, adapter, torch.cat([cast("Tensor", image), torch.randn_like(cast("Tensor", image))])


def error(found: Any, expected: Tensor) -> float:
    """Return the largest difference, as a fraction of the largest output."""
    return float(numpy.abs(numpy.asarray(found) - expected.numpy()).max() / expected.abs().max())


@pytest.mark.parametrize("merged", [False, True], ids=["adapted", "merged"])
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", pytest.param("test_resnet", marks=pytest.mark.slow)])
def test_torch_export_keeps_the_outputs(name: str, merged: bool) -> None:
    model, adapter, images = adapted(name)
    if merged:
        adapter.merge()
    exported = torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    with torch.no_grad():
        assert error(exported.module()(images), infer(model, images)) <= 1e-5
        assert error(exported.module()(images[:1]), infer(model, images[:1])) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("merged", [False, True], ids=["adapted", "merged"])
@pytest.mark.parametrize("name", MODELS)
def test_onnxruntime_gives_the_same_outputs(name: str, merged: bool, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    model, adapter, images = adapted(name)
    if merged:
        adapter.merge()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about its own code
        program = torch.onnx.export(model, (images,), dynamo=True, dynamic_shapes=({0: "batch"},), verbose=False)
    cast("torch.onnx.ONNXProgram", program).save(tmp_path / "model.onnx")
    session = runtime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (wanted,) = session.get_inputs()
    for batch in (images, images[:1]):
        assert error(session.run(None, {wanted.name: batch.numpy()})[0], infer(model, batch)) <= 1e-5


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "test_convnext"])
def test_timm_takes_the_merged_weights(name: str, tmp_path: Path) -> None:
    model, adapter, images = adapted(name)
    adapter.merge()
    expected = infer(model, images)
    adapter.remove()
    save_file(model.state_dict(), tmp_path / "merged.safetensors")
    again = timm.create_model(name, num_classes=5, checkpoint_path=tmp_path / "merged.safetensors", **MODELS[name])
    assert torch.equal(infer(again.eval(), images), expected)


def test_transformers_takes_the_merged_weights(tmp_path: Path) -> None:
    config = transformers.BertConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, num_labels=3
    )
    model = transformers.BertForSequenceClassification(config).eval()
    adapter = adapt(model, seed=0)
    draw(adapter)
    ids = torch.randint(64, (2, 7))
    adapter.merge()
    with torch.no_grad():
        expected = model(ids).logits
    adapter.remove()
    model.save_pretrained(tmp_path)
    again = cast("nn.Module", transformers.BertForSequenceClassification.from_pretrained(tmp_path)).eval()
    with torch.no_grad():
        assert torch.equal(again(ids).logits, expected)


def test_a_merged_model_exports_as_its_base_model() -> None:
    model, base, x = nano(), nano(), torch.randn(1, 1, 28, 28)
    adapt(model, seed=0).merge()
    graphs = [torch.export.export(each.eval(), (x,)).graph for each in (model, base)]
    targets = [[str(node.target) for node in graph.nodes if node.op == "call_function"] for graph in graphs]
    assert targets[0] == targets[1]
