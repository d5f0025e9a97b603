"""Models by name, for the command line: the bundled one, or any of timm's."""

from __future__ import annotations

import warnings
from pathlib import Path

import timm
import torch
from torch import nn

from .adapt.owners import head_parameters
from .errors import DataError, nearest
from .files import read_plain
from .nano import nano


def load_model(name: str, *, pretrained: bool = False, checkpoint: str | Path | None = None) -> nn.Module:
    """Make a model by name.

    Args:
        name: `nano`, which is always pretrained, or any name timm knows.
        pretrained: Load timm's weights, from its cache or the network.
        checkpoint: A safetensors file with the model's weights. A head of another size in it is left out.

    Returns:
        The model in evaluation mode.

    Raises:
        DataError: timm knows no such model, its weights cannot be had, or the file does not fit.
        CheckpointError: The file is missing or damaged.

    Examples:
        >>> type(load_model("nano")).__name__
        'VisionTransformer'
    """
    if name == "nano":
        model = nano()
    else:
        _check_name(name)
        try:
            model = timm.create_model(name, pretrained=pretrained)
        except Exception as error:  # whatever the hub, the network or the weights raise
            raise DataError(
                f"cannot make {name!r} with pretrained={pretrained}",
                got=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
                cause="there is no network, or timm has no such weights",
                fix="pass --checkpoint FILE, or leave --pretrained out",
            ) from error
    if checkpoint is not None:
        _load(model, checkpoint)
    return model.eval()


def model_shapes(name: str) -> nn.Module:
    """Make a model by name without memory for its weights, to plan on.

    Args:
        name: As in `load_model`.

    Raises:
        DataError: timm knows no such model.
    """
    if name == "nano":
        return nano(pretrained=False)
    _check_name(name)
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # initialising what has no storage
            model: nn.Module = timm.create_model(name)
    except RuntimeError as error:  # an unknown tag after the dot
        raise DataError(f"unknown model {name!r}", got=str(error).splitlines()[0], fix="leave the tag out") from error
    return model


def _check_name(name: str) -> None:
    known = timm.list_models()
    if name.split(".")[0] not in known:
        raise DataError(
            f"unknown model {name!r}",
            expected="nano, or a name of timm.list_models()",
            got=f"{name!r}{nearest(name, ['nano', *known])}",
            fix="see timm.list_models('*vit*')",
        )


def _load(model: nn.Module, path: str | Path) -> None:
    stored, own = read_plain(path), model.state_dict()
    head = {n for n in head_parameters(model, True) if n in stored and stored[n].shape != own[n].shape}
    wrong = [n for n, t in own.items() if n not in head and (n not in stored or stored[n].shape != t.shape)]
    if wrong or stored.keys() - own.keys():
        odd = sorted([*wrong, *(stored.keys() - own.keys())])
        raise DataError(
            f"{path} does not fit the model",
            expected=f"{len(own)} tensors named as in the model's state_dict",
            got=f"{len(odd)} that are missing, foreign or of another shape, {odd[0]!r} first",
            fix="pass weights of this architecture",
        )
    model.load_state_dict({**{n: t for n, t in stored.items() if n not in head}, **{n: own[n] for n in head}})
