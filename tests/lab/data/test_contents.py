"""The digest of a data set changes with its images and labels, and not with the preprocessing."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from tensorfact.lab import digits, image_folder, nano
from tensorfact.lab.data.contents import SAMPLED, contents_digest
from tests.lab.data.making import lay_out


def test_images_in_memory_have_one_digest_for_every_model() -> None:
    other = timm.create_model("test_vit", num_classes=10)
    first, second = digits(nano()), digits(other)
    assert contents_digest(first.train) == contents_digest(second.train) != contents_digest(first.val)
    first.train.labels[0] += 1  # type: ignore[attr-defined]
    assert contents_digest(first.train) != contents_digest(second.train)


def test_images_on_disk_are_read(tmp_path: Path) -> None:
    lay_out(tmp_path)
    before = contents_digest(image_folder(tmp_path, nano()).train)
    assert contents_digest(image_folder(tmp_path, nano()).train) == before
    for path in tmp_path.rglob("*.*"):
        Image.new("RGB", (8, 8), "red").save(path)
    assert contents_digest(image_folder(tmp_path, nano()).train) != before


@pytest.mark.parametrize("count", [1, SAMPLED, SAMPLED + 1, 500])
def test_few_samples_of_another_library_are_read(count: int) -> None:
    data = TensorDataset(torch.arange(count)[:, None].float(), torch.zeros(count, dtype=torch.long))
    changed = TensorDataset(data.tensors[0].clone(), data.tensors[1])
    changed.tensors[0][0] = -1
    assert contents_digest(data) == contents_digest(TensorDataset(*data.tensors)) != contents_digest(changed)
