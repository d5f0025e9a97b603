"""Models by name, with weights from a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tensorfact.errors import CheckpointError, DataError
from tensorfact.lab import nano
from tensorfact.lab.models import load_model, model_shapes


def test_a_checkpoint_with_another_head_is_loaded_but_for_the_head(tmp_path: Path) -> None:
    path = tmp_path / "five.safetensors"
    source = nano(num_classes=5)
    save_file(source.state_dict(), path)
    model = load_model("nano", checkpoint=path)
    own = model.state_dict()
    assert own["head.weight"].shape == (10, 96)
    assert torch.equal(own["blocks.0.attn.qkv.weight"], source.state_dict()["blocks.0.attn.qkv.weight"])


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(DataError, match="does not fit the model"):
        load_model("nano", checkpoint=path)
    path.write_bytes(b"nothing")
    with pytest.raises(CheckpointError):
        load_model("nano", checkpoint=path)


def test_unknown_names_get_a_hint() -> None:
    with pytest.raises(DataError, match="did you mean 'mixer_s32_224'"):
        load_model("mixer_s32_242")


def test_shapes_need_no_memory() -> None:
    assert all(p.is_meta for p in model_shapes("vit_giant_patch14_224").parameters())
