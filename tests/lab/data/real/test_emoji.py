"""Emojis of two artists: one to train, the other to test."""

from __future__ import annotations

import io
import json

import pytest
from PIL import Image

from tensorfact.lab.data.real import emoji


def png(color: str, size: int = 64) -> bytes:
    file = io.BytesIO()
    Image.new("RGBA", (size, size), color).save(file, "PNG")
    return file.getvalue()


def test_emojis_of_one_artist_train_and_others_of_another_test() -> None:
    names = [f"{0x1F600 + at:04X}" for at in range(40)]
    entries = [
        {"unified": name, "category": emoji.GROUPS[at % 9], "image": f"{name}.png"} for at, name in enumerate(names)
    ]
    entries += [{"unified": "1F3FB", "category": "Component", "image": "1F3FB.png"}]
    files = {"package/emoji.json": json.dumps(entries).encode()}
    for artist, color in (("google", "red"), ("twitter", "#0000ff80")):
        files |= {f"package/img/{artist}/64/{name}.png": png(color) for name in [*names, "1F3FB"]}
    found = emoji.converted(files)
    assert found["images"].shape == (40, 64, 64, 3)
    assert 0 < int(found["test"].sum()) < 40
    colors = {
        bool(test): tuple(image[0, 0].tolist()) for image, test in zip(found["images"], found["test"], strict=True)
    }
    assert colors[False] == (255, 0, 0)
    assert colors[True] == pytest.approx((127, 127, 255), abs=1)  # half transparent on white
