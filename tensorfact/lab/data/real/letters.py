"""The letters A to J in 465 decorative fonts, rendered as notMNIST was."""

from __future__ import annotations

import io
import string
from collections.abc import Iterator

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ...fetching import CachedFile, Files, Package
from .pool import RealTask, digest, packed_pool, stored_pool

LETTERS = tuple(string.ascii_uppercase[:10])
SIZE, DRAWN = 64, 48
"""Height and width of an image in pixels, and of the letter in it."""
_SIBLINGS = 4
"""Fonts whose names begin with the same letters, this many, are variants of one design."""

SOURCE = CachedFile(
    "letters",
    "letters.safetensors",
    (
        Package(
            "fonts-aenigma=0.0.20080511+dfsg-4",
            "c7f33a4e5932af82a92c81a5a993a1d117c4309b47532cb0d9c3ad34bc54f5a8",
            ("usr/share/fonts/truetype/aenigma/*.ttf",),
            "apt",
        ),
    ),
)


def converted(files: Files) -> dict[str, Tensor]:
    """Return the letters in every font, white on black, 64 x 64; half of the designs are for the test.

    Args:
        files: The files of the fonts.
    """
    images, labels, digests, test = zip(*_rendered(files), strict=True)
    return packed_pool(images, labels, digests, test)


def _rendered(files: Files) -> Iterator[tuple[Image.Image, int, int, bool]]:
    """Yield the image of each letter, its class, its digest, and whether it is for the test."""
    for path, font in sorted(files.items()):
        name = path.rpartition("/")[2]
        test = digest(name[:_SIBLINGS].encode()) % 2 == 1
        images = [render(font, letter) for letter in LETTERS]
        if len({image.tobytes() for image in images}) < len(LETTERS):
            continue  # the font draws a box for a letter that it lacks
        for label, image in enumerate(images):
            yield image, label, digest(font, LETTERS[label].encode()), test


def render(font: bytes, letter: str) -> Image.Image:
    """Return a letter in the middle of an image, its longer side at 48 pixels.

    Args:
        font: The contents of a TrueType file.
        letter: The letter.
    """

    def at(size: int) -> tuple[ImageFont.FreeTypeFont, tuple[float, float, float, float]]:
        found = ImageFont.truetype(io.BytesIO(font), size, layout_engine=ImageFont.Layout.BASIC)
        return found, found.getbbox(letter)

    _, (left, top, right, bottom) = at(DRAWN)
    found, (left, top, right, bottom) = at(int(DRAWN * DRAWN / max(right - left, bottom - top, 1)))
    image = Image.new("L", (SIZE, SIZE))
    corner = ((SIZE - right - left) / 2, (SIZE - bottom - top) / 2)
    ImageDraw.Draw(image).text(corner, letter, fill=255, font=found)
    return image


TASK = RealTask(
    "letters",
    LETTERS,
    "letters A to J in Brian Kent's 465 fonts (Debian's fonts-aenigma), rendered here; other designs to test",
    "free to distribute and change, with attribution",
    lambda: stored_pool(SOURCE),
    lambda: SOURCE.make(converted),
)
