"""`TensorizationPlan`: groups as frozen data, to and from JSON. A plan knows no model until it is resolved."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping

from torch import nn

from ..common.aliases import JsonObject
from ..common.checks import duplicate, quoted
from ..errors import PlanError, nearest
from .edit import arrange, select, split_axis, swap
from .resolve import resolve
from .rules import Coordinate, Group, Rule, group_to_dict
from .tensors import ResolvedPlan


@dataclasses.dataclass(frozen=True)
class TensorizationPlan:
    """Which parameters of a model fold into which tensors.

    Args:
        groups: The groups; each makes one tensor, or one for every value of its partition.

    Raises:
        PlanError: There is no group, or two groups have the same name.

    Examples:
        >>> plan = TensorizationPlan([
        ...     Group("proj", "layer in out", [Rule("blocks.{layer}.attn.proj.weight", "out in")])
        ... ])
        >>> TensorizationPlan.from_json(plan.to_json()) == plan
        True
    """

    groups: tuple[Group, ...]

    def __post_init__(self) -> None:
        given: object = self.groups
        groups = tuple(self.groups) if isinstance(self.groups, (list, tuple)) else ()
        object.__setattr__(self, "groups", groups)
        if not groups or not all(isinstance(group, Group) for group in groups):
            raise PlanError(
                "TensorizationPlan: groups",
                expected="a list of at least one Group",
                got=quoted(given),
                fix="TensorizationPlan([Group(...)])",
            )
        if twice := duplicate(group.name for group in groups):
            raise PlanError(f"two groups are named {quoted(twice)}", fix="give each group its own name")

    def resolve(self, model: nn.Module) -> ResolvedPlan:
        """Resolve the plan on a model: find the tensors, their sizes and the slice of each parameter.

        Args:
            model: A model with the parameters that the rules name; it is only read.

        Returns:
            The resolved plan; printed, it is a table of which parameter fills which slice.

        Raises:
            PlanError: The plan does not fit the model; the message names the rule, parameter, shape and fix.

        Examples:
            >>> from tensorfact import TensorTrain, plan_for
            >>> from tensorfact.lab import nano
            >>> model = nano()
            >>> plan_for(model).resolve(model).num_parameters(TensorTrain(rank=8))
            6144
        """
        return resolve(self.groups, model)

    def split(self, axis: str, into: Mapping[str, int | None]) -> TensorizationPlan:
        """Return a plan with an axis split into several; if the axis is a mode, each new axis becomes one.

        Args:
            axis: An axis that runs along the parameters, such as `in`.
            into: The new axes and their sizes, the last running fastest; at most one size may be None and is inferred.

        Raises:
            PlanError: No group has the axis, or the new axes or sizes are invalid.

        Examples:
            >>> from tensorfact import plan_for
            >>> from tensorfact.lab import nano
            >>> plan = plan_for(nano(), "attention").split("in", {"head": 3, "dim": None})
            >>> plan.groups[0].modes, plan.resolve(nano()).tensors[0].shape
            ('(layer role) head dim out', (24, 3, 32, 96))
        """
        return TensorizationPlan(split_axis(self.groups, axis, into))

    def only(self, **chosen: Coordinate | Iterable[Coordinate]) -> TensorizationPlan:
        """Return a plan with only some labels, such as the roles q and v; the other weights stay frozen.

        Args:
            chosen: The labels to keep, by axis: `role=["q", "v"]`.

        Raises:
            PlanError: The plan does not have an axis or label, or no label is given.

        Examples:
            >>> from tensorfact import plan_for
            >>> from tensorfact.lab import nano
            >>> plan_for(nano()).only(role=["q", "v"]).groups[0].rules
            (Rule('blocks.{layer}.attn.qkv.weight', '(role out) in', role=['q', None, 'v']),)
        """
        return TensorizationPlan(select(self.groups, chosen))

    def swapped(self, first: str, second: str, **chosen: Coordinate | Iterable[Coordinate]) -> TensorizationPlan:
        """Return a plan in which some parameters lie transposed: two axes are swapped in their rules' patterns.

        Args:
            first: An axis that runs along the parameters, such as `in`.
            second: Another such axis; both need the same size where the parameters share a tensor with others.
            chosen: Labels of the rules to change, by axis: `role=["down0", "down1"]`; by default all rules.

        Raises:
            PlanError: The plan does not have an axis or label, or only some of a rule's labels are chosen.

        Examples:
            >>> from tensorfact import plan_for
            >>> from tensorfact.lab import nano
            >>> plan = plan_for(nano(), "attention").swapped("in", "out", role="o")
            >>> [rule.pattern for rule in plan.groups[0].rules]
            ['(role out) in', 'in out']
        """
        return TensorizationPlan(swap(self.groups, first, second, chosen))

    @classmethod
    def joined(cls, plans: Mapping[str, TensorizationPlan]) -> TensorizationPlan:
        """Join several plans into one.

        Args:
            plans: Plans by the name that their group gets. If a plan has several groups, the name becomes a prefix,
                `NAME_GROUP`; under the key `""`, groups keep their names.

        Raises:
            PlanError: Two groups get the same name.

        Examples:
            >>> from tensorfact import TensorizationPlan, plan_for
            >>> from tensorfact.lab import nano
            >>> plan = plan_for(nano())
            >>> parts = {"qkv": plan.only(role=["q", "k", "v"]), "o": plan.only(role="o")}
            >>> [tensor.name for tensor in TensorizationPlan.joined(parts).resolve(nano()).tensors]
            ['qkv', 'o']
        """
        right = isinstance(plans, Mapping) and all(isinstance(plan, cls) for plan in plans.values())
        if not right:
            raise PlanError(
                "joined", expected="a dict of plans by name", got=quoted(plans), fix="{'a': plan, 'b': other}"
            )
        groups: list[Group] = []
        for name, plan in plans.items():
            if not name:
                groups += plan.groups
            elif len(plan.groups) == 1:
                groups.append(dataclasses.replace(plan.groups[0], name=name))
            else:
                groups += [dataclasses.replace(group, name=f"{name}_{group.name}") for group in plan.groups]
        return cls(tuple(groups))

    def arranged(self, modes: str) -> TensorizationPlan:
        """Return a plan whose tensors have other modes, made of the same axes.

        Args:
            modes: The new modes as an axis string: `"in layer role out"`.

        Raises:
            PlanError: A group's rules do not have these axes.

        Examples:
            >>> from tensorfact import plan_for
            >>> from tensorfact.lab import nano
            >>> plan = plan_for(nano(), "attention").arranged("in layer role out")
            >>> plan.resolve(nano()).tensors[0].shape
            (96, 6, 4, 96)
        """
        return TensorizationPlan(arrange(self.groups, modes))

    def to_json(self) -> str:
        """Return the plan as compact JSON."""
        return json.dumps({"groups": [group_to_dict(group) for group in self.groups]}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> TensorizationPlan:
        """Read a plan from JSON.

        Args:
            text: JSON in the form that `to_json` writes.

        Returns:
            The plan.

        Raises:
            PlanError: The text is not JSON, has unknown or missing keys, or does not describe a valid plan.
        """
        try:
            data = json.loads(text)
        except (ValueError, TypeError, RecursionError) as error:
            raise PlanError(
                "the plan is not valid JSON", got=str(error)[:200], fix="pass the text that to_json() returns"
            ) from error
        plan = _keys(data, "plan", {"groups": list})
        return cls(tuple(_group(group) for group in plan["groups"]))


def _group(data: object) -> Group:
    keys = {"name": str, "modes": str, "rules": list}
    group = _keys(data, "group", keys, {"partition": str, "axis_sizes": dict, "tied": str, "sides": dict})
    return Group(**{**group, "rules": tuple(_rule(rule) for rule in group["rules"])})


def _rule(data: object) -> Rule:
    rule = _keys(data, "rule", {"param": str, "pattern": str}, {"coordinates": dict})
    coordinates = rule.get("coordinates", {})
    if taken := coordinates.keys() & {"self", "param", "pattern"}:
        raise PlanError(
            f"rule {quoted(rule['param'])}: an axis cannot be named {sorted(taken)[0]!r}", fix="rename the axis"
        )
    return Rule(rule["param"], rule["pattern"], **coordinates)


def _keys(
    data: object, owner: str, required: Mapping[str, type], optional: Mapping[str, type] | None = None
) -> JsonObject:
    """Return a JSON object after checking its keys and the types of its values."""
    known = {**required, **(optional or {})}
    if not isinstance(data, dict):
        raise PlanError(f"{owner} in JSON", expected=f"an object with {', '.join(known)}", got=quoted(data))
    for key in data.keys() - known.keys():
        raise PlanError(
            f"{owner} in JSON has an unknown key",
            expected=f"keys {', '.join(known)}",
            got=f"{quoted(key)}{nearest(key, known)}",
            fix=f"rename or remove {quoted(key)}",
        )
    for key, kind in known.items():
        if (key in data or key in required) and not isinstance(data.get(key), kind):
            raise PlanError(
                f"{owner} in JSON: {key!r}", expected=f"a {kind.__name__}", got=quoted(data.get(key, "nothing"))
            )
    return dict(data)
