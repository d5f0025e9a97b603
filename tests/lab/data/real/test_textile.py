"""Images of a textile are labelled by their folder."""

from __future__ import annotations

import io

from PIL import Image

from tensorfact.lab.data.real import textile


def test_textiles_are_labelled_by_their_folder() -> None:
    file = io.BytesIO()
    Image.new("RGB", (250, 250), "grey").save(file, "JPEG")
    folder = "conformal_clip_data/data/textile_images/simulated"
    found = textile.converted({f"{folder}/{kind}/textile_0001.jpg": file.getvalue() for kind in textile.KINDS})
    assert found["images"].shape == (3, 250, 250)
    assert sorted(found["labels"].tolist()) == [0, 1, 2]
