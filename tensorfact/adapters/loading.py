"""Follow `load_state_dict` of a model and of each of its parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..model.parameters import ATTRIBUTE

Before = Callable[[nn.Module, Mapping[str, Tensor], str], None]
"""Gets a module, the state that is to be loaded into it, and the module's prefix in that state."""

After = Callable[[nn.Module], None]
"""Gets a module whose state was loaded."""


class _Load(NamedTuple):
    """A call of `load_state_dict`, which torch passes one list of missing keys through all modules."""

    missing: object
    module: nn.Module
    prefix: str


class Loading:
    """Calls functions once for each `load_state_dict`, be it of the model, of a part of it, or of a module around it.

    Args:
        before: Called before anything is loaded; may raise an error.
        after: Called after the load.
    """

    def __init__(self, before: Before, after: After | None = None) -> None:
        self._before, self._after = before, after
        self._hooks: list[RemovableHandle] = []
        self._load: _Load | None = None

    def watch(self, model: nn.Module) -> None:
        """Register hooks on all modules but the adapter's and scripted ones, which take no hooks.

        Args:
            model: The adapted model.
        """
        for name, module in model.named_modules():
            if name.partition(".")[0] != ATTRIBUTE and not isinstance(module, torch.jit._script.RecursiveScriptModule):
                self._hooks.append(module.register_load_state_dict_pre_hook(self._begin))
                self._hooks.append(module.register_load_state_dict_post_hook(self._end))

    def stop(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _begin(self, module: nn.Module, state: Mapping[str, Tensor], prefix: str, *rest: object) -> None:
        missing = rest[2]  # after the metadata and `strict`
        load = self._load
        if load is None or load.missing is not missing or not prefix.startswith(load.prefix):
            self._before(module, state, prefix)
            self._load = _Load(missing, module, prefix)

    def _end(self, module: nn.Module, keys: tuple[object, object]) -> None:
        load = self._load
        if load is not None and load.module is module and load.missing is keys[0]:
            self._load = None
            if self._after is not None:
                self._after(module)
