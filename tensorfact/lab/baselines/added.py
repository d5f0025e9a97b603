"""Modules that a baseline adds to a frozen model with forward hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from ...common.checks import AnyPath
from ...errors import AdaptError
from ...model.head import head_parameters
from ...model.parameters import BASELINE, base_parameters, refuse_adapted
from ...storage.files import write_tensors


class Removable(Protocol):
    """A change of a model that can be undone, such as a hook by its handle."""

    def remove(self) -> None:
        """Undo the change."""


class Block(Protocol):
    """A transformer block of timm: the submodules and methods that the baselines use."""

    norm1: nn.LayerNorm
    attn: nn.Module
    drop_path1: nn.Module
    norm2: nn.Module
    mlp: nn.Module
    drop_path2: nn.Module

    def named_children(self) -> Iterator[tuple[str, nn.Module]]:
        """Return the submodules by name, in the order in which they run."""

    def register_forward_pre_hook(self, hook: Callable[..., object]) -> Removable:
        """Call a hook before every forward pass of the block."""

    def register_forward_hook(self, hook: Callable[..., object]) -> Removable:
        """Call a hook after every forward pass of the block."""


class Replaced:
    """Replace a method of one module, until `remove` is called.

    Args:
        module: The module.
        name: Name of the method.
        method: The replacement; it is called without the module.
    """

    def __init__(self, module: nn.Module, name: str, method: Callable[..., object]) -> None:
        self.module, self.name = module, name
        module.__dict__[name] = method

    def remove(self) -> None:
        """Restore the module's own method."""
        self.module.__dict__.pop(self.name, None)


class Added(nn.ModuleList):
    """Modules that a baseline adds to a model, as `model.baseline`. The base is frozen, the head trains.

    Hooks must be methods of the modules, so that a deep copy of the model gets its own.

    Args:
        model: The model.
        modules: The modules, in the order of the blocks.
        hooks: Handles of the hooks that connect the modules to the model.
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
        """Number of parameters in the added modules."""
        return sum(parameter.numel() for parameter in self.parameters())

    def merge(self) -> None:
        """Do nothing: added modules cannot be merged into weights."""

    def save(self, path: AnyPath) -> None:
        """Write the added modules and the head to one file."""
        parameters = base_parameters(self.__dict__["_model"])
        tensors: dict[str, Tensor] = {f"{BASELINE}.{name}": value for name, value in self.state_dict().items()}
        write_tensors(path, {**tensors, **{name: parameters[name] for name in self.head}}, {"kind": BASELINE})

    def remove(self) -> None:
        """Remove the modules from the model, and restore `requires_grad` of its parameters."""
        model: nn.Module = self.__dict__["_model"]
        for hook in self._hooks:
            hook.remove()
        model._modules.pop(BASELINE, None)
        for name, parameter in base_parameters(model).items():
            parameter.requires_grad_(self._flags.get(name, parameter.requires_grad))


def blocks_of(model: nn.Module, *parts: str) -> Sequence[Block]:
    """Return the transformer blocks of a model: the modules that have all these submodules.

    Args:
        model: The model.
        parts: Names of the submodules that a block must have.

    Raises:
        AdaptError: The model has no such block, is adapted, or has a baseline already.
    """
    refuse_adapted(model)
    if hasattr(model, BASELINE):
        raise AdaptError(f"the model already has an attribute {BASELINE!r}", fix=f"rename the attribute {BASELINE!r}")
    found: list[Any] = [
        module for module in model.modules() if all(isinstance(getattr(module, p, None), nn.Module) for p in parts)
    ]
    if not found:
        raise AdaptError(
            f"{type(model).__name__} has no blocks with {', '.join(parts)}",
            expected="a transformer of timm, such as a ViT or a Swin",
            fix="leave this baseline out",
        )
    return found
