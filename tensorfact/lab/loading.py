"""`load`: an adapted model, its preprocessing and its classes, from a folder or the Hub."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from ..adapters import load_adapter
from ..common.checks import AnyPath, flag
from ..errors import CheckpointError, DataError, FingerprintError, naming
from ..model.origin import ModelOrigin
from ..network.cost import usable
from ..storage.folder import AdapterInfo
from ..storage.located import ABOUT, adapter_folder
from .data.images import Transform, transform_from, transform_of
from .models import image_processor, load_model, with_head


class Loaded(NamedTuple):
    """An adapted model and what is needed to use it on new data.

    Attributes:
        model: The adapted model, in evaluation mode; its adapter is `model.tensorfact`.
        transform: Preprocessing of an image of any mode for the model; None if the model takes no images.
        classes: The names of the classes, by index; empty if they are not known.
    """

    model: nn.Module
    transform: Transform | None
    classes: tuple[str, ...]


def load(
    source: AnyPath,
    *,
    model: nn.Module | None = None,
    checkpoint: AnyPath | None = None,
    device: str | torch.device | None = None,
    check_base: bool = True,
) -> Loaded:
    """Make the adapted model of a folder that `Adapter.save_pretrained` wrote.

    The base model is made by timm or transformers, which download its pretrained weights if it has them.

    Args:
        source: The folder; or `OWNER/NAME`, a repository on the Hub with such a folder.
        model: The base model, if it is not to be made by the name in the folder.
        checkpoint: Safetensors file with the base weights; default: as the folder says.
        device: Where to put the model; default: the CPU.
        check_base: As in `load_adapter`.

    Returns:
        The model, its preprocessing and its classes.

    Raises:
        CheckpointError: The folder is missing, damaged, or cannot be downloaded; or the file of the base weights is
            missing.
        DataError: The base model cannot be made.
        DeviceError: torch cannot use the device on this machine.
        FingerprintError: The base weights are not those that the adapter was trained on; or the model that was made
            by name gives other outputs, because it was created with options that its library does not record.

    Examples:
        >>> import tempfile
        >>> from tensorfact import adapt, load
        >>> from tensorfact.lab import nano
        >>> folder = tempfile.mkdtemp()
        >>> adapt(nano()).save_pretrained(folder)
        >>> load(folder).model.tensorfact.num_parameters
        6144
    """
    flag(check_base, "load: check_base", DataError)
    place = None if device is None else usable(device)
    folder = adapter_folder(source)
    info = AdapterInfo.read(folder)
    made = _base(info.origin, checkpoint, folder) if model is None else model
    with naming(folder):
        transform = _transform(info, made)  # before the model is changed: its description may be damaged
    load_adapter(made, folder, check_base=check_base).info = info
    if model is None and check_base:
        _require_outputs(info, made, folder)
    made = made.eval() if place is None else made.eval().to(place)
    return Loaded(made, transform, info.classes)


def _base(origin: ModelOrigin, checkpoint: AnyPath | None, folder: Path) -> nn.Module:
    """Make the base model that an adapter was trained on."""
    weights = origin.checkpoint if checkpoint is None else checkpoint
    if not origin.can_be_made and (not origin.name or checkpoint is None):
        raise DataError(
            f"{folder} does not say where the weights of its base model come from",
            got=f"the model {origin.name!r}" if origin.name else "no name of a model",
            cause="a model of one's own, or one whose weights were drawn at random",
            fix="pass the base model: tensorfact.load(folder, model=model)",
        )
    if checkpoint is None and weights is not None and not Path(weights).exists():
        raise CheckpointError(
            f"the weights of the base model of {folder} are missing",
            expected=f"the file {weights}, as when the adapter was saved",
            got="no such file",
            cause="the file was moved, or the adapter was saved on another machine",
            fix="pass checkpoint=FILE, where the weights are now",
        )
    seed = origin.seed or 0
    pretrained = origin.pretrained and weights is None
    with _explained(origin, folder, pretrained=pretrained):
        model = load_model(origin.name, pretrained=pretrained, checkpoint=weights, seed=seed, **origin.options)
    if origin.classes is not None and getattr(model, "num_classes", None) != origin.classes:
        with_head(model, origin.classes, seed)
    return model


@contextlib.contextmanager
def _explained(origin: ModelOrigin, folder: Path, *, pretrained: bool) -> Iterator[None]:
    """Context manager in which errors of making a base model say which folder asks for it, and what to pass instead."""
    try:
        yield
    except DataError as error:
        reason = error.__cause__ or error
        raise DataError(
            f"{folder}: its base model {origin.name!r} cannot be made{' with pretrained weights' * pretrained}",
            got=str(reason).partition("\n")[0] or type(reason).__name__,
            cause="no network; or the weights were never the pretrained ones, which timm does not record"
            if pretrained
            else "a model or an option that this version of its library does not have, or weights of another model",
            fix="pass the base model: tensorfact.load(folder, model=model); or its weights: checkpoint=FILE",
        ) from error


def _require_outputs(info: AdapterInfo, model: nn.Module, folder: Path) -> None:
    """Raise unless a model that was made by name computes what the trained model computed."""
    if info.output is None or (difference := info.output.difference(model)) <= info.output.tolerance:
        return
    raise FingerprintError(
        f"{info.origin.name} as it was made again gives other outputs than the model of {folder}",
        expected=f"the outputs stored in {ABOUT}, to {info.output.tolerance:.0%} of the largest",
        got=f"a difference of {difference:.0%}",
        cause="options such as global_pool or act_layer of the trained model, which are stored only for models that"
        " tensorfact.lab.models.load_model made",
        fix="pass the base model: tensorfact.load(folder, model=timm.create_model(NAME, ...))",
    )


def _transform(info: AdapterInfo, model: nn.Module) -> Transform | None:
    if info.transform is not None:
        return transform_from(info.transform)
    if hasattr(model, "pretrained_cfg"):
        return transform_of(model)
    source, _, name = info.origin.name.partition(":")
    return image_processor(name) if source == "hf" and info.origin.pretrained else None
