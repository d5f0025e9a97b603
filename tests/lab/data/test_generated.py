"""Sprites are what their factors say, each drawn once."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tensorfact.errors import DataError
from tensorfact.lab import nano, sprites
from tensorfact.lab.data.generated import COUNT, FACTORS, factors, render
from tests.helpers import samples_of

NUMBERS = st.integers(0, COUNT - 1)


def number(**values: int) -> int:
    found = 0
    for name, size in FACTORS.items():
        found = found * size + values.get(name, 0)
    return found


def centre(image: torch.Tensor) -> tuple[float, float]:
    rows, columns = (image > 0).nonzero().float().mean(0).tolist()
    return columns + 0.5, rows + 0.5


@given(NUMBERS)
def test_factors_number_images_in_the_order_of_dsprites(which: int) -> None:
    found = factors(torch.tensor([which]))
    assert number(**{name: int(value) for name, value in found.items()}) == which


@given(st.lists(NUMBERS, min_size=1, max_size=5))
def test_an_image_is_the_same_whatever_is_drawn_beside_it(which: list[int]) -> None:
    together = render(torch.tensor(which))
    assert together.shape == (len(which), 64, 64)
    assert set(together.flatten().tolist()) <= {0, 255}
    assert torch.equal(together[-1], render(torch.tensor(which[-1:]))[0])


@given(NUMBERS)
def test_a_sprite_lies_where_and_has_the_size_that_its_factors_say(which: int) -> None:
    found = {name: int(value) for name, value in factors(torch.tensor([which])).items()}
    image = render(torch.tensor([which]))[0]
    scale = 0.5 + 0.1 * found["scale"]
    # The areas of the square, the ellipse and the sextic heart, the last by numerical integration.
    area = (400.0, math.pi * 14 * 7, 100 * 3.6617)[found["shape"]] * scale**2
    assert abs(int((image > 0).sum()) - area) < 0.08 * area + 4
    x, y = centre(image)
    off = 0.6 if found["shape"] < 2 else 2.5 * scale + 0.6  # a heart's middle is not its centre
    assert abs(x - (16 + found["x"] * 32 / 31)) < off
    assert abs(y - (16 + found["y"] * 32 / 31)) < off
    border = torch.cat([image[0], image[-1], image[:, 0], image[:, -1]])
    assert not border.any()


def test_a_square_and_an_ellipse_have_their_symmetries_and_two_orientations_are_one() -> None:
    first, last = (render(torch.tensor([number(shape=2, scale=5, orientation=o)])) for o in (0, 39))
    assert torch.equal(first, last)
    # Step 10 is 92 degrees: nearly a quarter turn, which a square hardly shows, but an ellipse does.
    square, ellipse, heart = (
        int(torch.ne(*render(torch.tensor([number(shape=shape, scale=5, orientation=o) for o in (0, 10)]))).sum())
        for shape in range(3)
    )
    assert square < 30 < 100 < min(ellipse, heart)


@pytest.mark.parametrize("kind", ["location", "orientation"])
def test_the_tasks_are_disjoint_and_their_labels_vtabs_bins(kind: str) -> None:
    data = sprites(kind, nano(), train=40, val=10, test=20)  # type: ignore[arg-type]
    again = sprites(kind, nano(), train=40, val=10, test=5)  # type: ignore[arg-type]
    assert (data.classes, data.sizes) == (16, {"train": 40, "val": 10, "test": 20})
    drawn, fewer = (
        [(x.numpy().tobytes(), int(y)) for part in (splits.final, splits.test) for x, y in samples_of(part)]
        for splits in (data, again)
    )
    assert drawn[:55] == fewer
    assert len(set(drawn)) == 70
    if kind == "location":
        for x, y in samples_of(data.train):
            bright = (x[0] > 0).nonzero().float().mean(0)[1].item() + 0.5
            assert abs(bright / 28 * 64 - (17 + 2 * int(y) * 32 / 31)) < 3.5


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(DataError, match="did you mean 'location'"):
        sprites("locatoin", nano())  # type: ignore[arg-type]
