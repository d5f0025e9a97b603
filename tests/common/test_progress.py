"""Progress callbacks: the default prints nothing."""

from __future__ import annotations

import pytest

from tensorfact.common.progress import silent


def test_the_default_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    silent("task", 1, 2)
    assert capsys.readouterr() == ("", "")
