"""`plan_for`: the plan for a model of a known family."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, get_args

from torch import nn

from ...common.checks import one_of
from ...errors import NoMatchError, PlanError
from ...model.parameters import base_parameters, layer_of_peft, own_parameters
from ...model.stacking import repeated, weights
from ..notation import format_axes, parse_axes
from ..plan import TensorizationPlan
from ..resolve import resolve
from ..rules import Group, Rule
from .by_shape import plan_by_shape
from .concrete import Form, concrete_rules
from .family import Block, Family, Fold, Part
from .heads import HeadLabels, head_labels
from .known import FAMILIES
from .layout import chunks, towers

Blocks = Literal["all", Block]
Mlp = Literal["chunks", "whole"]
Shapes = Mapping[str, tuple[int, ...]]

_EXAMPLES = ("vit", "swin", "resnet", "bert", "gpt2", "llama", "t5")
"""Families that an error names."""


def plan_for(model: nn.Module, blocks: Blocks | Sequence[Blocks] = "all", *, mlp: Mlp = "chunks") -> TensorizationPlan:
    """Return the plan of a known model family: one 12L x d x d tensor for a ViT, as in FacT; one per stage for Swin.

    A model that holds several towers (CLIP, T5, a vision encoder beside a language model) gets the groups of each.

    Args:
        model: A model of one of `FAMILIES`; it is only read.
        blocks: Which weights to fold: `all`, or one or several of `attention`, `mlp`, `conv`, `depthwise` and
            `experts`. `all` is without depthwise kernels and without the experts of a mixture; add them with
            `blocks=["all", "depthwise"]` or `["all", "experts"]`.
        mlp: Cut a d x 4d matrix into d x d `chunks`, as in FacT, or keep it `whole`, in a tensor of its own. A matrix
            whose width is not a multiple of d stays whole either way.

    Returns:
        The plan, which resolves on the model.

    Raises:
        NoMatchError: The model is not of a known family; use `plan_by_shape`.
        PlanError: The family has none of these blocks, or the model has its parameter names but other shapes.

    Source: the tensorization of Jie & Deng, FacT, AAAI 2023.

    Examples:
        >>> from tensorfact import plan_for
        >>> from tensorfact.lab import nano
        >>> plan = plan_for(nano(), blocks="attention")
        >>> [rule.param for rule in plan.groups[0].rules]
        ['blocks.{layer}.attn.qkv.weight', 'blocks.{layer}.attn.proj.weight']
        >>> [tensor.shape for tensor in plan_for(nano(), mlp="whole").resolve(nano()).tensors]
        [(24, 96, 96), (12, 96, 384)]
    """
    wanted = _wanted(blocks)
    one_of(mlp, get_args(Mlp), "plan_for: mlp", PlanError)
    shapes = {name: tuple(parameter.shape) for name, parameter in own_parameters(model).items()}
    given = _Given(model, shapes, mlp)
    failed: list[tuple[str, set[str], PlanError]] = []
    found: list[tuple[Family, str]] = []
    claimed: set[str] = set()
    for family in FAMILIES.values():
        for prefix in towers(family, shapes):
            claims = {name for part in family.parts for name in _matching(part, prefix, shapes)}
            if claims & claimed:
                continue
            try:
                resolve(_groups(family, prefix, "", given, set(get_args(Block))), model)
            except PlanError as error:
                failed.append((family.name, claims, error))
                continue
            found.append((family, prefix))
            claimed |= claims
    sizes = {name: math.prod(shape) for name, shape in repeated(weights(model)).items()}
    covered = sum(size for name, size in sizes.items() if name in claimed)
    missed = [(name, error) for name, claims, error in failed if not claims <= claimed]
    # refuse a partial plan: a family whose shapes do not fit, or less than two thirds of the weights of equal shape
    if missed or not found or 3 * covered < 2 * sum(sizes.values()):
        raise _refusal(model, missed, [family.name for family, _ in found]) from (missed[0][1] if missed else None)
    names = [prefix.strip(".").replace(".", "_") if len(found) > 1 else "" for _, prefix in found]
    groups = [
        group
        for (family, prefix), name in zip(found, names, strict=True)
        for group in _groups(family, prefix, name, given, wanted)
    ]
    if not groups:
        families = ", ".join(dict.fromkeys(family.name for family, _ in found))
        raise PlanError(f"plan_for: {families} has no {', '.join(sorted(wanted))} blocks", fix="blocks='all'")
    return TensorizationPlan(tuple(groups))


def _refusal(model: nn.Module, missed: list[tuple[str, PlanError]], found: list[str]) -> PlanError:
    kind = type(model).__name__
    if (layer := layer_of_peft(model)) is not None:
        return NoMatchError(
            f"plan_for: {kind} holds adapters of peft already",
            got=f"a layer of peft at {layer!r}",
            cause="get_peft_model or inject_adapter_in_model was called before",
            fix="model = model.merge_and_unload() or model = model.unload() on the model of peft first",
        )
    fix = _by_shape(model)
    if missed:
        family, error = missed[0]
        return PlanError(
            f"plan_for: {kind} has the parameter names of the {family} family, but other shapes: {error}", fix=fix
        )
    got = f"names such as {', '.join(list(base_parameters(model))[:3]) or 'none'}"
    if found:
        got += f"; only a small part of the model matches {', '.join(dict.fromkeys(found))}"
    return NoMatchError(
        f"plan_for: {kind} belongs to no known family",
        expected=f"the parameter names of one of {len(FAMILIES)} families, such as {', '.join(_EXAMPLES)}",
        got=got,
        fix=fix,
    )


def _by_shape(model: nn.Module) -> str:
    """Return what to do instead of `plan_for`: what `plan_by_shape` would fold, if it would."""
    try:
        resolved = plan_by_shape(model).resolve(model)
    except PlanError:
        return "write a TensorizationPlan"
    shapes = [" x ".join(map(str, tensor.shape)) for tensor in resolved.tensors]
    shown = ", ".join(shapes[:3]) + (", ..." if len(shapes) > 3 else "")
    count = f"{len(resolved.parameters)} parameters, {math.floor(100 * resolved.share)} % of the weights,"
    number = f"{len(shapes)} tensor{'s' * (len(shapes) > 1)}"
    return f"plan_by_shape(model), which folds {count} into {number} ({shown})"


def _wanted(blocks: Blocks | Sequence[Blocks]) -> set[str]:
    named = [blocks] if isinstance(blocks, str) else blocks
    known = ("all", *get_args(Block))
    if not isinstance(named, (list, tuple)) or not named or not all(name in known for name in named):
        raise PlanError("plan_for: blocks", expected=f"one or several of {known}", got=repr(blocks), fix="blocks='all'")
    return {*named, *(("attention", "mlp", "conv") if "all" in named else ())}


class _Given(NamedTuple):
    """What `plan_for` was called with: the model, the shapes of its parameters, and what to do with an MLP."""

    model: nn.Module
    shapes: Shapes
    mlp: Mlp


def _groups(family: Family, prefix: str, name: str, given: _Given, wanted: set[str]) -> list[Group]:
    """Return the groups of a family below a prefix, named after the tower if it has a name."""
    return [
        group
        for fold in family.folds
        for group in _fold(fold, prefix, f"{name}_{fold.name}" if name else fold.name, given, wanted)
    ]


def _fold(fold: Fold, prefix: str, name: str, given: _Given, wanted: set[str]) -> list[Group]:
    """Return a fold's group, and one more for each block whose wide matrices stay whole."""
    found = {part: _matching(part, prefix, given.shapes) for part in fold.parts}
    parts = [part for part in fold.parts if part.block in wanted]
    cuts = [bool(chunks(p, shape)) for p in parts if p.is_wide for shape in found[p].values() if _fits(p, shape)]
    whole = given.mlp == "whole" or not all(cuts)
    heads = {part: _heads(part, found[part], given.model) for part in fold.parts if part.heads}
    head = {"head": next(iter(heads.values())).keys} if heads else None
    members: dict[tuple[str, str, str | None], list[Part]] = {}
    for part in parts:
        beside = (
            (f"{name}_{part.block}", *_whole(fold)) if whole and part.is_wide else (name, fold.modes, fold.partition)
        )
        members.setdefault(beside, []).append(part)
    groups = []
    for (group, modes, partition), own in members.items():
        forms = {
            part: {
                n: None if _is_dead(part, prefix, n) else _form(part, shape, whole, heads.get(part))
                for n, shape in found[part].items()
            }
            for part in own
        }
        rules = [rule for part in own for rule in concrete_rules(prefix + part.param, forms[part])]
        sizes = head if "head" in itertools.chain(*parse_axes(modes, name)) else None
        groups += [Group(group, modes, tuple(rules), partition, sizes)] if rules else []
    return groups


