"""A plan without a table of families: what has one shape is stacked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from ...errors import PlanError
from ...model.parameters import base_parameters, own_parameters, owner_of
from ...model.sides import is_transposed
from ...model.stacking import repeated, stackable
from ..plan import TensorizationPlan
from ..rules import Coordinate, Group, Rule
from .concrete import Form, concrete_rules

_KERNELS = {2: "", 3: " k", 4: " kh kw", 5: " kd kh kw"}
"""The axes of a kernel's positions, by the number of its dimensions."""


def plan_by_shape(model: nn.Module) -> TensorizationPlan:
    """Return a plan that stacks the parameters of any model that have one shape.

    Every matrix or kernel of which there are at least two of a shape is in a tensor: `matrices` for linear layers and
    1 x 1 convolutions, `kernels2d` for larger ones of images, one tensor for each shape. The rest stays out;
    `resolved.left_out` says why.

    Args:
        model: The model; it is only read.

    Returns:
        The plan, which resolves on the model.

    Raises:
        PlanError: The model has no two matrices or kernels of one shape.

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
    named = own_parameters(model)
    kept = {name: shape for name, shape in repeated(stackable(model)).items() if len(shape) in _KERNELS}
    by_name = _templates(named)
    templates = dict.fromkeys(by_name[name] for name in kept)
    groups = []
    for ndim, kernel in _KERNELS.items():
        rules = []
        waiting = {name for name, shape in kept.items() if len(shape) == ndim}
        for template in templates:
            role = template.replace("{layer}", "*")
            fixed: Mapping[str, Coordinate] = {} if "{layer}" in template else {"layer": 0}
            forms = {
                name: _form(model, name, parameter, role, kernel) if name in waiting else None
                for name, parameter in base_parameters(model).items()
                if Rule(template, "d").match(name) is not None
            }
            waiting -= forms.keys()  # a template may match more than it was made from
            rules += concrete_rules(template, forms, fixed)
        name = "matrices" if ndim == 2 else f"kernels{ndim - 2}d"
        groups += [Group(name, f"(layer role) in out{kernel}", tuple(rules), f"in out{kernel}")] if rules else []
    if not groups:
        raise PlanError(
            f"plan_by_shape: {type(model).__name__} has no two matrices or kernels of one shape",
            got=f"{len(named)} parameters",
            fix="write a TensorizationPlan; a tensor may hold a single matrix",
        )
    return TensorizationPlan(tuple(groups))


def _templates(names: Iterable[str]) -> dict[str, str]:
    """Give every name a template: of its numbers, the one that runs through most values becomes `{layer}`."""
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
