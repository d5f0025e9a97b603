"""Checkpoints of transformers' `Trainer`, and of any class derived from it, that hold the adapter's folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..adapters import Adapter
from ..errors import AdaptError, CheckpointError
from ..model.parameters import ATTRIBUTE
from ..storage.files import StoredTensors
from ..storage.located import FILE
from .resuming import resume

_ARGUMENTS = "training_args.bin"
"""The file in which a `Trainer` stores its arguments."""

_WEIGHTS = "model.safetensors"
"""The file in which a plain `Trainer` stores the whole model."""


class AdapterCheckpoints:
    """Makes a `Trainer` write the adapter instead of the model: `class MyTrainer(AdapterCheckpoints, Trainer): ...`.

    A checkpoint then holds the folder of `Adapter.save_pretrained`, which `tensorfact.load` reads, beside the Trainer's
    own files. `resume_from_checkpoint`, `load_best_model_at_end` and `save_model` work with it. Where the Trainer
    gathers or shards the model's state itself (FSDP, DeepSpeed), its own checkpoints stay.

    The base class may be any subclass of `Trainer`, such as `Seq2SeqTrainer`.

    Examples:
        >>> from transformers import Trainer
        >>> class AdapterTrainer(AdapterCheckpoints, Trainer): ...
    """

    def __init_subclass__(cls, **options: Any) -> None:
        """Check that it comes before the Trainer, whose methods it replaces."""
        super().__init_subclass__(**options)
        order = cls.__mro__
        before = order[1 : order.index(AdapterCheckpoints)]
        if trainer := next((base for base in before if "_load_best_model" in vars(base)), None):
            raise AdaptError(
                f"{cls.__name__}: AdapterCheckpoints has no effect after {trainer.__name__}",
                fix=f"class {cls.__name__}(AdapterCheckpoints, {trainer.__name__}): ...",
            )

    model: Any
    model_init: Any
    args: Any
    state: Any
    accelerator: Any
    processing_class: Any
    data_collator: Any

    def train(self, *arguments: Any, **options: Any) -> Any:
        """Train as the Trainer does; a model that is not adapted is refused before it trains."""
        if self.model_init is None:
            self._adapter()
        return super().train(*arguments, **options)  # type: ignore[misc]  # the Trainer's

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if state_dict is not None:  # gathered from shards
            super()._save(output_dir, state_dict)  # type: ignore[misc]  # the Trainer's
            return
        if not self.args.should_save:
            return
        folder = os.fspath(output_dir or self.args.output_dir)
        self._adapter().save_pretrained(folder)
        tokenizer = self.processing_class
        if tokenizer is None:
            tokenizer = getattr(self.data_collator, "tokenizer", None)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        torch.save(self.args, os.path.join(folder, _ARGUMENTS))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if not self._loaded(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]  # the Trainer's

    def _load_best_model(self) -> None:
        if not self._loaded(self.state.best_model_checkpoint):
            super()._load_best_model()  # type: ignore[misc]  # the Trainer's

    def _loaded(self, checkpoint: str) -> bool:
        """Load a checkpoint that holds an adapter's folder; return whether it does."""
        if Path(checkpoint, FILE).exists():
            resume(self._adapter(), checkpoint)
            return True
        whole = Path(checkpoint, _WEIGHTS)
        if whole.exists() and not any(name.startswith(f"{ATTRIBUTE}.") for name in StoredTensors(whole)):
            raise CheckpointError(
                f"{checkpoint} holds a model without an adapter",
                cause="it was written before the model was adapted, or is of another run",
                fix="trainer.train(), which starts anew, or name a checkpoint of this run",
            )
        return False

    def _adapter(self) -> Adapter:
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        adapter = getattr(model, ATTRIBUTE, None)
        if not isinstance(adapter, Adapter):
            raise AdaptError(
                f"AdapterCheckpoints: the Trainer's model, {type(model).__name__}, is not adapted",
                fix="call adapt(model) before the Trainer is made, or use the Trainer without AdapterCheckpoints",
            )
        return adapter
