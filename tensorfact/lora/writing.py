"""`to_lora`: write an adapter as a folder that peft loads."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from ..algebra.term import terms_of
from ..common.aliases import JsonObject
from ..common.checks import AnyPath, callback, file_path, flag, whole_number
from ..common.progress import Progress, silent
from ..common.table import Table
from ..errors import AdaptError, CheckpointError
from ..model.example import called_names
from ..model.parameters import base_parameters, owners_of
from ..model.sides import is_conv1d
from ..storage.files import packed
from ..storage.state import AdapterSource, state_of
from ..storage.writing import write_folder
from .config import CONFIG, WEIGHTS
from .files import PREFIX
from .matrices import LowRankIncrement, low_rank


@dataclasses.dataclass(frozen=True)
class Exported:
    """One linear layer, exported as LoRA.

    Args:
        module: The layer's name in the model.
        rank: The LoRA rank.
        error: The relative error in the Frobenius norm; 0 unless `rank` was limited.
    """

    module: str
    rank: int
    error: float


@dataclasses.dataclass(frozen=True)
class LoraFolder:
    """A peft LoRA folder that was written. Printed, it is a table of ranks.

    Args:
        path: The folder; None if nothing was written.
        layers: The exported layers.
        parameters: The number of entries in all matrices.
    """

    path: Path | None
    layers: tuple[Exported, ...]
    parameters: int

    def table(self) -> Table:
        """Return a table with one row per rank: the layers of this rank, and the largest error among them."""
        rows = []
        for rank in sorted({layer.rank for layer in self.layers}):
            same = [layer for layer in self.layers if layer.rank == rank]
            more = f" and {len(same) - 1} more" if len(same) > 1 else ""
            rows.append((f"{same[0].module}{more}", str(rank), f"{max(layer.error for layer in same):.2e}"))
        return Table(("layers", "rank", "largest relative error"), tuple(rows))

    def __str__(self) -> str:
        return str(self.table())


def to_lora(
    adapter: AdapterSource,
    model: nn.Module,
    folder: AnyPath | None,
    *,
    rank: int | None = None,
    head: bool = True,
    example_input: object = None,
    progress: Progress = silent,
) -> LoraFolder:
    """Write an adapter as a LoRA folder of peft: `adapter_config.json` and `adapter_model.safetensors`.

    Both files are written or none; other files in the folder stay. A process that is killed while it replaces an
    adapter leaves the old one, the new one, or a folder without `adapter_config.json`, which nothing reads.

    Every linear layer gets the smallest lossless rank: the rank of the network through the layer. A layer whose weight
    the model reads without calling the layer cannot be exported, since peft changes only calls.

    Args:
        adapter: An adapter on a model, an adapter state, or the path of an adapter file.
        model: The model, adapted or not; it may be on the meta device.
        folder: The folder to write; it is created if it does not exist. None writes nothing.
        rank: The maximum LoRA rank; layers that need more are approximated. By default the smallest lossless rank.
        head: Whether to store the trained head too, in `modules_to_save`.
        example_input: An input for a forward pass that finds which layers are called, as in `Adapter.check`; by default
            a known one. Without any, all layers count as called.
        progress: Called after each layer.

    Returns:
        The layers' ranks and errors.

    Raises:
        AdaptError: A parameter is not the weight of a linear layer that the model calls.
        CheckpointError: The folder cannot be written.

    Source: E. Hu et al., LoRA, ICLR 2022; the folder's layout is that of peft 0.17 and later.

    Examples:
        >>> import tempfile
        >>> from tensorfact import TensorTrain, adapt, plan_for, to_lora
        >>> from tensorfact.lab import nano
        >>> model = nano()
        >>> adapter = adapt(model, plan_for(model), TensorTrain(rank=4))
        >>> to_lora(adapter, model, tempfile.mkdtemp()).layers[0]
        Exported(module='blocks.0.attn.qkv', rank=4, error=0.0)
    """
    flag(head, "to_lora: head", AdaptError)
    callback(progress, "to_lora: progress", AdaptError)
    if rank is not None:
        rank = whole_number(rank, "to_lora: rank", AdaptError, expected="an int of at least 1, or None", example=8)
    if folder is not None:
        _check_folder(folder)
    state = state_of(adapter)
    resolved = state.description.resolve(model)
    modules = _linear_layers(model, resolved.parameters, example_input)
    kept = _kept_modules(model, state.head if head else {}, modules)
    layers: dict[str, LowRankIncrement] = {}
    for tensor in resolved.tensors:
        term, *start = terms_of(state, tensor.name)
        if start:
            raise AdaptError(
                f"to_lora: tensor {tensor.name!r} subtracts its start and is not a single network",
                fix="convert it first: convert(adapter, MatrixBatch('full'), tolerance=1e-6).state",
            )
        for view in tensor.views:
            found = low_rank(tensor, view, term.network, term.cores, rank)
            scaled = dataclasses.replace(found, up=found.up * state.description.scales[tensor.name])
            layers |= dict.fromkeys(modules[view.parameter], scaled)
            progress("exporting", len(layers), len(resolved.parameters))
    if folder is not None:
        tensors, config = _described(model, layers, [*kept])
        tensors |= {f"{PREFIX}{name}": value for each in kept.values() for name, value in each.items()}
        write_folder(folder, {CONFIG: (json.dumps(config, indent=2) + "\n").encode(), WEIGHTS: packed(tensors)})
    exported = tuple(Exported(name, layer.rank, layer.error) for name, layer in layers.items())
    return LoraFolder(
        None if folder is None else file_path(folder, "to_lora: folder", CheckpointError),
        exported,
        sum(layer.down.numel() + layer.up.numel() for layer in layers.values()),
    )


def _check_folder(folder: AnyPath) -> None:
    """Raise where the files cannot be written, before anything is computed."""
    folder = file_path(folder, "to_lora: folder", CheckpointError)
    taken = os.path.exists(folder) and not os.path.isdir(folder)
    if taken or any(os.path.isdir(folder / name) for name in (CONFIG, WEIGHTS)):
        raise CheckpointError(
            f"to_lora: cannot write to {str(folder)!r}",
            expected="the path of a folder",
            fix="choose another path",
        )


def _linear_layers(model: nn.Module, parameters: tuple[str, ...], example_input: object) -> dict[str, list[str]]:
    """Return the names of the linear layers that hold each parameter."""
    names = {module: name for name, module in model.named_modules()}
    called = called_names(model, example_input)
    found: dict[str, list[str]] = {}
    for parameter, owners in owners_of(model, parameters).items():
        for module, attribute in owners:
            linear = attribute == "weight" and (isinstance(module, nn.Linear) or is_conv1d(module))
            if not linear or (called is not None and names[module] not in called):
                got = f"{attribute!r} of {type(module).__name__.removeprefix('Adapted')}"
                if linear:
                    got += ", which is read, not called"
                raise AdaptError(
                    f"to_lora: {parameter!r} cannot be exported as LoRA",
                    expected="the weight of a linear layer that the model calls",
                    got=got,
                    cause="peft changes only the calls of linear layers",
                    fix="leave it out of the plan, or merge() and save the model's weights",
                )
            found.setdefault(parameter, []).append(names[module])
    return found


def _kept_modules(
    model: nn.Module, head: Mapping[str, Tensor], layers: Mapping[str, list[str]]
) -> dict[str, dict[str, Tensor]]:
    """Return the parameters that are stored whole, by the module that holds them."""
    kept: dict[str, dict[str, Tensor]] = {}
    adapted = {name for names in layers.values() for name in names}
    # modules without parameters and buffers, such as Identity, have nothing that could be mistaken
    holders = _holders(model)
    for name, value in head.items():
        module = name.rpartition(".")[0]
        if not module or module in adapted:
            raise AdaptError(
                f"to_lora: peft cannot store {name!r}: it stores whole modules without LoRA",
                fix="pass head=False and save it separately",
            )
        if also := [other for other in holders if other.endswith(module) and other != module]:
            raise AdaptError(
                f"to_lora: peft would mistake {also[0]!r} for {module!r}, since its name has the same ending",
                fix=f"pass head=False and save {module!r} separately",
            )
        kept.setdefault(module, {})[name] = value
    parameters = base_parameters(model)
    for module, values in kept.items():
        own = {name for name in parameters if name.rpartition(".")[0] == module}
        missing = sorted(own - values.keys())
        if any(parameters[name].is_meta for name in missing):
            raise AdaptError(
                f"to_lora: {missing[0]!r}, in the head's module, is on the meta device",
                fix="pass a model with weights, or head=False",
            )
        if missing:
            values |= {name: parameters[name].detach() for name in missing}
    return kept


def _holders(model: nn.Module) -> list[str]:
    """Return the names of the modules that hold a parameter or a buffer, themselves or below."""
    every = itertools.chain(model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
    paths = {name.rpartition(".")[0] for name, _ in every}
    above = {".".join(path.split(".")[:end]) for path in paths for end in range(1, path.count(".") + 2)}
    return [name for name, _ in model.named_modules() if name in above]


def _described(
    model: nn.Module, layers: Mapping[str, LowRankIncrement], kept: list[str]
) -> tuple[dict[str, Tensor], JsonObject]:
    """Return the matrices under peft's names, and the content of `adapter_config.json`."""
    ranks = [layer.rank for layer in layers.values()]
    usual = max(set(ranks), key=lambda rank: (ranks.count(rank), rank))
    patterns = {f"^{re.escape(name)}": layer.rank for name, layer in layers.items() if layer.rank != usual}
    tensors = {}
    for name, layer in layers.items():
        tensors[f"{PREFIX}{name}.lora_A.weight"] = layer.down.float()
        tensors[f"{PREFIX}{name}.lora_B.weight"] = layer.up.float()
    named = dict(model.named_modules())
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": usual,
        "lora_alpha": usual,  # scaling alpha / r is 1: the matrices hold the scale
        "rank_pattern": patterns,
        "alpha_pattern": patterns,
        "target_modules": f"({'|'.join(re.escape(name) for name in layers)})",
        "modules_to_save": kept or None,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": all(is_conv1d(named[name]) for name in layers),
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
    }
    return tensors, config
