"""Models by name, for the command line: the bundled one, timm's, transformers', torch's own."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any, cast

import timm
import torch
from torch import nn

from ..common.checks import AnyPath
from ..errors import AdaptError, DataError, TensorfactError, nearest
from ..formats.options import read_options
from ..model.head import head_parameters
from ..storage.files import read_plain
from .bundled import nano

Maker = Callable[..., nn.Module]


def make_model(name: str, *, pretrained: bool = False, **options: Any) -> nn.Module:
    """Make a model by name.

    Args:
        name: `nano`; any name timm knows; `hf:` and a model type of transformers (`hf:bert`), a folder with a
            `config.json` or a name on its hub; `torch:` and a class of `torch.nn` (`torch:Transformer`). Options may
            follow in parentheses: `vit_tiny_patch16_224(depth=2)`.
        pretrained: Load the weights, from a cache or the network; `nano` brings its own.
        options: Passed to the model, or to its configuration.

    Returns:
        The model.

    Raises:
        DataError: There is no such model, or its weights cannot be had.

    Examples:
        >>> type(make_model("torch:TransformerEncoderLayer", d_model=16, nhead=2)).__name__
        'TransformerEncoderLayer'
    """
    name, written = _options(name)
    options = {**written, **options}
    source, separator, rest = name.partition(":")
    maker = _SOURCES.get(source) if separator else _nano if name == "nano" else _timm
    if maker is None:
        known = ", ".join(f"{prefix}:" for prefix in _SOURCES)
        raise DataError(f"unknown model {name!r}", expected=f"a timm name, or one that begins with {known}", got=source)
    try:
        return maker(rest if separator else name, pretrained=pretrained, **options)
    except TensorfactError:
        raise
    except Exception as error:  # whatever the hub, the network, the weights or the options raise
        raise DataError(
            f"cannot make {name!r}" + (" with pretrained weights" if pretrained else ""),
            got=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            cause="there is no network, there are no such weights, or an option is wrong",
            fix="check the name, pass --checkpoint FILE, or leave --pretrained out",
        ) from error


def load_model(name: str, *, pretrained: bool = False, checkpoint: AnyPath | None = None, **options: Any) -> nn.Module:
    """Make a model by name, with weights.

    Args:
        name: As in `make_model`.
        pretrained: As in `make_model`.
        checkpoint: A safetensors file with the model's weights. A head of another size in it is left out.
        options: As in `make_model`.

    Returns:
        The model in evaluation mode.

    Raises:
        DataError: There is no such model, its weights cannot be had, or the file does not fit.
        CheckpointError: The file is missing or damaged.

    Examples:
        >>> type(load_model("nano")).__name__
        'VisionTransformer'
    """
    model = make_model(name, pretrained=pretrained or _options(name)[0] == "nano", **options)
    if checkpoint is not None:
        _load(model, checkpoint)
    return model.eval()


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let a seed decide what torch draws while the context lasts; the caller's random state stays as it was.

    Args:
        seed: The seed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def with_head(model: nn.Module, classes: int, seed: int) -> nn.Module:
    """Give a model a new head, in place.

    Args:
        model: A timm model, or one with `reset_classifier`.
        classes: How many classes the head tells apart.
        seed: What draws it.

    Returns:
        The model.

    Raises:
        AdaptError: It cannot get one.
    """
    if not hasattr(model, "reset_classifier"):
        raise AdaptError(
            f"{type(model).__name__} has no reset_classifier()",
            cause="only timm's models and the like know how to replace their head",
            fix="pass a timm model, or give the model a reset_classifier(num_classes) method",
        )
    device = next(model.parameters()).device
    with seeded(seed):
        model.reset_classifier(classes)  # type: ignore[operator]  # timm's, which nn.Module does not declare
    return model.to(device)


def model_shapes(name: str, **options: Any) -> nn.Module:
    """Make a model by name without memory for its weights, to plan on.

    Args:
        name: As in `make_model`.
        options: As in `make_model`.

    Raises:
        DataError: There is no such model.
    """
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # initialising what has no storage
        return make_model(name, **options)


def _options(name: str) -> tuple[str, dict[str, Any]]:
    """Split a model's name from its options."""
    bare, bracket, rest = name.partition("(")
    if not bracket:
        return name, {}
    try:
        if not rest.endswith(")"):
            raise ValueError(rest)  # noqa: TRY301
        return bare, read_options(rest[:-1])
    except ValueError as error:
        raise DataError("a model's options", expected="NAME(option=value,...)", got=repr(name)) from error


def _nano(name: str, *, pretrained: bool, **options: Any) -> nn.Module:
    return nano(pretrained=pretrained, **options)


def _timm(name: str, *, pretrained: bool, **options: Any) -> nn.Module:
    known = timm.list_models()
    if name.split(".")[0] not in known:
        raise DataError(
            f"unknown model {name!r}",
            expected="nano, a name of timm.list_models(), or hf:NAME",
            got=f"{name!r}{nearest(name, ['nano', *known])}",
            fix="see timm.list_models('*vit*')",
        )
    return cast("nn.Module", timm.create_model(name, pretrained=pretrained, **options))


def _transformers(name: str, *, pretrained: bool, **options: Any) -> nn.Module:
    try:
        import transformers
    except ImportError as error:
        raise DataError(f"hf:{name} needs transformers", fix="pip install 'tensorfact[transformers]'") from error
    with _quiet(transformers.logging):
        if pretrained:
            return cast("nn.Module", transformers.AutoModel.from_pretrained(name, **options))
        known = name in transformers.CONFIG_MAPPING
        configure = transformers.AutoConfig.for_model if known else transformers.AutoConfig.from_pretrained
        return cast("nn.Module", transformers.AutoModel.from_config(configure(name, **options)))


def _torch(name: str, *, pretrained: bool, **options: Any) -> nn.Module:
    if pretrained:
        raise DataError(f"torch:{name} has no pretrained weights", fix="leave --pretrained out")
    cls = getattr(nn, name, None)
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise DataError(f"torch.nn has no module {name!r}", fix="torch:Transformer, torch:TransformerEncoderLayer, ...")
    return cls(**options)


@contextlib.contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    """Keep transformers' remarks on configurations to itself while it makes a model."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


_SOURCES: dict[str, Maker] = {"hf": _transformers, "torch": _torch}


def _load(model: nn.Module, path: AnyPath) -> None:
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