def _heads(part: Part, found: Shapes, model: nn.Module) -> HeadLabels:
    """Return the labels of a part that follows the heads, which all layers have alike."""
    assert part.heads is not None
    labels = {head_labels(model, part, part.heads, name, shape) for name, shape in found.items()}
    if len(labels) > 1:
        raise PlanError(
            f"{part.param!r}: the layers have different numbers of heads",
            got=", ".join(f"{len(each.roles) - 2} queries for each of {each.keys} keys" for each in sorted(labels)),
            fix="write a TensorizationPlan",
        )
    return labels.pop()


def _whole(fold: Fold) -> tuple[str, str | None]:
    """Return modes and partition for a fold's wide matrices if they stay whole: `hid` in place of the outputs."""
    renamed = {"out": ("hid",), "head": (), "dim": ("hid",)}
    modes = (
        tuple(new for axis in dim for new in renamed.get(axis, (axis,))) for dim in parse_axes(fold.modes, fold.name)
    )
    partition = fold.partition and " ".join(
        new for axis in fold.partition.split() for new in renamed.get(axis, (axis,))
    )
    return format_axes(tuple(modes)), partition


def _matching(part: Part, prefix: str, shapes: Shapes) -> Shapes:
    rule = Rule(prefix + part.param, "d")
    return {name: shape for name, shape in shapes.items() if rule.match(name) is not None}


