"""Methods with factors for every matrix: widths that are folded, axes that are three."""

from __future__ import annotations

import pytest

from tensorfact import recipes
from tensorfact.errors import PlanError
from tensorfact.lab.models import model_shapes
from tensorfact.recipes import RECIPES
from tests.helpers import refused
from tests.recipes.formulas import small


@pytest.mark.parametrize("name", ["loretta", "lokr", "quanta"])
def test_a_width_that_is_folded_is_one(name: str) -> None:
    with refused(PlanError, "stages", "roles="):
        RECIPES[name](model_shapes("swin_base_patch4_window7_224"))


def test_three_axes_are_three() -> None:
    with refused(PlanError, "(2, 2)"):
        recipes.quanta(small(), axes=(2, 2))
