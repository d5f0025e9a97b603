"""Fixtures: a base and a tuned model as every kind of source that `extract` accepts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from tests.algebra.tuned import pair, weights


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, tuple[Any, Any]]:
    base, tuned = pair()
    save_file(weights(base), tmp_path / "base.safetensors")
    save_file(weights(tuned), tmp_path / "tuned.safetensors")
    return {
        "models": (base, tuned),
        "state dicts": (weights(base), weights(tuned)),
        "files": (tmp_path / "base.safetensors", str(tmp_path / "tuned.safetensors")),
    }