def _is_dead(part: Part, prefix: str, name: str) -> bool:
    return bool(part.dead) and (Rule(prefix + part.param, "d").match(name) or {}).get("layer") in part.dead


def _fits(part: Part, shape: tuple[int, ...]) -> bool:
    """Return whether a part's pattern fits this shape: larger kernels if it has kernel dimensions, else matrices."""
    dims = parse_axes(part.pattern, part.param)
    ones = all(size == 1 for size, axes in zip(shape, dims, strict=False) if not axes)
    is_kernel = math.prod(shape[2:]) > 1
    return ones and len(shape) >= len(dims) and is_kernel == (len(dims) > 2)


def _form(part: Part, shape: tuple[int, ...], whole: bool, heads: HeadLabels | None) -> Form | None:
    if not _fits(part, shape):
        return None
    dims, role = parse_axes(part.pattern, part.param), part.role
    if heads:
        role = heads.roles
    elif part.is_wide and whole:  # the wide dimension is `hid`, the other `in`, whichever way the matrix maps
        labelled = ("role", "hid") if len(part.roles) > 1 else ("hid",)
        dims = tuple(labelled if "role" in dim else ("in",) for dim in dims)
        role = part.roles if len(part.roles) > 1 else part.roles[0]
    elif len(part.roles) > 1 and not part.is_wide and not chunks(part, shape):
        raise PlanError(
            f"{part.param!r} {shape} cannot be cut into {', '.join(part.roles)} of equal size",
            cause="grouped-query attention in one matrix",
            fix="write a TensorizationPlan",
        )
    elif part.is_wide:
        role = tuple(f"{label}{number}" for label in part.roles for number in range(chunks(part, shape)))
    return Form(format_axes((*dims, *[()] * (len(shape) - len(dims)))), role)
