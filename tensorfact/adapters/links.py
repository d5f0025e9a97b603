"""Links between factors and a model: the increment, owning modules and route of each adapted parameter."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..errors import AdaptError
from ..formats import Format
from ..formats.common import zero_core
from ..model.parameters import base_parameters, owners_of
from ..network import Dropout
from ..plan import ResolvedPlan, TensorGroup
from ..storage import AdapterState
from .explain import Planned
from .factors import Factors
from .increments import Increment, Passes, ShiftedIncrement, increments
from .increments.products import LinearProduct
from .layers import attach, detach, is_attached, product_of
from .loading import Loading
from .options import AdaptOptions, Route
from .rates import inputs_of, rates, rounded, weights_rms
from .slots import Slot, Switch, summed
from .stored import confirm, refuse_merged


class Links:
    """Fresh factors for the tensors of a plan, and the increment of each adapted parameter.

    The model does not change before `attach`.

    Args:
        model: The base model.
        resolved: The plan, resolved on the model.
        formats: Formats by tensor name.
        scales: Scales by tensor name.
        switch: Whether the increments are added.
        options: The other options of `adapt`.
        passes: The passes through the model; by default new ones, to be watched.
    """

    _made: type[Increment] = Increment

    def __init__(
        self,
        model: nn.Module,
        resolved: ResolvedPlan,
        formats: Mapping[str, Format],
        scales: Mapping[str, float],
        switch: Switch,
        options: AdaptOptions,
        passes: Passes | None = None,
    ) -> None:
        self.passes = passes or Passes()
        self.model, self.resolved, self.formats, self.scales = model, resolved, dict(formats), dict(scales)
        self.switch, self.options = switch, options
        self.factors: dict[str, Factors] = {}
        self.starts: dict[str, Factors] = {}
        self.derived: set[str] = set()
        """Names of the tensors whose scale is derived; that of the others was given."""
        self.slots: dict[str, Slot] = {}
        self._own: dict[str, Increment] = {}
        self.owners = owners_of(model, resolved.parameters)  # refuses what cannot be adapted
        self.loading = Loading(self._before_loading)
        parameters, generator = base_parameters(model), options.generator()
        for tensor in resolved.tensors:
            options.dropout.masked_core(tensor.network(formats[tensor.name]))  # raises if there is nothing to drop
            stored = [parameters[view.parameter] for view in tensor.views]
            dtype = max((torch.promote_types(p.dtype, torch.float32) for p in stored), key=lambda d: d.itemsize)
            factors = self._factors(tensor, dtype, stored[0].device, generator)
            self.factors[tensor.name] = factors
            for name, increment in self._increments(tensor, factors, options.dropout).items():
                self._own[name] = increment
                self.slots[name] = Slot(name, increment, scales[tensor.name], switch)
        self.activation = {name for name in self.slots if self._takes_activation(name, options.route)}

    def _factors(
        self, tensor: TensorGroup, dtype: torch.dtype, device: torch.device, generator: torch.Generator
    ) -> Factors:
        """Return fresh factors for a tensor."""
        format = self.formats[tensor.name]
        return Factors(
            tensor.network(format),
            tensor.modes,
            tensor.extents,
            format.given(tensor.modes),
            dtype=dtype,
            device=device,
            generator=generator,
        )

    def _increments(
        self, tensor: TensorGroup, factors: Factors, dropout: Dropout | None = None
    ) -> Mapping[str, Increment]:
        """Plan the increments of a tensor."""
        owners = {view.parameter: self.owners[view.parameter][0] for view in tensor.views}
        options = self.options
        return increments(
            tensor, factors, options.optimize, dropout, self.passes, self._made, owners=owners, route=options.route
        )

    def with_cores(self, state: AdapterState) -> Links:
        """Return links to the same parameters with other factors; frozen cores stay frozen.

        Args:
            state: The new formats and cores.
        """
        options = dataclasses.replace(self.options, seed=None)
        links = Links(
            self.model, self.resolved, state.description.formats, self.scales, self.switch, options, self.passes
        )
        links.derived = set(self.derived)
        for name, factors in links.factors.items():
            factors.assign(state.cores(name))
            before = self.factors[name].named_cores()
            everything = not any(core.requires_grad for core in before.values())
            for core, value in factors.named_cores().items():
                if everything or (core in before and not before[core].requires_grad):
                    value.requires_grad_(False)
        return links

    def rates(self) -> dict[str, float]:
        """Return the multiple of the learning rate for each trained core, by `TENSOR.CORE`, to three digits."""
        found = {tensor.name: self._rates(tensor) for tensor in self.resolved.tensors}
        return {f"{name}.{core}": float(f"{rate:.3g}") for name, of in found.items() for core, rate in of.items()}

    def _rates(self, tensor: TensorGroup) -> dict[str, float]:
        size, inputs = weights_rms(self.model, tensor), inputs_of(tensor)
        return rates(self.factors[tensor.name], self.scales[tensor.name], size, inputs)

    def balance(self, names: Iterable[str]) -> None:
        """Divide the cores of some tensors by their rates, and multiply the scales by them; a scale of 0 stays.

        Args:
            names: Names of tensors.
        """
        chosen = {name for name in names if self.scales[name]}
        self.derived |= chosen
        for tensor in self.resolved.tensors:
            if tensor.name in chosen:
                found, own = self._rates(tensor), self.scales[tensor.name]
                scale = rounded(own * math.prod(found.values()))
                zero = zero_core(self.factors[tensor.name].network).name
                found[zero] *= scale / (own * math.prod(found.values()))
                with torch.no_grad():
                    for factors in (each[tensor.name] for each in (self.factors, self.starts) if tensor.name in each):
                        for name, core in factors.named_cores().items():
                            core.div_(found.get(name, 1.0))
                self.rescale({tensor.name: scale})

    def rescale(self, scales: Mapping[str, float]) -> None:
        """Set the scales of some tensors.

        Args:
            scales: Scales by tensor name.
        """
        self.scales.update(scales)
        for tensor in self.resolved.tensors:
            for view in tensor.views:
                self.slots[view.parameter].scale = self.scales[tensor.name]

    def planned(self) -> list[Planned]:
        """Return the input of `explain` for each adapted parameter."""
        parameters = base_parameters(self.model)
        return [
            Planned(
                slot.increment, name in self.activation, slot.scale, parameters[name], product_of(*self.owners[name][0])
            )
            for name, slot in self.slots.items()
        ]

    def subtract_start(self) -> None:
        """Subtract from each increment that of a frozen copy of the factors."""
        for tensor in self.resolved.tensors:
            start = copy.deepcopy(self.factors[tensor.name]).requires_grad_(False)
            self.starts[tensor.name] = start
            for name, increment in self._increments(tensor, start).items():
                self.slots[name].increment = ShiftedIncrement(self._own[name], increment)

    def attach(self) -> None:
        """Adapt the modules that own the parameters."""
        attach_together([self])

    def follow_loading(self) -> None:
        """Check what is loaded into the model; `detach` ends it."""
        self.loading.watch(self.model)

    def detach(self) -> None:
        """Undo `attach`; layers that are not adapted stay unchanged."""
        self.loading.stop()
        for _, module, _ in self.places():
            detach(module)

    def _before_loading(self, module: nn.Module, state: Mapping[str, Tensor], prefix: str) -> None:
        if not self.switch.merged:
            refuse_merged(module, self.factors, state, prefix)

    def check_intact(self) -> None:
        """Check that each layer still has the class that `attach` gave it, so that `detach` can undo it.

        Raises:
            AdaptError: A layer's class was changed afterwards.
        """
        for _, module, attribute in self.places():
            if not is_attached(module):
                raise AdaptError(
                    f"the class of the {type(module).__name__} that owns {attribute!r} was changed after adapt()",
                    cause="a parametrization was registered on the module",
                    fix="undo it first, as with torch.nn.utils.parametrize.remove_parametrizations",
                )

    def check_base(self) -> None:
        """Raise unless the model still holds the adapted layers, with their base weights.

        Raises:
            AdaptError: A layer was replaced, or a base weight by what was made of the effective one.
        """
        self.check_intact()
        modules = dict(self.model.named_modules(remove_duplicate=False))
        for name, slot in self.slots.items():
            path, _, attribute = name.rpartition(".")
            module = modules.get(path)
            if module is None or not any(module is owner for owner, _ in self.owners[name]):
                raise AdaptError(
                    f"the layer of {name!r} was replaced after it was adapted",
                    expected="the adapted layer",
                    got="nothing" if module is None else type(module).__name__,
                    fix="put the adapted layer back, or call adapter.remove() and adapt the model again",
                )
            found = module._parameters.get(attribute)
            if found is not slot.stored:
                confirm(slot, found)

    def places(self) -> Iterable[tuple[str, nn.Module, str]]:
        """Yield each adapted parameter: its name in the model, a module that owns it, its name in the module."""
        return ((name, module, at) for name, owners in self.owners.items() for module, at in owners)

    def _takes_activation(self, name: str, route: Route) -> bool:
        owners, kind = self.owners[name], self.slots[name].increment.kind
        convolved = kind.convolved and kind.halves is not None
        able = (convolved and self._has_products(name)) or self._is_linear(name)
        if route in ("activation", "formed") and not able:
            module, attribute = owners[0]
            raise AdaptError(
                f"adapt: route={route!r} on {name!r}",
                expected="the weight of a linear layer, or of a convolution that a format gives two matrices",
                got=f"{attribute!r} of {type(module).__name__}",
                fix="route='auto'",
            )
        return able and (route in ("activation", "formed") or (route == "auto" and kind.apply_is_faster))

    def _is_linear(self, name: str) -> bool:
        """Return whether a parameter is the weight of plain linear layers."""
        return all(isinstance(product_of(*owner), LinearProduct) for owner in self.owners[name])

    def _has_products(self, name: str) -> bool:
        """Return whether all layers of a parameter can add its increment in their calls."""
        return all(product_of(*owner) is not None for owner in self.owners[name])


def attach_together(several: Sequence[Links]) -> None:
    """Adapt the modules of several links to one model at once; the increments of one parameter are added.

    Args:
        several: The links, none of them attached.
    """
    places: dict[nn.Module, dict[str, list[tuple[Slot, bool]]]] = {}
    for links in several:
        for name, module, attribute in links.places():
            found = places.setdefault(module, {}).setdefault(attribute, [])
            found.append((links.slots[name], name in links.activation))
    for module, each in places.items():
        slots = {attribute: summed([slot for slot, _ in found]) for attribute, found in each.items()}
        attach(module, slots, activation=any(route for _, route in each.get("weight", ())))
    for links in several:
        links.follow_loading()
