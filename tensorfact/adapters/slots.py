"""The adapted parameters of a model: what is added to each, and whether it is."""

from __future__ import annotations

import dataclasses
import itertools

import torch
from torch import Tensor

from .increments import AnyIncrement

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
    """One adapted parameter of a model.

    Args:
        name: The parameter's name in the model.
        increment: The parameter's increment.
        scale: What multiplies it.
        switch: Whether it is added.
        read: Whether the parameter was read, or its layer called, since it was adapted.
        stored: The base parameter that its layers are known to hold.
    """

    name: str
    increment: AnyIncrement
    scale: float
    switch: Switch
    read: bool = False
    stored: Tensor | None = None

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


def _trace(number: int) -> None:
    """Note that a compiler traces; runs then, and not when the compiled code runs."""
    _traced.add(number)


# what torch.compiler.assume_constant_result does; calling it imports the compiler, which takes longer than torch itself
vars(_trace)["_dynamo_marked_constant"] = True


def record(slot: Slot) -> None:
    """Note that the parameter of a slot is used."""
    if torch.compiler.is_compiling():
        _trace(slot.switch.number)
    else:
        slot.read = True
