"""Conformance tests for your own formats and plans, and hypothesis strategies.

Requires hypothesis, and pytest for `as_test`: `pip install 'tensorfact[testing]'`.
"""

from .format_laws import check_format
from .laws import Law, LawError, Laws
from .plan_laws import check_plan
from .strategies import arrangements, formats, modes, plain_kinds, plans, ranks, tensors

__all__ = [
    "Law",
    "LawError",
    "Laws",
    "arrangements",
    "check_format",
    "check_plan",
    "formats",
    "modes",
    "plain_kinds",
    "plans",
    "ranks",
    "tensors",
]
