"""Check the description of a model's preprocessing, which may come from a file."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...common.aliases import Options
from ...common.checks import quoted

_CROPS = ("center", "squash", "border")
"""The ways to crop that timm knows; it takes any other text for the first."""

_LARGEST_SIDE = 1 << 14
"""The most pixels along a side of a preprocessed image, before it is cropped."""


def checked_channels(config: Options) -> int:
    """Check the numbers in timm's data configuration, and return the number of channels.

    Args:
        config: The configuration, such as one from a file.

    Raises:
        ValueError: An entry is missing, or no image can be preprocessed so.
    """
    sizes = config.get("input_size")
    if not isinstance(sizes, Sequence) or len(sizes) != 3 or not all(type(size) is int and size > 0 for size in sizes):
        raise ValueError(f"input_size {quoted(sizes)}, which is not [channels, height, width]")
    for name in ("mean", "std"):
        values = config.get(name)
        if not isinstance(values, Sequence) or len(values) != sizes[0] or not all(map(_is_finite, values)):
            raise ValueError(f"{name} {quoted(values)}, which is not one number for each of {sizes[0]} channels")
    if min(config["std"]) <= 0:
        raise ValueError(f"std {quoted(config['std'])}, which divides and is not positive")
    crop, mode = config.get("crop_pct") or 1.0, config.get("crop_mode") or "center"
    if config.get("crop_pct") == 0 or not _is_finite(crop) or not _fits(sizes[1:], crop):
        raise ValueError(f"input_size {quoted(sizes)} with crop_pct {quoted(config.get('crop_pct'))}, which is no crop")
    if mode not in _CROPS:
        raise ValueError(f"crop_mode {quoted(mode)}, which is none of {', '.join(_CROPS)}")
    return int(sizes[0])


def _fits(sides: Sequence[int], crop: float) -> bool:
    """Return whether an image of these sides can be cropped from a larger one."""
    return 0 < crop <= min(sides) and max(sides) <= _LARGEST_SIDE * min(crop, 1.0)


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
