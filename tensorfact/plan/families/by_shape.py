"""`plan_by_shape`: a plan for any model, which stacks weights of equal shape."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

from ...errors import PlanError
from ...model.parameters import base_parameters, own_parameters, owner_of
from ...model.sides import is_transposed
from ...model.stacking import repeated, stackable
from ..names import ParameterNames
from ..plan import TensorizationPlan
from ..rules import Coordinate, Group, Rule
from .concrete import Form, concrete_rules

_KERNELS = {2: "", 3: " k", 4: " kh kw", 5: " kd kh kw"}
"""The axes of a kernel's positions, by the number of dimensions of the parameter."""


def plan_by_shape(model: nn.Module) -> TensorizationPlan:
    """Return a plan that stacks a model's weights of equal shape; the model need not be of a known family.

    Every matrix or kernel that shares its shape with another is in a tensor, one tensor per shape: group `matrices`
    holds linear layers and 1 x 1 convolutions, `kernels2d` the larger kernels of 2-d convolutions.
    `resolved.left_out` lists all other parameters with a reason. Among them are parameters of three or more dimensions
    that belong to no convolution, such as the stacked experts of a mixture: their outputs are not known, so they need
    rules of their own.

    Args:
        model: The model; it is only read.

    Returns:
        The plan, which resolves on the model.

    Raises:
        PlanError: No two matrices or kernels of the model have the same shape.

    Examples:
        >>> import torch
        >>> from tensorfact import plan_by_shape
        >>> model = torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(3)), torch.nn.Linear(8, 2))
        >>> resolved = plan_by_shape(model).resolve(model)
        >>> [(tensor.name, tensor.shape) for tensor in resolved.tensors]
        [('matrices[8,8]', (3, 8, 8))]
        >>> print(resolved.left_out[-2].parameter, resolved.left_out[-2].reason)
        3.weight the only one of its shape
    """
    kept = {name: shape for name, shape in repeated(stackable(model)).items() if len(shape) in _KERNELS}
    if not kept:
        raise PlanError(
            f"plan_by_shape: no two matrices or kernels of {type(model).__name__} have the same shape",
            got=f"{len(own_parameters(model))} parameters",
            fix="write a TensorizationPlan; its tensors may hold a single matrix",
        )
    members: dict[int, list[str]] = {ndim: [] for ndim in _KERNELS}
    for name, shape in kept.items():
        members[len(shape)].append(name)
    groups = {"matrices" if ndim == 2 else f"kernels{ndim - 2}d": names for ndim, names in members.items()}
    return _stacking(model, groups, dict(zip(groups, _KERNELS.values(), strict=True)))


def plan_of_matrices(model: nn.Module, groups: Mapping[str, Sequence[str]]) -> TensorizationPlan:
    """Return a plan that covers some matrices of a model, those of equal shape in one tensor of their group.

    Args:
        model: The model; it is only read.
        groups: Names of matrices by the name of their group.

    Examples:
        >>> import torch
        >>> from tensorfact.plan.families.by_shape import plan_of_matrices
        >>> model = torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(3)), torch.nn.Linear(8, 2))
        >>> plan = plan_of_matrices(model, {"some": ["0.weight", "2.weight", "3.weight"]})
        >>> [(tensor.name, tensor.shape) for tensor in plan.resolve(model).tensors]
        [('some[8,2]', (1, 8, 2)), ('some[8,8]', (2, 8, 8))]
    """
    return _stacking(model, groups, dict.fromkeys(groups, ""))


def _stacking(model: nn.Module, members: Mapping[str, Sequence[str]], kernels: Mapping[str, str]) -> TensorizationPlan:
    """Return a plan of parameters by group, with as few rules as name no others."""
    every = base_parameters(model)
    names = ParameterNames(every)
    wanted = [name for each in members.values() for name in each]
    by_name = _templates(dict.fromkeys([*own_parameters(model), *wanted]))
    matches = {
        template: [name for name, _ in names.matching(Rule(template, "d"))]
        for template in dict.fromkeys(by_name[name] for name in wanted)
    }
    groups = []
    for group, own in members.items():
        kernel, rules, waiting = kernels[group], [], set(own)
        for template, matching in matches.items():
            role = template.replace("{layer}", "*")
            fixed: Mapping[str, Coordinate] = {} if "{layer}" in template else {"layer": 0}
            forms = {
                name: _form(model, name, every[name], role, kernel) if name in waiting else None for name in matching
            }
            waiting -= forms.keys()  # a template may match more names than it was made from
            rules += concrete_rules(template, forms, fixed)
        groups += [Group(group, f"(layer role) in out{kernel}", tuple(rules), f"in out{kernel}")] if rules else []
    return TensorizationPlan(tuple(groups))


def _templates(names: Iterable[str]) -> dict[str, str]:
    """Return a template for every name: of its numbers, the one with the most values becomes `{layer}`."""
    alike: dict[tuple[str, ...], list[list[str]]] = {}
    for name in names:
        words = name.split(".")
        alike.setdefault(tuple("*" if word.isdecimal() else word for word in words), []).append(words)
    templates = {}
    for key, members in alike.items():
        numbers = [at for at, word in enumerate(key) if word == "*"]
        layer = max(numbers, key=lambda at: len({words[at] for words in members}), default=None)
        for words in members:
            marked = ["{layer}" if at == layer else word for at, word in enumerate(words)]
            templates[".".join(words)] = ".".join(marked)
    return templates


def _form(model: nn.Module, name: str, parameter: Tensor, role: str, kernel: str) -> Form:
    matrix = "in out" if is_transposed(*owner_of(model, name)) else "out in"
    ones = " 1" * (parameter.dim() - 2 - len(kernel.split()))
    return Form(f"{matrix}{kernel}{ones}", role.removesuffix(".weight"))
