"""Images in memory: scikit-learn's digits, and arrays that keep their values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch.utils.data import DataLoader

from tensorfact.errors import DataError
from tensorfact.lab import arrays, digits, nano
from tests.helpers import samples_of


def test_digits_are_three_disjoint_parts_of_real_images() -> None:
    data = digits(nano())
    assert data.sizes == {"train": 800, "val": 200, "test": 797}
    seen = [tuple(x.flatten().tolist()) for part in (data.train, data.val, data.test) for x, _ in (part[0], part[1])]
    assert len(set(seen)) == len(seen)
    x, y = data.train[0]
    assert x.shape == (1, 28, 28)
    assert 0 <= int(y) <= 9


def test_digits_fit_any_model() -> None:
    with torch.device("meta"):
        model = timm.create_model("vit_tiny_patch16_224")
    assert digits(model).train[0][0].shape == (3, 224, 224)


def test_digits_leave_a_test_split() -> None:
    with pytest.raises(DataError, match="below 1797"):
        digits(nano(), train=1700, val=97)


def test_digits_are_the_ones_the_bundled_results_were_made_with() -> None:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))[1000:1100]
    small = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8)[order] / 16
    large = torch.nn.functional.interpolate(small, (28, 28), mode="bilinear", align_corners=False)
    data = digits(nano())
    x, y = next(iter(DataLoader(data.test, 100)))
    assert torch.equal(x, (large - torch.tensor(0.2860)) / torch.tensor(0.3530))
    assert y.tolist() == labels[order].tolist()


@pytest.mark.parametrize("shape", [(20, 28, 28), (20, 28, 28, 1), (20, 28, 28, 3)])
@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_of_bytes_and_of_numbers_are_the_same(shape: tuple[int, ...], channels: int) -> None:
    random = np.random.default_rng(0)
    pixels, labels = random.integers(0, 256, shape, dtype=np.uint8), random.integers(0, 7, 20)
    model = nano() if channels == 1 else timm.create_model("test_vit")
    bytes_, numbers = (arrays(images, labels, model, train=10, val=5) for images in (pixels, pixels / 255))
    assert (bytes_.sizes, bytes_.classes) == ({"train": 10, "val": 5, "test": 5}, int(labels.max()) + 1)
    for (x, y), (other, label) in zip(samples_of(bytes_.train), samples_of(numbers.train), strict=True):
        torch.testing.assert_close(x, other)
        assert (x.shape[0], int(y)) == (channels, int(label))


def test_arrays_without_resizing_are_their_own_pixels_normalised() -> None:
    images = torch.rand(4, 28, 28, 3, generator=torch.Generator().manual_seed(0))
    data = arrays(images, torch.arange(4), nano(), train=1, val=1)
    x, y = data.train[0]
    grey = images[int(y)] @ torch.tensor([0.299, 0.587, 0.114])
    torch.testing.assert_close(x[0] * 0.3530 + 0.2860, grey)


def test_a_shrunk_image_is_averaged_not_sampled() -> None:
    stripes = np.zeros((3, 112, 112), np.uint8)
    stripes[:, :, ::2] = 255
    data = arrays(stripes, [0, 1, 2], nano(), train=1, val=1)  # type: ignore[arg-type]
    inner = data.train[0][0][:, 2:-2, 2:-2] * 0.3530 + 0.2860
    torch.testing.assert_close(inner, torch.full_like(inner, 0.5), atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (np.zeros((4, 3, 8, 8)), np.arange(4), "channels come before the height"),
        (np.zeros((4, 8)), np.arange(4), "height, width"),
        (np.zeros((0, 8, 8)), np.arange(0), "height, width"),
        (np.full((4, 8, 8), 255.0), np.arange(4), "images / 255"),
        (np.full((4, 8, 8), np.nan), np.arange(4), "256 NaN or infinite pixels"),
        (np.zeros((4, 8, 8), int), np.arange(4), "uint8"),
        (np.zeros((4, 8, 8)), np.arange(3), "a label for each of 4 images"),
        (np.zeros((4, 8, 8)), np.arange(4) - 1, "at least 0"),
        (np.zeros((4, 8, 8)), np.zeros(4), "class indices"),
        (np.array([None] * 4), np.arange(4), "rectangular"),
        (np.zeros((2, 8, 8)), np.arange(2), "below 2"),
    ],
)
def test_arrays_that_are_no_images_are_refused(images: Any, labels: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        arrays(images, labels, nano(), train=1, val=1)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_grey_images_and_those_of_the_model_s_channels_fit(channels: int) -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, in_chans=channels, depth=1)
    grey, _ = digits(model, train=4, val=2, test=2).train[0]
    assert grey.shape == (channels, 32, 32)
    assert all(torch.equal(grey[0], each) for each in grey)
    images = np.random.default_rng(0).random((6, 8, 8, channels))
    assert arrays(images, np.arange(6), model, train=2, val=2).train[0][0].shape == (channels, 32, 32)
    with pytest.raises(DataError, match=r"images: expected .*channels"):
        arrays(np.zeros((6, 8, 8, 5)), np.arange(6), model, train=2, val=2)
