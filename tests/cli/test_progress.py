"""Progress bars: they go to standard error, whatever the order of tasks."""

from __future__ import annotations

import pytest

from tensorfact.cli.progress import progress_bars


def test_bars_go_to_standard_error_and_take_any_order_of_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bars() as progress:
        for task, done in (("a", 0), ("b", 1), ("a", 2), ("b", 2), ("a", 1), ("a", 2)):
            progress(task, done, 2)
    assert capsys.readouterr().out == ""
