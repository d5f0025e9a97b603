"""The known model families, as data, and `plan_for`, which picks one by a model's parameter names."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

from torch import nn

from .errors import NoMatchError, PlanError
from .plan import TensorizationPlan
from .rules import Group, Rule

Blocks = Literal["all", "attention", "mlp"]


@dataclasses.dataclass(frozen=True)
class Part:
    """One kind of parameter in a family.

    Args:
        block: Whether it belongs to the attention or to the MLP.
        param: The template of its name.
        pattern: The axes of its dimensions.
        role: Its label, or the labels along its `role` axis; a label ending in `*` stands for as many numbered ones
            as the parameter has square chunks.
    """

    block: Literal["attention", "mlp"]
    param: str
    pattern: str
    role: str | tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class GroupTemplate:
    """A group of a family: its name, modes, parts and partition."""

    name: str
    modes: str
    parts: tuple[Part, ...]
    partition: str | None = None


def _transformer(prefix: str) -> tuple[Part, ...]:
    return (
        Part("attention", f"{prefix}.attn.qkv.weight", "(role out) in", ("q", "k", "v")),
        Part("attention", f"{prefix}.attn.proj.weight", "out in", "o"),
        Part("mlp", f"{prefix}.mlp.fc1.weight", "(role out) in", "up*"),
        Part("mlp", f"{prefix}.mlp.fc2.weight", "out (role in)", "down*"),
    )


FAMILIES: dict[str, tuple[GroupTemplate, ...]] = {
    "vit": (GroupTemplate("encoder", "(layer role) in out", _transformer("blocks.{layer}")),),
    "swin": (GroupTemplate("stages", "(layer role) in out", _transformer("layers.{stage}.blocks.{layer}"), "stage"),),
    "mixer": (
        GroupTemplate(
            "tokens",
            "(layer role) tok hid",
            (
                Part("mlp", "blocks.{layer}.mlp_tokens.fc1.weight", "hid tok", "up"),
                Part("mlp", "blocks.{layer}.mlp_tokens.fc2.weight", "tok hid", "down"),
            ),
        ),
        GroupTemplate(
            "channels",
            "(layer role) in out",
            (
                Part("mlp", "blocks.{layer}.mlp_channels.fc1.weight", "(role out) in", "up*"),
                Part("mlp", "blocks.{layer}.mlp_channels.fc2.weight", "out (role in)", "down*"),
            ),
        ),
    ),
}
"""Group templates by family name. `plan_for` takes the first family whose every template names a parameter."""


def plan_for(model: nn.Module, blocks: Blocks = "all") -> TensorizationPlan:
    """Return the plan of a known model family: the paper's 12L x d x d tensor for a ViT, one tensor a stage for a Swin.

    Args:
        model: A timm ViT or DeiT, Swin or MLP-Mixer; it is only read.
        blocks: Which weights to fold: all, the attention's, or the MLPs'.

    Returns:
        The plan, which resolves on the model.

    Raises:
        PlanError: The model belongs to no known family, or the family has none of these blocks.

    Source: the tensorization of Jie & Deng, FacT, AAAI 2023.

    Examples:
        >>> import tensorfact as tf
        >>> plan = tf.plan_for(tf.nano(), blocks="attention")
        >>> [rule.param for rule in plan.groups[0].rules]
        ['blocks.{layer}.attn.qkv.weight', 'blocks.{layer}.attn.proj.weight']
        >>> plan.resolve(tf.nano()).tensors[0].shape
        (24, 96, 96)
    """
    if blocks not in get_args(Blocks):
        raise PlanError("plan_for: blocks", expected=f"one of {get_args(Blocks)}", got=repr(blocks))
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    for family, templates in FAMILIES.items():
        parts = [part for template in templates for part in template.parts]
        if not all(any(_rule(part).match(name) for name in shapes) for part in parts):
            continue
        groups = [group for template in templates if (group := _group(template, blocks, shapes))]
        if not groups:
            raise PlanError(f"plan_for: the {family} family has no {blocks} blocks", fix="use blocks='all'")
        plan = TensorizationPlan(tuple(groups))
        try:
            plan.resolve(model)
        except PlanError as error:
            raise PlanError(
                f"plan_for: {type(model).__name__} has the parameter names of the {family} family, but not its shapes",
                got=str(error),
                fix="write a TensorizationPlan of Group and Rule objects for this model",
            ) from error
        return plan
    raise NoMatchError(
        f"plan_for: {type(model).__name__} belongs to no known family",
        expected=f"the parameter names of {', '.join(FAMILIES)}",
        got=f"names such as {', '.join(list(shapes)[:3]) or 'none'}",
        fix="write a TensorizationPlan of Group and Rule objects",
    )


def _group(template: GroupTemplate, blocks: Blocks, shapes: dict[str, tuple[int, ...]]) -> Group | None:
    rules = [_rule(part, _chunks(part, shapes)) for part in template.parts if blocks in ("all", part.block)]
    return Group(template.name, template.modes, tuple(rules), template.partition) if rules else None


def _rule(part: Part, chunks: int = 1) -> Rule:
    role = part.role
    if isinstance(role, str) and role.endswith("*"):
        role = tuple(f"{role[:-1]}{number}" for number in range(chunks))
    return Rule(part.param, part.pattern, role=role)


def _chunks(part: Part, shapes: dict[str, tuple[int, ...]]) -> int:
    """Return how many square chunks the first parameter of a part holds."""
    rule = _rule(part)
    shape = next(shape for name, shape in shapes.items() if rule.match(name) is not None)
    return max(shape) // min(shape)
