"""Letters are rendered in the middle of their images."""

from __future__ import annotations

from pathlib import Path

import matplotlib

from tensorfact.lab.data.real import letters


def test_a_letter_fills_the_middle_of_its_image() -> None:
    contents = (Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf").read_bytes()
    image = letters.render(contents, "H")
    box = image.getbbox()
    assert box is not None
    left, top, right, bottom = box
    assert image.size == (64, 64)
    assert 44 <= bottom - top <= 50
    assert abs((left + right) - 64) <= 2
    assert abs((top + bottom) - 64) <= 2
    found = letters.converted({"fonts/dejavu.ttf": contents, "fonts/other.ttf": contents})
    assert found["labels"].tolist() == [*range(10), *range(10)]
    assert len(set(found["digests"].tolist())) == 10  # of one font
