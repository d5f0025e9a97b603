"""Changes that an adapter makes to a model outside its layers: `requires_grad`, the root's children, merged weights."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..common.checks import AnyPath
from ..errors import AdaptError, nearest
from ..model.parameters import ATTRIBUTE, base_parameters, owner_of
from .increments import Passes, note_sources
from .slots import Slot
from .turns import Turns

_SAVE = "save_pretrained"
"""The method by which models of transformers write themselves to a folder."""


class Place:
    """Registers an adapter on a model's root; meanwhile all base parameters but the head's are frozen.

    Args:
        model: The base model.
        recompute: Whether outputs of cheap modules are recomputed in the backward pass.
    """

    def __init__(self, model: nn.Module, *, recompute: bool) -> None:
        self.model, self._recompute = model, recompute
        self._flags: dict[str, bool] = {}
        self._hooks: list[RemovableHandle] = []
        self._methods: list[str] = []

    def take(self, adapter: nn.Module, head: tuple[str, ...], passes: Passes, turns: Turns) -> None:
        """Freeze all parameters but the head's, and register the adapter.

        Args:
            adapter: The adapter to register.
            head: Names of the head's parameters.
            passes: Forward passes of the model, which begin when it is called.
            turns: Turns of the threads that use the model.
        """
        parameters = base_parameters(self.model)
        self._flags = {name: parameter.requires_grad for name, parameter in parameters.items()}
        trained = {id(parameters[name]) for name in head if name in parameters}
        for parameter in parameters.values():
            parameter.requires_grad_(id(parameter) in trained)
        self._hooks = [
            *passes.watch(self.model),
            *turns.watch(),
            *(note_sources(self.model) if self._recompute else ()),
        ]
        self.model.add_module(ATTRIBUTE, adapter)
        methods: dict[str, Callable[..., Any]] = {"get_parameter": _get_parameter}
        if callable(getattr(type(self.model), _SAVE, None)) and _SAVE not in self.model.__dict__:
            methods[_SAVE] = _save_pretrained
        self.model.__dict__.update({name: functools.partial(each, self.model) for name, each in methods.items()})
        self._methods = list(methods)

    def leave(self) -> None:
        """Undo `take`, and restore the `requires_grad` flags."""
        for hook in self._hooks:
            hook.remove()
        self.model._modules.pop(ATTRIBUTE, None)
        for name in self._methods:
            self.model.__dict__.pop(name, None)
        for name, parameter in base_parameters(self.model).items():
            parameter.requires_grad_(self._flags.get(name, parameter.requires_grad))


def _save_pretrained(model: nn.Module, save_directory: AnyPath, *rest: Any, **options: Any) -> Any:
    """Do what the model's `save_pretrained` does, and write the adapter's folder beside it.

    The library's `from_pretrained` makes the base model of such a folder, and says that it leaves the factors out;
    `tensorfact.load` makes the adapted model. A state that is passed in may be gathered from several processes, of
    which none has the values.
    """
    saved = getattr(type(model), _SAVE)(model, save_directory, *rest, **options)
    main = rest[0] if rest else options.get("is_main_process", True)
    if main and len(rest) < 2 and options.get("state_dict") is None:
        getattr(model, ATTRIBUTE).save_pretrained(save_directory)
    return saved


def _get_parameter(model: nn.Module, target: str) -> nn.Parameter:
    """Do what `model.get_parameter` does; its own reads `layer.weight`, which is the effective weight."""
    module, attribute = owner_of(model, target)
    if (parameter := module._parameters.get(attribute)) is not None:
        return parameter
    return type(model).get_parameter(model, target)


class Originals:
    """Copies of the base parameters that were replaced by merged weights.

    Args:
        model: The adapted model.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.values: dict[str, Tensor] = {}

    def replace(self, slots: Mapping[str, Slot]) -> None:
        """Write the effective weights into the base parameters; on an error they are restored.

        Args:
            slots: The adapted parameters, by name.

        Raises:
            AdaptError: An effective weight is not finite.
        """
        parameters = base_parameters(self.model)
        try:
            with torch.no_grad():
                for name, slot in slots.items():
                    self.values[name] = parameters[name].detach().clone()
                    slot.increment.add_into(parameters[name], slot.scale)
                    _require_finite_sum(name, parameters[name], self.values[name])
        except BaseException:
            self.restore()
            raise

    def require(self, merged: bool) -> None:
        """Check that the weights are merged, or that they are not.

        Args:
            merged: The required state.

        Raises:
            AdaptError: The weights are in the other state.
        """
        if merged and not self.values:
            raise AdaptError("the adapter is not merged", fix="call adapter.merge() first")
        if self.values and not merged:
            raise AdaptError("the adapter is already merged", fix="call adapter.unmerge() first")

    def restore(self) -> None:
        """Restore the base parameters, bit for bit."""
        parameters = base_parameters(self.model)
        with torch.no_grad():
            for name, original in self.values.items():
                parameters[name].copy_(original)
        self.values.clear()


def _require_finite_sum(name: str, merged: Tensor, original: Tensor) -> None:
    if bool(merged.sum().isfinite()):  # so all values are, at a fifth of the time that asking each takes
        return
    if not bool(merged.isfinite().all()) and bool(original.isfinite().all()):
        raise AdaptError(
            f"the merged weight {name!r} holds NaN or infinity",
            cause=f"s dW exceeds the largest number of {merged.dtype}",
            fix="train with a lower learning rate or scale, or merge in a wider dtype: model.float()",
        )


def require_attached(attached: bool, *, disabled: bool) -> None:
    """Check that an adapter is attached to its model and, for changes, not disabled.

    Args:
        attached: Whether the adapter is attached to its model.
        disabled: Whether the adapter is disabled and about to be changed.

    Raises:
        AdaptError: The adapter was removed, or is disabled.
    """
    if not attached:
        raise AdaptError("the adapter was removed from its model", fix="call adapt() or load_adapter() again")
    if disabled:
        raise AdaptError("the adapter is disabled", fix="make this call outside `with adapter.disabled():`")


def require_finite(cores: Mapping[str, Tensor]) -> None:
    """Raise if a core holds NaN or infinity, or no values.

    Args:
        cores: Cores by name.

    Raises:
        AdaptError: A value is not finite.
    """
    for name, core in cores.items():
        if core.is_meta:
            raise AdaptError(
                f"core {name!r} is on the meta device and has no values",
                cause="a model without weights, or factors that accelerate has offloaded",
                fix="load the model's weights first, or accelerate.hooks.remove_hook_from_module(model, recurse=True)",
            )
        if not bool(core.isfinite().all()):
            raise AdaptError(
                f"core {name!r} holds NaN or infinity",
                cause="diverged training",
                fix="load_adapter(model, path) with a file from before training diverged",
            )


def slot_of(parameter: object, slots: Mapping[str, Slot]) -> Slot:
    """Return the slot of an adapted parameter.

    Args:
        parameter: The parameter's name in the model.
        slots: The adapted parameters, by name.

    Raises:
        AdaptError: The parameter is not adapted.
    """
    if not isinstance(parameter, str) or parameter not in slots:
        raise AdaptError(
            "delta: parameter_name",
            expected=f"one of the {len(slots)} adapted parameters",
            got=f"{parameter!r}{nearest(str(parameter), slots)}",
            fix="pass a name from adapter.resolved.parameters",
        )
    return slots[parameter]
