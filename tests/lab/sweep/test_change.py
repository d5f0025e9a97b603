"""Sweeps with selected parts and rows, and with other models."""

from __future__ import annotations

from typing import Any

import pytest

from tensorfact.errors import SweepError
from tensorfact.lab.sweep import narrowed, on_models, preset, sizes, trained_for


def test_a_sweep_is_narrowed_and_put_on_other_models() -> None:
    sweep = narrowed(preset("paper"), parts=["vtab"], rows=["BitFit", "FacT-TT4"], tasks=["digits"], scales=[1, 2])
    assert [(row.label, row.scales) for row in sweep.parts[0].rows] == [("BitFit", (None,)), ("FacT-TT4", (1, 2))]
    assert sweep.parts[0].tasks == ("digits",)
    own = narrowed(preset("small"), methods=["bitfit", "tt:rank=2"], scales=[3.0])
    assert own.name == "small"
    assert narrowed(preset("small"), tasks=["digits", "folder:birds"]).name == "digits, folder:birds"
    assert [(row.label, row.scales) for row in own.parts[0].rows] == [("bitfit", (None,)), ("tt:rank=2", (3.0,))]
    models = [part.model for part in on_models(preset("paper"), ["nano", "swin=a(b=1)"], pretrained=False).parts]
    assert models == ["nano", "nano", "a(b=1)"]
    short = trained_for(preset("paper"), epochs=20, seeds=1)
    assert (short.settings.epochs, short.settings.warmup_epochs, short.seeds) == (20, 2, (0,))


@pytest.mark.parametrize(
    "change",
    [
        lambda: preset("papper"),
        lambda: narrowed(preset("paper"), parts=["vtap"]),
        lambda: narrowed(preset("paper"), rows=["FacT"]),
        lambda: on_models(preset("paper"), ["vitt=nano"]),
        lambda: sizes(*(lambda s: (s, s.parts[0]))(narrowed(preset("paper"), parts=["vtab"], tasks=["digits"]))),
    ],
)
def test_what_a_sweep_has_not_is_refused(change: Any) -> None:
    with pytest.raises(SweepError):
        change()


def test_another_model_has_a_title_of_its_own_and_nothing_published() -> None:
    sweep = on_models(preset("paper"), ["vtab=a(b=1)", "nano"])
    assert [(part.model, part.title) for part in sweep.parts][:2] == [
        ("a(b=1)", "vtab on a(b=1)"),
        ("nano", "few-shot on nano"),
    ]
    assert not any(row.parameters or row.accuracy for part in sweep.parts for row in part.rows)
