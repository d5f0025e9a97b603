"""States of accelerate, `save_state` and `load_state`, that hold the adapter's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import nn

from ..adapters import Adapter
from ..model.parameters import ATTRIBUTE
from .resuming import resume


def small_states(accelerator: Accelerator) -> None:
    """Make `save_state` write the adapter of each prepared model instead of the model, and `load_state` read it.

    The folder of a state is then that of `Adapter.save_pretrained`, which `tensorfact.load` reads, beside accelerate's
    own files; a second adapted model has the folder `adapter_1` in it. Models without an adapter are stored as before,
    and so are models that accelerate shards (FSDP, DeepSpeed).

    Args:
        accelerator: The accelerator, before or after `prepare`.

    Examples:
        >>> import tempfile
        >>> from accelerate import Accelerator
        >>> from tensorfact import adapt
        >>> from tensorfact.lab import nano
        >>> accelerator, folder = Accelerator(cpu=True), tempfile.mkdtemp()
        >>> small_states(accelerator)
        >>> model = nano()
        >>> adapter = adapt(model)
        >>> model = accelerator.prepare(model)
        >>> _ = accelerator.save_state(folder)
        >>> accelerator.load_state(folder)
    """

    def save(models: list[nn.Module], weights: list[dict[str, Any]], folder: str) -> None:
        each = accelerator.project_configuration.save_on_each_node
        writes = accelerator.is_local_main_process if each else accelerator.is_main_process
        for index, adapter in reversed(_adapters(accelerator, models[: len(weights)])):
            del weights[index]
            if writes:
                adapter.save_pretrained(_place(folder, index))

    def load(models: list[nn.Module], folder: str) -> None:
        for index, adapter in reversed(_adapters(accelerator, models)):
            del models[index]
            resume(adapter, _place(folder, index))

    accelerator.register_save_state_pre_hook(save)
    accelerator.register_load_state_pre_hook(load)


def _adapters(accelerator: Accelerator, models: list[nn.Module]) -> list[tuple[int, Adapter]]:
    found = [getattr(accelerator.unwrap_model(model), ATTRIBUTE, None) for model in models]
    return [(index, adapter) for index, adapter in enumerate(found) if isinstance(adapter, Adapter)]


def _place(folder: str, index: int) -> Path:
    return Path(folder, f"adapter_{index}") if index else Path(folder)
