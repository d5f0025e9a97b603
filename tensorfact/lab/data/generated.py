"""Sprites: two structured tasks like those of dSprites, rendered instead of downloaded."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from ...common.checks import one_of
from ...errors import DataError
from .images import data_config
from .in_memory import ResizedImages
from .splits import Splits, cut

FACTORS = {"shape": 3, "scale": 6, "orientation": 40, "x": 32, "y": 32}
"""The generative factors of dSprites and how many values each has, the last one changing fastest."""
COUNT = math.prod(FACTORS.values())
LABELS = {"location": "x", "orientation": "orientation"}
"""The factor whose values each task classifies."""
BINS, SIZE, WINDOW = 16, 64, 32
FINE = 3  # sample points per pixel and direction; odd, so that an edge between pixels is not a tie
_AT_ONCE = 256  # images rendered at once, so that memory stays at some tens of megabytes


def sprites(
    kind: Literal["location", "orientation"],
    model: nn.Module,
    *,
    train: int = 800,
    val: int = 200,
    test: int = 1000,
    seed: int = 0,
    imagenet_statistics: bool = False,
) -> Splits:
    """Return rendered images of white squares, ellipses and hearts on black, 64 x 64: VTAB's dSprites tasks.

    The task is to classify the x position or the orientation of the shape. The factors are those of dSprites: 3 shapes,
    6 scales from 0.5 to 1, 40 orientations from 0 to 2 pi, 32 x 32 positions; no two images agree in all of them. As
    in VTAB, the 16 classes are bins of the x position (two values each) or of the orientation (two or three values
    each).

    As in dSprites, the label is the angle of the drawing, regardless of the shape's symmetry. A square looks nearly the
    same after a quarter turn and an ellipse after half a turn, up to half a step, and the last orientation equals the
    first (2 pi and 0, classes 15 and 0), so that no model reaches 100 % on orientation. The images are rendered by this
    library; they are not those of the dSprites file.

    Args:
        kind: The factor to classify: "location" or "orientation".
        model: A model with a timm data configuration, which sets size, channels and normalisation.
        train: Number of training images.
        val: Number of validation images.
        test: Number of test images.
        seed: Seed of the random selection of images.
        imagenet_statistics: Normalise with ImageNet's mean and standard deviation instead of the model's.

    Returns:
        The three splits, with 16 classes.

    Raises:
        DataError: An unknown kind, a size below 1, or more than 737,280 images in all.

    Examples:
        >>> from tensorfact.lab import nano, sprites
        >>> sprites("location", nano(), train=8, val=2, test=5).sizes
        {'train': 8, 'val': 2, 'test': 5}

    Sources: L. Matthey, I. Higgins, D. Hassabis, A. Lerchner, dSprites, 2017; X. Zhai et al., A large-scale study of
    representation learning with the Visual Task Adaptation Benchmark, 2019 (arXiv:1910.04867).
    """
    one_of(kind, LABELS, "sprites: kind", DataError)
    config = data_config(model, imagenet_statistics=imagenet_statistics)
    parts = []
    for part in cut(COUNT, (train, val, test), seed=seed, what="sprites", rest=False):
        numbers = torch.tensor(part)
        labels = factors(numbers)[LABELS[kind]] * BINS // FACTORS[LABELS[kind]]
        parts.append(ResizedImages(render(numbers), labels, config))
    return Splits(f"sprites-{kind}", parts[0], parts[1], parts[2], BINS)


def factors(numbers: Tensor) -> dict[str, Tensor]:
    """Return the factors of images, as indices of their values from 0 up.

    Args:
        numbers: Image indices, 0 to 737,279, in the order of the dSprites file: (count,).
    """
    found = {}
    for name, size in reversed(FACTORS.items()):
        found[name], numbers = numbers % size, numbers // size
    return found


def render(numbers: Tensor) -> Tensor:
    """Render images: a pixel is white where the shape covers most of its 3 x 3 sample points.

    Args:
        numbers: Image indices, as in `factors`: (count,).

    Returns:
        uint8, 0 or 255: (count, 64, 64).
    """
    images = torch.zeros(len(numbers), SIZE, SIZE, dtype=torch.uint8)
    for at in range(0, len(numbers), _AT_ONCE):
        some = numbers[at : at + _AT_ONCE]
        found = factors(some)
        angle = found["orientation"] * (2 * math.pi / (FACTORS["orientation"] - 1))
        scale = 0.5 + 0.1 * found["scale"]
        # Centres lie in the middle half of the image; nothing reaches further than 15 pixels from its centre.
        centres = [SIZE / 4 + found[axis] * (SIZE / 2 / (FACTORS[axis] - 1)) for axis in ("x", "y")]
        corners = [(centre.floor().long() - WINDOW // 2).clamp(0, SIZE - WINDOW) for centre in centres]
        points = (torch.arange(WINDOW * FINE) + 0.5) / FINE
        x, y = (
            (corner[:, None] + points - centre[:, None]) / scale[:, None]
            for corner, centre in zip(corners, centres, strict=True)
        )
        inside = _inside(x[:, None, :], y[:, :, None], angle[:, None, None], found["shape"])
        covered = inside.reshape(len(some), WINDOW, FINE, WINDOW, FINE).float().mean((2, 4))
        rows, columns = (corner[:, None] + torch.arange(WINDOW) for corner in (corners[1], corners[0]))
        which = torch.arange(at, at + len(some))[:, None, None]
        images[which, rows[:, :, None], columns[:, None, :]] = (covered > 0.5).to(torch.uint8) * 255
    return images


def _inside(x: Tensor, y: Tensor, angle: Tensor, shape: Tensor) -> Tensor:
    """Return a mask of the points that lie inside their shape.

    Args:
        x: To the right of the centre, in pixels at scale 1: (count, 1, width).
        y: Below the centre: (count, height, 1).
        angle: Rotation of the shape in radians: (count, 1, 1).
        shape: 0 a square, 1 an ellipse, 2 a heart: (count,).
    """
    u, v = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    inside = torch.zeros(u.shape, dtype=torch.bool)
    for number, test in enumerate((_in_square, _in_ellipse, _in_heart)):
        these = shape == number
        inside[these] = test(u[these], v[these])
    return inside


def _in_square(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(u.abs(), v.abs()) <= 10


def _in_ellipse(u: Tensor, v: Tensor) -> Tensor:
    return (u / 14) ** 2 + (v / 7) ** 2 <= 1


def _in_heart(u: Tensor, v: Tensor) -> Tensor:
    """The sextic (u^2 + v^2 - 1)^3 = u^2 v^3, scaled by 10, with its point upwards at angle 0."""
    u, v = u / 10, v / 10
    return (u**2 + v**2 - 1) ** 3 - u**2 * v**3 <= 0
