"""Sprites: two structured tasks that are drawn, not downloaded, in the manner of dSprites."""

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
"""The factor that each task asks for."""
BINS, SIZE, WINDOW = 16, 64, 32
FINE = 3  # points a pixel and direction; odd, so that an edge between pixels is no tie
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
    """Return white squares, ellipses and hearts on black, 64 x 64, to be placed or turned: VTAB's dSprites tasks.

    The factors are those of dSprites: 3 shapes, 6 scales from 0.5 to 1, 40 orientations from 0 to 2 pi, 32 x 32
    positions; no two images have the same ones. As in VTAB, the 16 classes are the bins of the x position (two values
    each) or of the orientation (two or three values each). The convention of dSprites is kept: an orientation is the
    angle that was drawn, whatever the shape's symmetry. A square looks nearly the same every quarter turn and an
    ellipse every half turn, off by half a step or less, and the last orientation is the first one again (2 pi and 0,
    of classes 15 and 0), so that no model reaches 100 % there. The drawing is this library's own: the images are not
    those of the dSprites file.

    Args:
        kind: What is asked: "location" or "orientation".
        model: A model with a timm data configuration; decides size, channels and normalisation.
        train: How many to train on.
        val: How many to choose by.
        test: How many to report on.
        seed: Seed of which images are drawn.
        imagenet_statistics: Normalise by ImageNet's mean and deviation instead of the model's own.

    Returns:
        The three parts, 16 classes.

    Raises:
        DataError: An unknown kind, a size that is none, or more images than there are.

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
    """Return the values of the factors of images, from 0 up.

    Args:
        numbers: Which images, 0 to 737,279, in the order of the dSprites file: (count,).
    """
    found = {}
    for name, size in reversed(FACTORS.items()):
        found[name], numbers = numbers % size, numbers // size
    return found


def render(numbers: Tensor) -> Tensor:
    """Draw images: a pixel is white where the shape covers most of its 3 x 3 points.

    Args:
        numbers: Which images, as in `factors`: (count,).

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
    """Tell which points lie in their shape.

    Args:
        x: To the right of the centre, in pixels at scale 1: (count, 1, width).
        y: Below the centre: (count, height, 1).
        angle: What the shape is turned by, in radians: (count, 1, 1).
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
    """The sextic (u^2 + v^2 - 1)^3 = u^2 v^3 of unit 10, its point upwards at angle 0."""
    u, v = u / 10, v / 10
    return (u**2 + v**2 - 1) ** 3 - u**2 * v**3 <= 0
