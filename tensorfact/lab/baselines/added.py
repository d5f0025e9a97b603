"""Modules that a baseline adds to a model by hooks, on a frozen base."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from ...common.checks import AnyPath
from ...errors import AdaptError
from ...model.head import head_parameters
from ...model.parameters import BASELINE, base_parameters, refuse_adapted
from ...storage.files import write_tensors


class Removable(Protocol):
    """What ties a module to a model until it is removed, such as torch's handle of a hook."""

    def remove(self) -> None:
        """Untie it."""


class Replaced:
    """A method of one module, replaced until it is removed.

    Args:
        module: The module.
        name: The method's name.
        method: What is called instead, without the module.
    """

    def __init__(self, module: nn.Module, name: str, method: Callable[..., Any]) -> None:
        self.module, self.name = module, name
        module.__dict__[name] = method

    def remove(self) -> None:
        """Let the module have its own method again."""
        self.module.__dict__.pop(self.name, None)


class Added(nn.ModuleList):
    """Modules that a baseline added to a model, found as `model.baseline`. The base is frozen, the head trains.

    Hooks are methods of the modules, so that a deep copy of the model has its own.

    Args:
        model: The model.
        modules: The modules, in the order of the blocks.
        hooks: What ties them to the model.
    """

    def __init__(self, model: nn.Module, modules: Iterable[nn.Module], hooks: Iterable[Removable]) -> None:
        super().__init__(modules)
        self.__dict__["_model"], self._hooks = model, tuple(hooks)
        self.head = head_parameters(model, True)
        self._flags = {name: parameter.requires_grad for name, parameter in base_parameters(model).items()}
        for name, parameter in base_parameters(model).items():
            parameter.requires_grad_(name in self.head)
        first = next(iter(base_parameters(model).values()))
        self.to(first.device, first.dtype)
        model.add_module(BASELINE, self)

    @property
    def num_parameters(self) -> int:
        """How many numbers the added modules hold."""
        return sum(parameter.numel() for parameter in self.parameters())

    def merge(self) -> None:
        """Do nothing: what these modules compute is no change of weights."""

    def save(self, path: AnyPath) -> None:
        """Write the added modules and the head to one file."""
        parameters = base_parameters(self.__dict__["_model"])
        tensors: dict[str, Tensor] = {f"{BASELINE}.{name}": value for name, value in self.state_dict().items()}
        write_tensors(path, {**tensors, **{name: parameters[name] for name in self.head}}, {"kind": BASELINE})

    def remove(self) -> None:
        """Take the modules off the model."""
        model: nn.Module = self.__dict__["_model"]
        for hook in self._hooks:
            hook.remove()
        model._modules.pop(BASELINE, None)
        for name, parameter in base_parameters(model).items():
            parameter.requires_grad_(self._flags.get(name, parameter.requires_grad))


def blocks_of(model: nn.Module, *parts: str) -> Sequence[nn.Module]:
    """Return the transformer blocks of a model: the modules that have these parts.

    Args:
        model: The model.
        parts: Names of the modules that a block has.

    Raises:
        AdaptError: There is none, or the model is adapted or has a baseline already.
    """
    refuse_adapted(model)
    if hasattr(model, BASELINE):
        raise AdaptError(f"the model has a {BASELINE!r} of its own", fix=f"rename the attribute {BASELINE!r}")
    found = [
        module for module in model.modules() if all(isinstance(getattr(module, p, None), nn.Module) for p in parts)
    ]
    if not found:
        raise AdaptError(
            f"{type(model).__name__} has no blocks with {', '.join(parts)}",
            expected="a transformer of timm's, such as a ViT or a Swin",
            fix="leave this baseline out",
        )
    return found
