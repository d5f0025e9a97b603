"""Adapted modules: reading an adapted parameter gives the effective weight, calling a linear layer need not form it.

A module is adapted by changing its class to a subclass created here. In it, the adapted parameter's name is a property
that computes the effective weight from the stored parameter, so a model that reads `layer.weight` without calling the
layer is adapted as well. Parameters, buffers, hooks and `state_dict` keys of the module do not change.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Protocol

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
    """Switches an adapter's increments on and off; shared by all its layers.

    Args:
        on: Whether the increments are added.
        number: Unique number of the adapter.
    """

    on: bool = True
    number: int = dataclasses.field(default_factory=lambda: next(_numbers))

    @property
    def traced(self) -> bool:
        """Whether a compiler has traced a layer of the adapter; compiled code does not set `Slot.read`."""
        return self.number in _traced


@dataclasses.dataclass
class Slot:
    """One adapted parameter of one module.

    Args:
        increment: The parameter's increment.
        scale: Scale s of the update: W + s dW.
        switch: Whether the increment is added.
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
            drop: Apply dropout if the factors are in training mode.
        """
        return self.increment.added_to(base, self.scale, drop=drop)

    @property
    def sharded(self) -> bool:
        """Whether the factors are sharded over several processes, as FSDP2 keeps them between forward passes."""
        return any(hasattr(core, "device_mesh") for core in self.increment.factors.tensors())


def attach(module: nn.Module, slots: Mapping[str, Slot], *, activation: bool) -> None:
    """Adapt parameters of one module, in place.

    Args:
        module: The module that owns the parameters.
        slots: Slots by the parameter's name in the module.
        activation: Use the activation route when the module is called; requires `takes_activation`.
    """
    product = _product_of(module) if activation else None
    module.__class__ = _adapted_class(type(module), tuple(sorted(slots)), product)  # type: ignore[arg-type]  # a cache wants hashable arguments, which these are
    module.__dict__[SLOTS] = dict(slots)


def is_attached(module: nn.Module) -> bool:
    """Return whether a module still has the class that `attach` gave it, so that `detach` can undo it."""
    return SLOTS in module.__dict__ and type(module) in _bases


def detach(module: nn.Module) -> None:
    """Undo `attach`; does nothing to a module that is not adapted."""
    if SLOTS in module.__dict__:
        module.__class__ = _bases[type(module)]
        del module.__dict__[SLOTS]


def takes_activation(module: nn.Module, name: str) -> bool:
    """Return whether a parameter can take the activation route: whether it is the weight of a plain linear layer."""
    return name == "weight" and _product_of(module) is not None


def _trace(number: int) -> None:
    """Record that a compiler has traced an adapter; runs during tracing only, not in compiled code."""
    _traced.add(number)


# same as torch.compiler.assume_constant_result, without importing the compiler, which takes longer than importing torch
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
    """Return the function that a plain linear layer computes; None for any other module."""
    own = _bases.get(type(module), type(module))  # an adapted layer counts as what it was before
    if isinstance(module, nn.Linear) and own.forward is nn.Linear.forward:
        return _linear
    if is_conv1d(module) and own.forward.__qualname__ == "Conv1D.forward":
        return _conv1d
    return None


class _Layer(Protocol):
    """An adapted module, as `self` of the functions below."""

    _parameters: dict[str, Tensor]
    bias: Tensor | None


def _forward(product: Product) -> Callable[[_Layer, Tensor], Tensor]:
    def forward(self: _Layer, input: Tensor) -> Tensor:
        slot: Slot = self.__dict__[SLOTS]["weight"]
        _record(slot)
        weight, bias = self._parameters["weight"], self.bias
        if not slot.switch.on:
            return product(input, weight, bias)
        return slot.increment.linear(product, input, weight, bias, slot.scale)

    return forward


def _effective(name: str) -> property:
    def read(self: _Layer) -> Tensor:
        slot: Slot = self.__dict__[SLOTS][name]
        base: Tensor = self._parameters[name]
        if slot.sharded:  # FSDP2 looks up its own shard; in a forward pass the factors are gathered
            return base
        _record(slot)
        return slot.effective(base, drop=True) if slot.switch.on else base

    return property(read)


_bases: dict[type[nn.Module], type[nn.Module]] = {}


@functools.cache
def _adapted_class(base: type[nn.Module], names: tuple[str, ...], product: Product | None) -> type[nn.Module]:
    body: dict[str, object] = {name: _effective(name) for name in names}
    body |= {"forward": _forward(product)} if product else {}
    body |= {"__module__": base.__module__, "__doc__": base.__doc__}
    adapted: type[nn.Module] = type(f"Adapted{base.__name__}", (base,), body)
    _bases[adapted] = base
    return adapted
