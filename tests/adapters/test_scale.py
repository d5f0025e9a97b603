"""Scales: plain numbers, and `Alpha`, which depends on the rank."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tensorfact import Alpha, Format, TensorTrain, Tucker, adapt
from tensorfact.errors import AdaptError
from tensorfact.formats import Each, KhatriRao, Started
from tests.bundled import nano, plan
from tests.helpers import refused, untouched


@pytest.mark.parametrize(
    ("format", "scale", "found"),
    [
        (TensorTrain(4), Alpha(8), 2.0), (TensorTrain(4), Alpha(8, root=True), 4.0),
        (Tucker((4, 4, 4)), Alpha(8), 2.0), (Started(Each(TensorTrain(4))), Alpha(2), 0.5),
        (KhatriRao(), Alpha(8), 1.0), (TensorTrain(4), 3, 3.0),
    ],
)  # fmt: skip
def test_a_scale_may_depend_on_the_rank(format: Format, scale: Any, found: float) -> None:
    assert adapt(nano(), plan(), format, scale=scale).scales == {"encoder": found}


@pytest.mark.parametrize("scale", [Alpha(math.nan), Alpha("x"), "x", None, math.inf, 1e39, {"encoder": "x"}])  # type: ignore[arg-type]
def test_a_scale_that_is_none_is_refused(scale: Any) -> None:
    model = nano()
    with untouched(model), refused(AdaptError, "scale"):
        adapt(model, plan(), TensorTrain(4), scale=scale)


def test_several_ranks_have_no_alpha() -> None:
    with refused(AdaptError, "(4, 8)"):
        adapt(nano(), plan(), TensorTrain((4, 8)), scale=Alpha(8))
