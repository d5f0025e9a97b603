"""Shared fixture of this room: the summary of a sweep."""

from __future__ import annotations

import pytest

from tensorfact.lab.report import Summary, summarize
from tests.results import example


@pytest.fixture(scope="module")
def summary() -> Summary:
    return summarize(example())
