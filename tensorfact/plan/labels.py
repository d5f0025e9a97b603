"""The rows that a rule's labels cover, and whether they are those of a fused weight that is known."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from ..errors import PlanError
from ..model.parameters import owner_of
from .families.layout import FusedWeight, conflicting_layout
from .rules import Coordinate, Rule

_MOST = 8
"""The most labels that are listed in a message."""


def covered(rule: Rule, axis: str, sizes: Mapping[str, int]) -> str:
    """Return the part of a parameter that each label of an axis covers: `96 rows each`.

    Args:
        rule: The rule.
        axis: An axis with a list of labels.
        sizes: The size of every axis of the rule's pattern.

    Examples:
        >>> rule = Rule("qkv.weight", "(role out) in", role=["q", "k", "v"])
        >>> covered(rule, "role", {"role": 3, "out": 96, "in": 96})
        '96 rows each'
    """
    dim, runs, length = _runs(rule, axis, sizes)
    return f"{length if runs == 1 else f'{runs} x {length}'} {_word(rule, dim)} each"


def check_labels(
    rule: Rule, name: str, shape: tuple[int, ...], sizes: Mapping[str, int], model: nn.Module, names: Iterable[str]
) -> None:
    """Refuse a list of labels that divides a fused weight, whose blocks are known, elsewhere than between its blocks.

    Args:
        rule: The rule.
        name: The parameter's name.
        shape: Its shape.
        sizes: The size of every axis of the rule's pattern.
        model: The model.
        names: The names of all parameters of the model.

    Raises:
        PlanError: Labels of the rule cover parts of several blocks.
    """
    for axis, labels in rule.listed.items():
        dim, runs, length = _runs(rule, axis, sizes)
        if runs > 1 or len(labels) == 1:
            continue
        known = _conflicting(name, shape, dim, len(labels), model, names)
        if known is None:
            continue
        word, blocks = _word(rule, dim), known.roles * known.keys
        whole = f"{axis}={list(known.roles)}, with None in place of a label that stays frozen"
        by_head = f"plan_for(model), which writes '(head {axis} dim)' with axis_sizes={{'head': {known.keys}}}"
        raise PlanError(
            f"rule {rule.param!r}: {axis}={list(labels[:_MOST])} divides {name!r} {shape} into {len(labels)} blocks",
            expected=f"{len(blocks)} blocks as in {known.family}: " + _spelled(blocks, shape[dim] // len(blocks), word),
            got=_spelled(labels, length, word),
            cause="a list of labels of the wrong length" if known.keys == 1 else "q, k and v alternate by head",
            fix=whole if known.keys == 1 else by_head,
        )


def _conflicting(
    name: str, shape: tuple[int, ...], dim: int, count: int, model: nn.Module, names: Iterable[str]
) -> FusedWeight | None:
    owner, attribute = owner_of(model, name)
    if isinstance(owner, nn.MultiheadAttention) and attribute == "in_proj_weight":
        return FusedWeight("torch.nn.MultiheadAttention", ("q", "k", "v")) if dim == 0 and count % 3 else None
    return conflicting_layout(name, shape, dim, count, model, names) if len(shape) > 1 else None


def _runs(rule: Rule, axis: str, sizes: Mapping[str, int]) -> tuple[int, int, int]:
    """Return the dimension that an axis lies in, and the number and length of the runs that one label covers."""
    dim = next(at for at, axes in enumerate(rule.dims) if axis in axes)
    axes = rule.dims[dim]
    at = axes.index(axis)
    return dim, math.prod(sizes[a] for a in axes[:at]), math.prod(sizes[a] for a in axes[at + 1 :])


def _word(rule: Rule, dim: int) -> str:
    return ("rows", "columns")[dim] if len(rule.dims) == 2 else f"indices of dimension {dim}"


def _spelled(labels: Sequence[Coordinate | None], length: int, word: str) -> str:
    shown = [f"{label!r} {word} {at * length}..{(at + 1) * length - 1}" for at, label in enumerate(labels[:_MOST])]
    return ", ".join(shown + ["..."] * (len(labels) > _MOST))
