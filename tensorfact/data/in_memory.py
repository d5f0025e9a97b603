"""Real digits that come with scikit-learn, in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.data import resolve_model_data_config
from torch import Tensor, nn
from torch.utils.data import Dataset

from ..errors import DataError
from .splits import Splits


class ResizedImages(Dataset[tuple[Tensor, Tensor]]):
    """Small grey images in memory, resized and normalised a batch at a time.

    Args:
        images: Pixels 0 to 1, (count, height, width).
        labels: Class indices (count,).
        config: timm's data configuration of a model: `input_size`, `mean`, `std`.
    """

    def __init__(self, images: Tensor, labels: Tensor, config: dict[str, Any]) -> None:
        self.images, self.labels = images[:, None], labels
        self.channels, *size = config["input_size"]
        self.size = (size[0], size[1])
        self.mean = torch.tensor(config["mean"]).reshape(-1, 1, 1)
        self.std = torch.tensor(config["std"]).reshape(-1, 1, 1)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """Return several samples at once, which `DataLoader` asks for."""
        small = self.images[list(indices)]
        large = nn.functional.interpolate(small, self.size, mode="bilinear", align_corners=False)
        x = (large.expand(-1, self.channels, -1, -1) - self.mean) / self.std
        return list(zip(x, self.labels[list(indices)], strict=True))


def digits(model: nn.Module, *, train: int = 800, val: int = 200) -> Splits:
    """Return scikit-learn's 1,797 handwritten digits, made to fit a model's input.

    The digits are 8 x 8 grey images of the UCI repository (Alpaydin and Kaynak 1998); the order is shuffled once.

    Args:
        model: A model with a timm data configuration; decides size, channels and normalisation.
        train: How many to train on.
        val: How many to choose by; the rest is the test split.

    Returns:
        The three parts, ten classes.

    Raises:
        DataError: The sizes leave no test split.

    Examples:
        >>> import tensorfact as tf
        >>> tf.digits(tf.nano()).sizes
        {'train': 800, 'val': 200, 'test': 797}
    """
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    if train < 1 or val < 1 or train + val >= len(labels):
        raise DataError("digits", expected=f"train + val below {len(labels)}", got=f"{train} + {val}")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    pixels = torch.tensor(images, dtype=torch.float32).reshape(-1, 8, 8)[order] / 16
    classes = torch.tensor(labels, dtype=torch.long)[order]
    config = resolve_model_data_config(model)
    bounds = ((0, train), (train, train + val), (train + val, len(labels)))
    parts = [ResizedImages(pixels[a:b], classes[a:b], config) for a, b in bounds]
    return Splits("digits", parts[0], parts[1], parts[2], classes=10)
