"""Checkpoints of Lightning that hold what trains, not the base model."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from ..adapters import Adapter
from ..common.checks import AnyPath
from ..errors import AdaptError
from ..model.parameters import ATTRIBUTE, base_tensors
from ..storage import AdapterState
from ..storage.description import HEAD
from ..storage.fingerprint import read_fingerprint

_KEY = "tensorfact"
"""Where a checkpoint keeps the fingerprints of the base models, by the adapted module's name."""


class AdapterCallback(Callback):
    """Leaves the frozen base models of adapted modules out of Lightning's checkpoints.

    The adapted model may be the LightningModule or any module in it. `ModelCheckpoint`, `fit(ckpt_path=...)` and
    `test(ckpt_path="best")` work as before; a checkpoint that was made on another base model is refused. Checkpoints
    without callbacks, as of `ModelCheckpoint(save_weights_only=True)`, stay whole.

    Args:
        best: Folder to which the adapter of the best checkpoint of `ModelCheckpoint` is written when `fit` ends, as
            `Adapter.save_pretrained` writes it; the model keeps its last weights. Default: none is written.

    Examples:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[AdapterCallback()], logger=False, accelerator="cpu")
    """

    def __init__(self, best: AnyPath | None = None) -> None:
        self._best = None if best is None else os.fspath(best)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let Lightning load checkpoints without the base models."""
        pl_module.strict_loading = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that there is an adapter; it may have been created in `configure_model`."""
        if not _adapters(pl_module):
            raise AdaptError(
                f"AdapterCallback: no module in {type(pl_module).__name__} is adapted",
                fix="call adapt(self.model) in __init__ or configure_model of the LightningModule",
            )

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take the base models out of a checkpoint that is about to be written."""
        state, checkpoint[_KEY] = checkpoint["state_dict"], {}
        for path, adapter in _adapters(pl_module).items():
            description = adapter.state.description
            for name in base_tensors(adapter.model).keys() - description.head.keys():
                state.pop(path + name, None)
            checkpoint[_KEY][path] = description.fingerprint.plain()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Check the base models after a checkpoint was loaded, and bring back what it does not hold."""
        for path, adapter in _adapters(pl_module).items():
            if path in checkpoint.get(_KEY, {}):
                _complete(adapter, path, checkpoint)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the folder of the best checkpoint's adapter; of several adapted modules, each has a folder in it."""
        best = getattr(trainer.checkpoint_callback, "best_model_path", "")
        if self._best is None or not best or not trainer.is_global_zero:
            return
        checkpoint = trainer.strategy.load_checkpoint(best, weights_only=False)  # as `fit` loads what it wrote
        adapters = _adapters(pl_module)
        for path, adapter in adapters.items():
            own = {name.removeprefix(path): t for name, t in checkpoint["state_dict"].items() if name.startswith(path)}
            last = adapter.state
            try:
                adapter.model.load_state_dict(own, strict=False)
                _complete(adapter, path, checkpoint)
                adapter.save_pretrained(os.path.join(self._best, path) if len(adapters) > 1 else self._best)
            finally:
                adapter.load(last)


def _adapters(module: LightningModule) -> dict[str, Adapter]:
    """Return the adapters in a module, by the prefix of the names of the model that each is on."""
    return {name.removesuffix(ATTRIBUTE): child for name, child in module.named_modules() if isinstance(child, Adapter)}


def _complete(adapter: Adapter, path: str, checkpoint: dict[str, Any]) -> None:
    """Check the base model of an adapter that has just loaded a checkpoint, and bring back what that does not hold."""
    state, stored = adapter.state, checkpoint["state_dict"]
    away = {name for name in state.description.head if path + name not in stored}
    head = {name: shape for name, shape in state.description.head.items() if name not in away}
    fingerprint = read_fingerprint(checkpoint[_KEY][path])
    tensors = {name: tensor for name, tensor in state.tensors.items() if name.removeprefix(HEAD) not in away}
    adapter.load(AdapterState(dataclasses.replace(state.description, fingerprint=fingerprint, head=head), tensors))
