"""The adapted parameters of a model: the increment of each, its scale, and whether it is added."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import AdaptError
from .increments import AnyIncrement, SummedIncrement

_numbers = itertools.count()
_traced: set[int] = set()


@dataclasses.dataclass
class Switch:
    """Switches an adapter's increments on and off; shared by all its layers.

    Args:
        on: Whether the increments are added.
        disabled: How many `disabled()` contexts are open.
        base: Whether the base model was chosen in a bank of tasks.
        number: Unique number of the adapter.
    """

    on: bool = True
    disabled: int = 0
    base: bool = False
    number: int = dataclasses.field(default_factory=lambda: next(_numbers))

    @property
    def merged(self) -> bool:
        """Whether the base weights hold the increments."""
        return not self.on and not self.disabled and not self.base

    @property
    def traced(self) -> bool:
        """Whether a compiler has traced a layer of the adapter; compiled code does not set `Slot.read`."""
        return self.number in _traced

    def refuse_copying(self, *_: object) -> None:
        """Raise if the adapter is disabled; a hook of `state_dict`.

        Raises:
            AdaptError: The adapter is disabled.
        """
        if self.disabled:
            raise AdaptError(
                "a model cannot be copied or pickled, nor its state_dict() be taken, while its adapter is disabled",
                cause="the copy would hold the base head beside the trained factors",
                fix="call copy.deepcopy(model) or model.state_dict() outside `with adapter.disabled():`",
            )

    def refuse_recomputing(self) -> None:
        """Raise if a layer runs in a backward pass while the adapter is disabled.

        Raises:
            AdaptError: Checkpointing runs the layer again, as another model than in the forward pass.
        """
        if not torch.compiler.is_compiling() and self.disabled and torch._C._current_graph_task_id() != -1:
            raise AdaptError(
                "a backward pass runs layers again while the adapter is disabled",
                cause="gradient checkpointing, and loss.backward() inside `with adapter.disabled():`",
                fix="call loss.backward() outside `with adapter.disabled():`",
            )

    def __getstate__(self) -> dict[str, object]:
        self.refuse_copying()
        return dict(vars(self))


@dataclasses.dataclass
class Slot:
    """One adapted parameter of a model.

    Args:
        name: The parameter's name in the model.
        increment: The parameter's increment.
        scale: Scale s of the update: W + s dW.
        switch: Whether the increment is added.
        read: Whether the parameter was read, or its layer called, since it was adapted.
        stored: The base parameter that the layers are known to hold.
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
        """Whether the factors are sharded over several processes, as FSDP2 keeps them between forward passes."""
        return any(hasattr(core, "device_mesh") for core in self.increment.factors.tensors())


def summed(slots: Sequence[Slot]) -> Slot:
    """Return one slot for the slots that several adapters have for the same parameter.

    Args:
        slots: At least one slot; a single one is returned as it is.
    """
    if len(slots) == 1:
        return slots[0]
    total = SummedIncrement([(slot.increment, slot.scale) for slot in slots])
    return Slot(slots[0].name, total, 1.0, slots[0].switch)


def _trace(number: int) -> None:
    """Record that a compiler has traced an adapter; runs during tracing only, not in compiled code."""
    _traced.add(number)


# same as torch.compiler.assume_constant_result, without importing the compiler, which takes longer than importing torch
vars(_trace)["_dynamo_marked_constant"] = True


def record(slot: Slot) -> None:
    """Record that a parameter was used."""
    if torch.compiler.is_compiling():
        _trace(slot.switch.number)
    else:
        slot.read = True
