"""Checkpoints of Lightning that hold what trains, not the base model."""

from __future__ import annotations

import functools
import itertools
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from ..adapters import Adapter
from ..common.checks import AnyPath
from ..errors import AdaptError, CheckpointError
from ..model.parameters import ATTRIBUTE, base_tensors
from ..storage import AdapterState
from ..storage.description import HEAD, AdapterDescription
from ..storage.files import Header
from ..storage.left_out import LeftOutCores

_KEY = "tensorfact"
"""Where a checkpoint keeps the descriptions of the adapters, by the adapted module's name."""

_HOOK = "on_load_checkpoint"
"""The hook of a LightningModule that is called with a checkpoint before it is loaded."""


class AdapterCallback(Callback):
    """Leaves the frozen base models of adapted modules out of Lightning's checkpoints.

    The adapted model may be the LightningModule or any module in it. `ModelCheckpoint`, `fit(ckpt_path=...)` and
    `test(ckpt_path="best")` work as before; a checkpoint of another adapter, or that was made on another base
    model, is refused. Checkpoints without callbacks, as of `ModelCheckpoint(save_weights_only=True)`, stay whole.

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
        """Prepare the module to load checkpoints without the base models."""
        # Lightning calls `on_load_checkpoint` of callbacks after the weights were loaded, and not for all checkpoints;
        # that of the module is always called before.
        pl_module.__dict__[_HOOK] = functools.partial(_before_loading, pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the module as it was before `setup`."""
        pl_module.__dict__.pop(_HOOK, None)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that there is an adapter; it may have been created in `configure_model`."""
        if not (adapters := _adapters(pl_module)):
            raise AdaptError(
                f"AdapterCallback: no module in {type(pl_module).__name__} is adapted",
                fix="call adapt(self.model) in __init__ or configure_model of the LightningModule",
            )
        for adapter in adapters.values():
            _written(adapter.state.description)  # a format without a name is refused before training

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take the base models out of a checkpoint that is about to be written."""
        checkpoint[_KEY] = {}
        for path, adapter in _adapters(pl_module).items():
            description = adapter.state.description
            checkpoint[_KEY][path] = _written(description)
            for state, name in itertools.product(_states(checkpoint), _left_out(adapter, description)):
                state.pop(path + name, None)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the folder of the best checkpoint's adapter; of several adapted modules, each has a folder in it."""
        best = getattr(trainer.checkpoint_callback, "best_model_path", "")
        if self._best is None or not best or not trainer.is_global_zero:
            return
        checkpoint = trainer.strategy.load_checkpoint(best, weights_only=False)  # as `fit` loads what it wrote
        adapters = _adapters(pl_module)
        for path, adapter in adapters.items():
            last = adapter.state
            try:
                if _KEY in checkpoint:
                    _complete(adapter, path, checkpoint)
                state = checkpoint["state_dict"]
                own = {name.removeprefix(path): state[name] for name in state if name.startswith(path)}
                adapter.model.load_state_dict(own, strict=False)
                folder = path.removesuffix(".") if len(adapters) > 1 else ""
                adapter.save_pretrained(os.path.join(self._best, folder))
            finally:
                adapter.load(last)


def _adapters(module: LightningModule) -> dict[str, Adapter]:
    """Return the adapters in a module, by the prefix of the names of the model that each is on."""
    return {name.removesuffix(ATTRIBUTE): child for name, child in module.named_modules() if isinstance(child, Adapter)}


def _states(checkpoint: dict[str, Any]) -> list[dict[str, Tensor]]:
    """Return the state dicts in a checkpoint: with Lightning's `WeightAveraging` there are two."""
    return [checkpoint[key] for key in ("state_dict", "current_model_state") if key in checkpoint]


def _left_out(adapter: Adapter, description: AdapterDescription) -> dict[str, Tensor]:
    """Return the tensors of the base model that a checkpoint with this description does not hold, by name."""
    return {name: t for name, t in base_tensors(adapter.model).items() if name not in description.head}


def _written(description: AdapterDescription) -> str:
    """Return a description as JSON, with the shapes that an adapter file has in its header."""
    return json.dumps({"shapes": description.shapes, "metadata": description.metadata(LeftOutCores.of({}))})


def _read(text: str) -> AdapterDescription:
    """Read a description: the inverse of `_written`."""
    stored: dict[str, Any] = json.loads(text)
    shapes = {name: tuple(shape) for name, shape in stored["shapes"].items()}
    no_file: Any = None  # only the tensors would be read from it
    return AdapterDescription.of(Header(Path("checkpoint"), stored["metadata"], shapes, "", no_file))[0]


def _before_loading(module: LightningModule, checkpoint: dict[str, Any]) -> None:
    """Run the module's own hook, and make a checkpoint whole, so that Lightning loads it as strictly as any other."""
    type(module).on_load_checkpoint(module, checkpoint)
    if _KEY not in checkpoint:  # it is whole
        return
    stored, adapters = checkpoint[_KEY], _adapters(module)
    if stored.keys() != adapters.keys():
        raise CheckpointError(
            f"AdapterCallback: the adapted modules in the checkpoint are not those in {type(module).__name__}",
            expected=_named(adapters),
            got=_named(stored),
            cause="an attribute that was renamed, or a model that was compiled in only one of the two runs",
            fix=f"adapt {_named(stored)} in {type(module).__name__}, as when the checkpoint was written",
        )
    for path, adapter in adapters.items():
        _complete(adapter, path, checkpoint)


def _complete(adapter: Adapter, path: str, checkpoint: dict[str, Any]) -> None:
    """Check that a checkpoint is of this adapter, and add the base model to it.

    What trained on the model beside the factors, but not in the checkpoint, is as in the base model afterwards.
    """
    stored, state = _read(checkpoint[_KEY][path]), checkpoint["state_dict"]
    adapter.load(AdapterState(stored, _values(adapter, stored, path, state)))
    for each, (name, tensor) in itertools.product(_states(checkpoint), _left_out(adapter, stored).items()):
        each.setdefault(path + name, tensor.detach())


def _values(adapter: Adapter, stored: AdapterDescription, path: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return values that fit a stored description: the checkpoint's beside the factors, else the adapter's own."""
    head = stored.head_of(adapter.model) | {name: state[path + name] for name in stored.head if path + name in state}
    found = {**adapter.state.tensors, **{HEAD + name: tensor.detach() for name, tensor in head.items()}}
    shapes = stored.shapes
    fitting = {name: tensor for name, tensor in found.items() if shapes.get(name) == tuple(tensor.shape)}
    # Zeros stand for cores of other formats, which `Adapter.load` refuses by their description.
    return {name: torch.zeros(shape) for name, shape in shapes.items() if name not in fitting} | fitting


def _named(paths: Iterable[str]) -> str:
    """Return the adapted modules at some prefixes of names as text: `self.model`."""
    return ", ".join(f"self.{path}".removesuffix(".") for path in paths) or "no adapted module"
