"""Groups of emojis: drawn by Google to train on, by Twitter to test on."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

from PIL import Image
from torch import Tensor

from ...fetching import CachedFile, Files, Package
from .pool import RealTask, digest, packed_pool, stored_pool

GROUPS = (
    *("Activities", "Animals & Nature", "Flags", "Food & Drink", "Objects"),
    *("People & Body", "Smileys & Emotion", "Symbols", "Travel & Places"),
)
"""The groups of Unicode that have more than a few emojis."""

_TESTED = 9
"""Twentieths of the emojis that are for the test, so that the others are more than 1,000."""

SOURCE = CachedFile(
    "emoji",
    "emoji.safetensors",
    (
        Package(
            "emoji-datasource-google@16.0.0",
            "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
            ("package/emoji.json", "package/img/google/64/*.png"),
            "npm",
        ),
        Package(
            "emoji-datasource-twitter@16.0.0",
            "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
            ("package/img/twitter/64/*.png",),
            "npm",
        ),
    ),
)


def converted(files: Files) -> dict[str, Tensor]:
    """Return the emojis on white: some drawn by Google, to train, and the others by Twitter, to test.

    Emojis that begin with the same character, such as a runner of either sex, are drawn by the same artist.

    Args:
        files: The files of the two packages.
    """
    entries = json.loads(files["package/emoji.json"])
    images, labels, digests, test = zip(*_drawn(files, entries), strict=True)
    return packed_pool(images, labels, digests, test)


def _drawn(files: Files, entries: list[dict[str, str]]) -> Iterator[tuple[Image.Image, int, int, bool]]:
    """Yield the image of each emoji, its group, its digest, and whether it is for the test."""
    for entry in entries:
        first = entry["unified"].partition("-")[0]
        if entry["category"] == "Flags":  # all of them begin with the letters of a country
            first = entry["unified"]
        test = digest(first.encode()) % 20 < _TESTED
        artist = "twitter" if test else "google"
        path = f"package/img/{artist}/64/{entry['image']}"
        if entry["category"] not in GROUPS or path not in files:
            continue
        image = Image.open(io.BytesIO(files[path])).convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        yield (
            Image.alpha_composite(white, image).convert("RGB").resize((64, 64)),
            GROUPS.index(entry["category"]),
            digest(files[path]),
            test,
        )


TASK = RealTask(
    "emoji",
    GROUPS,
    "groups of emojis of npm's emoji-datasource: drawn by Google (Noto) to train, other ones drawn by Twitter to test",
    "Apache-2.0 (Noto), CC-BY-4.0 (Twemoji)",
    lambda: stored_pool(SOURCE),
    lambda: SOURCE.make(converted),
)
