"""What an adapter and a bank of tasks have in common: both attach to a model and leave it as it was."""

from __future__ import annotations

import pytest

from tensorfact import adapt
from tensorfact.adapters.attached import Attached
from tensorfact.errors import AdaptError
from tensorfact.lab import nano
from tests.helpers import refused, snapshot


@pytest.mark.parametrize("tasks", [None, ["flowers", "pets"]], ids=str)
def test_what_is_attached_is_found_shown_and_removed(tasks: list[str] | None) -> None:
    model = nano()
    before = snapshot(model)
    found: Attached = adapt(model, tasks=tasks) if tasks else adapt(model)
    assert model.tensorfact is found
    assert found.model is model
    assert "6,144 parameters on 24 weights" in repr(found) or "2 tasks" in repr(found)
    assert found.explain(tokens=10).choices
    found.merge()
    with found.disabled():
        assert not found.merged
    found.unmerge()
    with refused(AdaptError, "adapted"):
        adapt(model)
    found.remove()
    assert snapshot(model) == before
