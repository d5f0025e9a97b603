"""Types of values whose content another library or a caller decides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

JsonObject = dict[str, Any]
"""An object of a JSON document, or the arguments that one is written from."""

Options = Mapping[str, Any]
"""Keyword arguments that are passed on to a function, or to the constructor of a dataclass."""
