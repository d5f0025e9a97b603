"""A plan that fits a part of a model, or a model that holds it: adapters of classifiers and of their backbones."""

from __future__ import annotations

import json

from torch import nn

from ..errors import PlanError
from .plan import TensorizationPlan


def nesting(plan: TensorizationPlan, model: nn.Module) -> str:
    """Return what to do where a plan does not fit a model, but a part of it, or a model around it; else nothing.

    Args:
        plan: A plan that does not resolve on the model.
        model: The model; it is only read.
    """
    for path, module in model.named_modules():
        if path and path.count(".") < 2 and _fits(plan, module):
            return f"it fits the part {path!r}: pass model.{path}"
    first = plan.groups[0].rules[0].param.split(".")
    for end in range(1, len(first)):
        prefix = ".".join(first[:end])
        inner = None if "{" in prefix else _without(plan, f"{prefix}.")
        if inner is not None and _fits(inner, model):
            return f"it fits a model that holds this one as {prefix!r}: pass the whole model"
    return ""


def _fits(plan: TensorizationPlan, model: nn.Module) -> bool:
    try:
        plan.resolve(model)
    except PlanError:
        return False
    return True


def _without(plan: TensorizationPlan, prefix: str) -> TensorizationPlan | None:
    """Return a plan without what all its parameter names begin with; None if they do not begin with it."""
    stored = json.loads(plan.to_json())
    rules = [rule for group in stored["groups"] for rule in group["rules"]]
    if not all(rule["param"].startswith(prefix) for rule in rules):
        return None
    for rule in rules:
        rule["param"] = rule["param"].removeprefix(prefix)
    return TensorizationPlan.from_json(json.dumps(stored))
