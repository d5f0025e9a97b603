"""Adapted modules: reading an adapted parameter gives the effective weight, calling a linear layer need not form it.

A module is adapted by changing its class to a subclass created here. In it, the adapted parameter's name is a property
that computes the effective weight from the stored parameter, so a model that reads `layer.weight` without calling the
layer is adapted as well. Parameters, buffers, hooks and `state_dict` keys of the module do not change.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

from ..errors import AdaptError
from ..model.parameters import SLOTS
from ..model.sides import is_conv1d
from .increments.convolution import Convolution
from .increments.products import LinearProduct, Product
from .slots import Slot, record
from .stored import confirm


def attach(module: nn.Module, slots: Mapping[str, Slot], *, activation: bool) -> None:
    """Adapt parameters of one module, in place.

    Args:
        module: The module that owns the parameters.
        slots: Slots by the parameter's name in the module.
        activation: Use the activation route when the module is called; requires `product_of`.
    """
    made = _maker_of(module) if activation else None
    module.__class__ = _adapted_class(type(module), tuple(sorted(slots)), made)  # type: ignore[arg-type]  # a cache wants hashable arguments, which these are
    module.__dict__[SLOTS] = dict(slots)
    for name, slot in slots.items():
        slot.stored = module._parameters[name]


def is_attached(module: nn.Module) -> bool:
    """Return whether a module still has the class that `attach` gave it, so that `detach` can undo it."""
    return SLOTS in module.__dict__ and type(module) in _bases


def detach(module: nn.Module) -> None:
    """Undo `attach`; does nothing to a module that is not adapted."""
    if SLOTS in module.__dict__:
        module.__class__ = _bases[type(module)]
        del module.__dict__[SLOTS]


def product_of(module: nn.Module, name: str) -> Product | None:
    """Return the product of input and weight that a module computes, so that it can add an increment in its call.

    Args:
        module: The module.
        name: The parameter's name in the module.

    Returns:
        The product; None if the parameter is not the weight of a plain linear layer or convolution.
    """
    made = _maker_of(module) if name == "weight" else None
    return None if made is None else made(module)


Made = Callable[[nn.Module], Product | None]
"""Returns the product of a module as it is now; a function of a module of this package, so that pickle finds it."""


def _linear(_: nn.Module) -> Product:
    return _LINEAR


def _conv1d(_: nn.Module) -> Product:
    return _CONV1D


_LINEAR, _CONV1D = LinearProduct(), LinearProduct(transposed=True)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def _maker_of(module: nn.Module) -> Made | None:
    """Return what makes the product of a plain layer; None for any other module."""
    own = _bases.get(type(module), type(module))  # an adapted layer counts as what it was before
    if isinstance(module, nn.Linear) and own.forward is nn.Linear.forward:
        return _linear
    if is_conv1d(module) and own.forward.__qualname__ == "Conv1D.forward":
        return _conv1d
    for kind in _CONVOLUTIONS:
        if issubclass(own, kind) and (own.forward, own._conv_forward) == (kind.forward, kind._conv_forward):
            return Convolution.of if Convolution.of(module) is not None else None
    return None


class _Layer(Protocol):
    """An adapted module, as `self` of the functions below."""

    _parameters: dict[str, Tensor]
    bias: Tensor | None


def _forward(made: Made, base: type[nn.Module]) -> Callable[[_Layer, Tensor], Tensor]:
    def forward(self: _Layer, input: Tensor) -> Tensor:
        if SLOTS not in self.__dict__:  # removed; a hook put on the layer while it was adapted kept this method
            return cast("Tensor", type(self).forward(self, input))  # type: ignore[attr-defined]  # of nn.Module
        slot: Slot = self.__dict__[SLOTS]["weight"]
        record(slot)
        product = made(self)  # type: ignore[arg-type]  # a module
        if product is None:  # changed since it was adapted: it reads its effective weight
            return cast("Tensor", base.forward(self, input))
        weight, bias = _base(self, slot, "weight"), self.bias
        if not slot.switch.on:
            slot.switch.refuse_recomputing()
            return product(input, weight, bias)
        return slot.increment.linear(product, input, weight, bias, slot.scale)

    return forward


def _effective(name: str) -> property:
    def read(self: _Layer) -> Tensor:
        slot: Slot = self.__dict__[SLOTS][name]
        if slot.sharded:  # FSDP2 looks up its own shard; in a forward pass the factors are gathered
            return self._parameters[name]
        base = _base(self, slot, name)
        record(slot)
        if not slot.switch.on:
            slot.switch.refuse_recomputing()
            return base
        if base.is_meta and not slot.increment.factors.tensors()[0].is_meta:
            return base  # offloaded: accelerate reads what it is about to load
        found = slot.effective(base, drop=True)
        if torch.compiler.is_compiling() or type(found) is not Tensor or _get_current_dispatch_mode() is not None:
            return found  # a tracer takes ordinary tensors only
        return found.as_subclass(_Effective)

    return property(read)


class _Effective(Tensor):
    """An effective weight as it is read from a layer. What is written into it would be lost, and is refused.

    `torch.nn.init` and loaders of weights write in place; peft merges by `layer.weight.data += delta`, and transformers
    resizes embeddings by `layer.weight.data = new`.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # as in nn.Parameter: results are ordinary tensors

    @property
    def data(self) -> Tensor:
        """The values without a gradient, which cannot be written to either."""
        return self.detach().as_subclass(_Effective)

    @data.setter
    def data(self, value: Tensor) -> None:
        _refuse_writing()

    def __deepcopy__(self, memo: object) -> Tensor:
        return self.detach().clone()

    def __reduce_ex__(self, protocol: object) -> tuple[object, ...]:
        return torch.clone, (self.detach(),)  # a copy is an ordinary tensor


