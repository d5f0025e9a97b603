"""Type aliases for values whose content is decided by another library or by the caller."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

JsonObject = dict[str, Any]
"""A JSON object."""

Options = Mapping[str, Any]
"""Keyword arguments that are passed on to a function or a dataclass."""
