"""The known model families. An entry in one of the tuples is all a family needs."""

from __future__ import annotations

from .language import LANGUAGE
from .vision import VISION

FAMILIES = {family.name: family for family in (*VISION, *LANGUAGE)}
"""Families by name. `plan_for` takes the first whose required parts are in the model and whose shapes fit."""
