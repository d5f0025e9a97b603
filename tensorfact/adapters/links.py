"""The link between factors and a model: every adapted parameter's increment, its owners and its route."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import nn

from ..errors import AdaptError
from ..formats import Format
from ..model.parameters import base_parameters, owners_of
from ..network import Dropout
from ..plan import ResolvedPlan
from .factors import Factors
from .increments import ShiftedIncrement, increments
from .layers import Slot, Switch, attach, detach, is_attached, takes_activation

Route = Literal["auto", "activation", "weight"]


class Links:
    """Fresh factors for the tensors of a plan, and how each parameter of a model takes its part of them.

    Nothing changes on the model before `attach`.

    Args:
        model: The model.
        resolved: The plan, resolved on it.
        formats: Formats by tensor name.
        scales: Scales by tensor name.
        switch: Whether the increments are added.
        dropout: As in `adapt`.
        route: As in `adapt`.
        optimize: As in `adapt`.
        generator: What draws the random cores.
    """

    def __init__(
        self,
        model: nn.Module,
        resolved: ResolvedPlan,
        formats: Mapping[str, Format],
        scales: Mapping[str, float],
        switch: Switch,
        *,
        dropout: Dropout,
        route: Route,
        optimize: Any,
        generator: torch.Generator | None,
    ) -> None:
        parameters = base_parameters(model)
        self.factors: dict[str, Factors] = {}
        self.starts: dict[str, Factors] = {}
        self._optimize = optimize
        self.slots: dict[str, Slot] = {}
        for tensor in resolved.tensors:
            network = tensor.network(formats[tensor.name])
            first = parameters[tensor.views[0].parameter]
            dtypes = [parameters[view.parameter].dtype for view in tensor.views]
            dtype = max((torch.promote_types(d, torch.float32) for d in dtypes), key=lambda d: d.itemsize)
            given = formats[tensor.name].given(tensor.modes)
            dropout.masked_core(network)  # an error where there is nothing to drop
            options: dict[str, Any] = {"dtype": dtype, "device": first.device, "generator": generator}
            factors = Factors(network, tensor.modes, tensor.extents, given, **options)
            self.factors[tensor.name] = factors
            for name, increment in increments(tensor, factors, optimize=optimize, dropout=dropout).items():
                self.slots[name] = Slot(increment, scales[tensor.name], switch)
        self.owners = owners_of(model, self.slots)
        self.activation = {name for name in self.slots if self._takes_activation(name, route)}

    def subtract_start(self, resolved: ResolvedPlan) -> None:
        """From every increment subtract what it is now: that of a frozen copy of the factors.

        Args:
            resolved: The plan, resolved on the model.
        """
        for tensor in resolved.tensors:
            start = copy.deepcopy(self.factors[tensor.name]).requires_grad_(False)
            self.starts[tensor.name] = start
            for name, increment in increments(tensor, start, optimize=self._optimize).items():
                self.slots[name].increment = ShiftedIncrement(self.slots[name].increment, increment)

    def attach(self) -> None:
        """Adapt the owners' layers."""
        modules: dict[nn.Module, dict[str, str]] = {}
        for name, module, attribute in self._places():
            modules.setdefault(module, {})[attribute] = name
        for module, names in modules.items():
            slots = {attribute: self.slots[name] for attribute, name in names.items()}
            attach(module, slots, activation=names.get("weight") in self.activation)

    def detach(self) -> None:
        """Undo `attach`; layers that are not adapted stay as they are."""
        for _, module, _ in self._places():
            detach(module)

    def check_intact(self) -> None:
        """Raise unless every layer is as `attach` left it, so that `detach` can undo it.

        Raises:
            AdaptError: A layer's class was changed since.
        """
        for _, module, attribute in self._places():
            if not is_attached(module):
                raise AdaptError(
                    f"{type(module).__name__}, which owns {attribute!r}, was changed after it was adapted",
                    cause="a parametrization was registered on it",
                    fix="undo that, for instance by torch.nn.utils.parametrize.remove_parametrizations",
                )

    def forget(self) -> None:
        """Form anew what is formed of the factors."""
        for slot in self.slots.values():
            slot.increment.forget()

    def _places(self) -> Iterable[tuple[str, nn.Module, str]]:
        return ((name, module, at) for name, owners in self.owners.items() for module, at in owners)

    def _takes_activation(self, name: str, route: Route) -> bool:
        owners, kind = self.owners[name], self.slots[name].increment.kind
        able = all(takes_activation(module, attribute) for module, attribute in owners)
        if route == "activation" and not able:
            module, attribute = owners[0]
            raise AdaptError(
                f"route='activation' on {name!r}",
                expected="the weight of a linear layer",
                got=f"{attribute!r} of {type(module).__name__}",
                fix="use route='auto'",
            )
        return able and (route == "activation" or (route == "auto" and kind.apply_is_faster))
