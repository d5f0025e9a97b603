"""The known model families. To add one, append a `Family` to `VISION` or `LANGUAGE`."""

from __future__ import annotations

from .language import LANGUAGE
from .vision import VISION

FAMILIES = {family.name: family for family in (*VISION, *LANGUAGE)}
"""Families by name. `plan_for` uses the first whose required parts are in the model and whose shapes fit."""
