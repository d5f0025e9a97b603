"""Simulated images of a textile: without a fault, with a local one, or with a changed texture."""

from __future__ import annotations

import io

from PIL import Image
from torch import Tensor

from ...fetching import CachedFile, Files, Package
from .pool import RealTask, digest, packed_pool, stored_pool

KINDS = ("nominal", "local", "global")
_FOLDER = "conformal_clip_data/data/textile_images/simulated"

SOURCE = CachedFile(
    "textile",
    "textile.safetensors",
    (
        Package(
            "conformal-clip-data==0.1.4",
            "00144ccc179a887dbea15923be8cf236d0c0f49bf7fb6f7bb288e40b53fb1bcb",
            (f"{_FOLDER}/*/*.jpg",),
        ),
    ),
)


def converted(files: Files) -> dict[str, Tensor]:
    """Return the 2,000 images in grey, 250 x 250: 1,000 without a fault, 500 with each kind of fault.

    Args:
        files: The images.
    """
    paths = sorted(files)
    images = (Image.open(io.BytesIO(files[path])).convert("L") for path in paths)
    labels = [KINDS.index(path.split("/")[-2]) for path in paths]
    return packed_pool(images, labels, (digest(files[path]) for path in paths))


TASK = RealTask(
    "textile",
    KINDS,
    "simulated textile without a fault, with a local fault or another texture (PyPI's conformal-clip-data)",
    "MIT",
    lambda: stored_pool(SOURCE),
    lambda: SOURCE.make(converted),
)
