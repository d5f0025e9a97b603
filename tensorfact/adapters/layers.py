"""Adapted modules: reading an adapted parameter gives the effective weight, calling a linear layer never forms it.

A module is adapted by changing its class to a subclass made here: the adapted parameter's name becomes a property over
the stored parameter, so a model that reads `layer.weight` without calling the layer is adapted just the same. Nothing
else of the module changes: parameters, buffers, hooks and `state_dict` keys stay what they were.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..model.parameters import SLOTS
from ..model.sides import is_conv1d
from .increments import AnyIncrement
from .increments.execution import Product

_numbers = itertools.count()
_traced: set[int] = set()


@dataclasses.dataclass
class Switch:
    """Whether an adapter's increments are added; shared by all its layers.

    Args:
        on: Whether they are.
        number: Tells adapters apart.
    """

    on: bool = True
    number: int = dataclasses.field(default_factory=lambda: next(_numbers))

    @property
    def traced(self) -> bool:
        """Whether a compiler has traced a layer of the adapter; what it runs since then, no slot records."""
        return self.number in _traced


@dataclasses.dataclass
class Slot:
    """One adapted parameter of one module.

    Args:
        increment: The parameter's increment.
        scale: What multiplies it.
        switch: Whether it is added.
        read: Whether the parameter was read, or its layer called, since it was adapted.
    """

    increment: AnyIncrement
    scale: float
    switch: Switch
    read: bool = False

    def effective(self, base: Tensor, *, drop: bool = False) -> Tensor:
        """Return base + scale x increment, computed in at least fp32 and rounded once.

        Args:
            base: The stored parameter.
            drop: Apply the dropout, if the factors are in training mode.
        """
        return self.increment.added_to(base, self.scale, drop=drop)

    @property
    def sharded(self) -> bool:
        """Whether the factors lie in shards on several processes, as FSDP2 keeps them between forward passes."""
        return any(hasattr(core, "device_mesh") for core in self.increment.factors.tensors())


def attach(module: nn.Module, slots: Mapping[str, Slot], *, activation: bool) -> None:
    """Adapt parameters of one module, in place.

    Args:
        module: The module that owns the parameters.
        slots: Slots by the parameter's name in the module.
        activation: Take the activation route when the module is called; only for what `takes_activation` allows.
    """
    product = _product_of(module) if activation else None
    module.__class__ = _adapted_class(type(module), tuple(sorted(slots)), product)  # type: ignore[arg-type]  # a cache wants hashable arguments, which these are
    module.__dict__[SLOTS] = dict(slots)


def is_attached(module: nn.Module) -> bool:
    """Return whether a module is as `attach` left it, so that `detach` can undo it."""
    return SLOTS in module.__dict__ and type(module) in _bases


def detach(module: nn.Module) -> None:
    """Undo `attach`; a module that is not adapted stays as it is."""
    if SLOTS in module.__dict__:
        module.__class__ = _bases[type(module)]
        del module.__dict__[SLOTS]


def takes_activation(module: nn.Module, name: str) -> bool:
    """Return whether a parameter is the weight of a plain linear layer, which can take the activation route."""
    return name == "weight" and _product_of(module) is not None


def _trace(number: int) -> None:
    """Note that a compiler traces; runs then, and not when the compiled code runs."""
    _traced.add(number)


# what torch.compiler.assume_constant_result does; calling it imports the compiler, which takes longer than torch itself
vars(_trace)["_dynamo_marked_constant"] = True


def _record(slot: Slot) -> None:
    if torch.compiler.is_compiling():
        _trace(slot.switch.number)
    else:
        slot.read = True


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return nn.functional.linear(input, weight, bias)


def _conv1d(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    assert bias is not None  # a Conv1D always has one
    return torch.addmm(bias, input.reshape(-1, input.shape[-1]), weight).reshape(*input.shape[:-1], weight.shape[1])


def _product_of(module: nn.Module) -> Product | None:
    """Return what a linear layer does when it is called; None for what is no plain linear layer."""
    own = _bases.get(type(module), type(module))  # an adapted layer is what it was before
    if isinstance(module, nn.Linear) and own.forward is nn.Linear.forward:
        return _linear
    if is_conv1d(module) and own.forward.__qualname__ == "Conv1D.forward":
        return _conv1d
    return None


def _forward(product: Product) -> Callable[[Any, Tensor], Tensor]:
    def forward(self: Any, input: Tensor) -> Tensor:
        slot: Slot = self.__dict__[SLOTS]["weight"]
        _record(slot)
        weight, bias = self._parameters["weight"], self.bias
        if not slot.switch.on:
            return product(input, weight, bias)
        return slot.increment.linear(product, input, weight, bias, slot.scale)

    return forward


def _effective(name: str) -> property:
    def read(self: Any) -> Tensor:
        slot: Slot = self.__dict__[SLOTS][name]
        base: Tensor = self._parameters[name]
        if slot.sharded:  # FSDP2 looks for the shard it stored; in a forward pass everything is gathered
            return base
        _record(slot)
        return slot.effective(base, drop=True) if slot.switch.on else base

    return property(read)


_bases: dict[type[nn.Module], type[nn.Module]] = {}


@functools.cache
def _adapted_class(base: type[nn.Module], names: tuple[str, ...], product: Product | None) -> type[nn.Module]:
    body: dict[str, Any] = {name: _effective(name) for name in names}
    body |= {"forward": _forward(product)} if product else {}
    body |= {"__module__": base.__module__, "__doc__": base.__doc__}
    adapted: type[nn.Module] = type(f"Adapted{base.__name__}", (base,), body)
    _bases[adapted] = base
    return adapted
