"""The known model families. To add one, append a `Family` to the tuple of its kind."""

from __future__ import annotations

from .decoders import DECODERS
from .encoder_decoders import ENCODER_DECODERS
from .encoders import ENCODERS
from .stages import STAGED
from .vision import VISION

FAMILIES = {family.name: family for family in (*STAGED, *VISION, *ENCODERS, *DECODERS, *ENCODER_DECODERS)}
"""Families by name. `plan_for` uses the first whose required parts are in the model and whose shapes fit."""