def _refuse_writing(*_: object, **__: object) -> None:
    raise AdaptError(
        "the weight of an adapted layer cannot be written through layer.weight",
        cause="the effective weight W + s dW is computed anew whenever it is read",
        fix="write to model.get_parameter(name), or call adapter.merge() and adapter.remove() first",
    )


_HARMLESS = {"requires_grad_", "share_memory_", "set_"}  # set_ is called by parametrizations, which are refused by name

for _name in dir(Tensor):
    _in_place = _name.endswith("_") and not _name.startswith("_") and _name not in _HARMLESS
    if _in_place or _name == "__setitem__" or (f"__{_name[3:]}" in dir(Tensor) and _name.startswith("__i")):
        setattr(_Effective, _name, _refuse_writing)


def _base(layer: _Layer, slot: Slot, name: str) -> Tensor:
    """Return the stored base parameter, which is checked if it is a new one."""
    found = layer._parameters.get(name)
    if found is None or (found is not slot.stored and not torch.compiler.is_compiling()):
        return confirm(slot, found)
    return found


def _refusals(names: tuple[str, ...]) -> dict[str, object]:
    """Return the methods of an adapted class that refuse parametrizations, pruning and the old norms of torch.nn.utils.

    All of them read the effective weight, delete the parameter, and register what they made of the weight under another
    name: the increment would become part of the base.
    """

    def refuse(self: nn.Module, name: str) -> None:
        slot: Slot = self.__dict__[SLOTS][name]
        self._parameters.setdefault(name, slot.stored)  # type: ignore[arg-type]  # weight_norm has deleted it already
        raise AdaptError(
            f"the layer of {slot.name!r} is adapted and cannot be parametrized, pruned or normalised",
            cause="the effective weight W + s dW would become the base weight",
            fix="do so before adapt(), or after adapter.merge() and adapter.remove()",
        )

    def register_parameter(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        own, _, suffix = name.rpartition("_")
        if own in names and suffix in ("orig", "g", "v"):
            refuse(self, own)
        nn.Module.register_parameter(self, name, param)

    def delete(self: nn.Module, name: str) -> None:
        if name in names:
            refuse(self, name)
        nn.Module.__delattr__(self, name)

    return {"register_parameter": register_parameter, "__delattr__": delete}


_bases: dict[type[nn.Module], type[nn.Module]] = {}


@functools.cache
def _adapted_class(base: type[nn.Module], names: tuple[str, ...], made: Made | None) -> type[nn.Module]:
    body: dict[str, object] = {name: _effective(name) for name in names}
    body |= {"forward": _forward(made, base)} if made else {}
    body |= _refusals(names)
    body |= {"__module__": base.__module__, "__doc__": base.__doc__}
    body["__reduce_ex__"] = lambda self, protocol: (_empty, (base, names, made), self.__getstate__())
    adapted: type[nn.Module] = type(f"Adapted{base.__name__}", (base,), body)
    _bases[adapted] = base
    return adapted


def _empty(base: type[nn.Module], names: tuple[str, ...], made: Made | None) -> nn.Module:
    """Return an adapted module that pickle fills: its class is made here and has no name to be imported by."""
    adapted = _adapted_class(base, names, made)  # type: ignore[arg-type]  # as in `attach`
    return adapted.__new__(adapted)
