"""What an adapter changes on a model apart from its layers: what trains, the root's children, merged weights."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..errors import AdaptError
from ..model.head import head_buffers
from ..model.parameters import ATTRIBUTE, base_parameters, owner_of
from .increments import Passes, note_sources
from .slots import Slot


class Place:
    """The adapter's place on a model's root; while it is taken, only the head of the base model trains.

    Args:
        model: The model.
        recompute: Whether cheap modules note what their outputs were computed from.
    """

    def __init__(self, model: nn.Module, *, recompute: bool) -> None:
        self.model, self._recompute = model, recompute
        self._flags: dict[str, bool] = {}
        self._hooks: list[RemovableHandle] = []

    def take(
        self, adapter: nn.Module, head: tuple[str, ...], passes: Passes, before_loading: Callable[..., None]
    ) -> None:
        """Freeze all parameters but the head's and register the adapter.

        Args:
            adapter: The adapter.
            head: The names of the head's parameters.
            passes: The passes through the model, which begin when it is called.
            before_loading: Called with the model, a state dict and the model's prefix in it, before that is loaded.
        """
        parameters = base_parameters(self.model)
        self._flags = {name: parameter.requires_grad for name, parameter in parameters.items()}
        trained = {id(parameters[name]) for name in head if name in parameters}
        for parameter in parameters.values():
            parameter.requires_grad_(id(parameter) in trained)
        self._hooks = [self.model.register_load_state_dict_pre_hook(before_loading)]
        self._hooks += [*passes.watch(self.model), *(note_sources(self.model) if self._recompute else ())]
        self.model.add_module(ATTRIBUTE, adapter)
        self.model.__dict__["get_parameter"] = functools.partial(_get_parameter, self.model)

    def leave(self) -> None:
        """Undo `take`: every parameter requires gradients as it did before."""
        for hook in self._hooks:
            hook.remove()
        self.model._modules.pop(ATTRIBUTE, None)
        self.model.__dict__.pop("get_parameter", None)
        for name, parameter in base_parameters(self.model).items():
            parameter.requires_grad_(self._flags.get(name, parameter.requires_grad))


def _get_parameter(model: nn.Module, target: str) -> nn.Parameter:
    """Do what `model.get_parameter` does; its own reads `layer.weight`, which is the effective weight."""
    module, attribute = owner_of(model, target)
    if (parameter := module._parameters.get(attribute)) is not None:
        return parameter
    return type(model).get_parameter(model, target)


class Originals:
    """The base parameters that merged weights have replaced.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.values: dict[str, Tensor] = {}

    def replace(self, slots: Mapping[str, Slot]) -> None:
        """Write the effective weights into the base parameters; an error leaves them as they were.

        Args:
            slots: The adapted parameters, by name.
        """
        parameters = base_parameters(self.model)
        try:
            with torch.no_grad():
                for name, slot in slots.items():
                    self.values[name] = parameters[name].detach().clone()
                    slot.increment.add_into(parameters[name], slot.scale)
        except BaseException:
            self.restore()
            raise

    def require(self, merged: bool) -> None:
        """Raise unless the weights are merged, or unless they are not.

        Args:
            merged: What they have to be.

        Raises:
            AdaptError: They are not.
        """
        if merged != bool(self.values):
            state = "not merged" if merged else "merged already"
            raise AdaptError(f"the adapter is {state}", fix=f"adapter.{'' if merged else 'un'}merge()")

    def restore(self) -> None:
        """Write the base parameters back, bit for bit."""
        parameters = base_parameters(self.model)
        with torch.no_grad():
            for name, original in self.values.items():
                parameters[name].copy_(original)
        self.values.clear()


def head_state(model: nn.Module, head: tuple[str, ...]) -> dict[str, Tensor]:
    """Return the head's parameters and the buffers beside them, by name.

    Args:
        model: The model.
        head: The names of the head's parameters.

    Raises:
        AdaptError: The head was replaced.
    """
    parameters = base_parameters(model)
    if missing := [name for name in head if name not in parameters]:
        raise AdaptError(
            f"the model's head has no {missing[0]!r} any more",
            cause="the head was replaced or taken off after adapt()",
            fix="put the head back, or adapt with train_head=False",
        )
    return {**{name: parameters[name] for name in head}, **head_buffers(model, head)}


def require_attached(attached: bool, *, disabled: bool) -> None:
    """Raise unless an adapter is on its model and may be changed.

    Args:
        attached: Whether it is on its model.
        disabled: Whether it is disabled, and is to be changed.

    Raises:
        AdaptError: It was removed, or is disabled.
    """
    if not attached:
        raise AdaptError("the adapter was removed from its model", fix="adapt the model again, or load a saved file")
    if disabled:
        raise AdaptError("the adapter is disabled", fix="leave `with adapter.disabled()` first")
