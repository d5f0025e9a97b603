"""Make models by name: the bundled one, and those of timm, transformers and torch.nn."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..common.checks import AnyPath, flag
from ..errors import AdaptError, DataError, TensorfactError, nearest
from ..formats.options import read_options
from ..model.head import head_parameters, head_prefixes, is_below
from ..model.origin import ModelOrigin, origin_of, record_origin
from ..storage.files import read_plain
from ..storage.located import FILE
from .bundled import nano
from .data.images import ToRGB
from .dinov2 import dinov2_s

Maker = Callable[..., nn.Module]


def make_model(name: str, *, pretrained: bool = False, **options: object) -> nn.Module:
    """Make a model by name.

    Args:
        name: `nano`; `dinov2-s`, whose weights `tensorfact fetch` downloads; a timm name; `hf:` and a model type of
            transformers (`hf:bert`), a folder with a `config.json` or a name on the hub, with the class as
            `architecture`, such as `hf:bert(architecture=BertForMaskedLM)`; or `torch:` and a class of `torch.nn`
            (`torch:Transformer`). Options may follow in parentheses: `vit_tiny_patch16_224(depth=2)`.
        pretrained: Load pretrained weights, from a cache or the network; those of `nano` are in the package.
        options: Keyword arguments of the model, or of its configuration.

    Returns:
        The model.

    Raises:
        DataError: The model is unknown, or its weights cannot be loaded.

    Examples:
        >>> type(make_model("torch:TransformerEncoderLayer", d_model=16, nhead=2)).__name__
        'TransformerEncoderLayer'
    """
    flag(pretrained, "make_model: pretrained", DataError)
    name, written = _options(name)
    options = {**written, **options}
    source, separator, rest = name.partition(":")
    maker = _SOURCES.get(source) if separator else _timm
    if maker is None:
        known = ", ".join(f"{prefix}:" for prefix in _SOURCES)
        raise DataError(
            f"unknown model {name!r}",
            expected=f"nano, dinov2-s, a timm name, or a name that begins with {known}",
            got=f"{source}:{nearest(source, _SOURCES)}",
        )
    try:
        if name in _OWN:
            return _OWN[name](pretrained=pretrained, **options)
        return maker(rest if separator else name, pretrained=pretrained, **options)
    except TensorfactError:
        raise
    except Exception as error:  # whatever the hub, the network, the weights or the options raise
        cause, fix = "a wrong option", "check the name and its options"
        if pretrained:
            cause = "no network, no such weights, or a wrong option"
            fix = "check the name, pass checkpoint=FILE, or leave out pretrained=True"
        elif isinstance(error, OSError):  # of transformers, which reads a configuration for every other name
            cause = "no network, or no such model"
        raise DataError(
            f"cannot make {name!r}{' with pretrained weights' * pretrained}",
            got=f"{type(error).__name__}: {error}".partition("\n")[0],
            cause=cause,
            fix=fix,
        ) from error


def load_model(
    name: str, *, pretrained: bool = False, checkpoint: AnyPath | None = None, seed: int | None = 0, **options: object
) -> nn.Module:
    """Make a model by name and load its weights; `nano` and `dinov2-s` are always pretrained.

    Args:
        name: As in `make_model`.
        pretrained: As in `make_model`.
        checkpoint: Safetensors file with the model's weights. A head of another size is not loaded.
        seed: Seed of the weights that are neither pretrained nor in the file, such as those of a new head; None: they
            are drawn from torch's global generator.
        options: As in `make_model`.

    Returns:
        The model in evaluation mode.

    Raises:
        DataError: The model is unknown, its weights cannot be loaded, or the file does not fit.
        CheckpointError: The file is missing or damaged.

    Examples:
        >>> type(load_model("nano")).__name__
        'VisionTransformer'
    """
    flag(pretrained, "load_model: pretrained", DataError)
    pretrained = pretrained or _options(name)[0] in _OWN
    with contextlib.nullcontext() if seed is None else seeded(seed):
        model = make_model(name, pretrained=pretrained, **options)
    if checkpoint is not None:
        _load(model, checkpoint)
    drawn = seed if not pretrained and checkpoint is None else None
    file = None if checkpoint is None else os.path.abspath(os.fsdecode(checkpoint))  # it may be read from elsewhere
    record_origin(model, ModelOrigin(name, options, pretrained, file, drawn))
    return model.eval()


def load_classifier(
    name: str, *, pretrained: bool = False, checkpoint: AnyPath | None = None, seed: int | None = 0, **options: object
) -> nn.Module:
    """Load a model that classifies images: as `load_model`, and with transformers' head for it.

    Args:
        name: As in `make_model`; of `hf:NAME`, the class is `AutoModelForImageClassification` unless `architecture` is
            another.
        pretrained: As in `make_model`.
        checkpoint: As in `load_model`.
        seed: As in `load_model`.
        options: As in `make_model`.

    Returns:
        The model in evaluation mode.

    Raises:
        DataError: As in `load_model`; or transformers has no class for image classification of this type.

    Examples:
        >>> type(load_classifier("hf:vit", num_hidden_layers=1)).__name__
        'ViTForImageClassification'
    """
    bare, written = _options(name)
    if bare.startswith("hf:") and "architecture" not in {**written, **options}:
        options = {**options, "architecture": "AutoModelForImageClassification"}
    return load_model(name, pretrained=pretrained, checkpoint=checkpoint, seed=seed, **options)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Context in which torch draws from a seed; on exit the caller's random state on the CPU is restored.

    Args:
        seed: Seed for `torch.manual_seed`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def with_head(model: nn.Module, classes: int, seed: int) -> nn.Module:
    """Give a model a new head, in place.

    Args:
        model: A timm model, one of transformers for image classification, or another with a `reset_classifier` method.
        classes: Number of classes.
        seed: Seed of the head's initial weights.

    Returns:
        The model.

    Raises:
        AdaptError: The model has neither a `reset_classifier` method nor a head of transformers.
    """
    device = next(model.parameters()).device
    with seeded(seed):
        if hasattr(model, "reset_classifier"):
            model.reset_classifier(classes)  # type: ignore[operator]  # timm's, which nn.Module does not declare
        elif layers := _class_layers(model):
            _replace_layers(model, layers, classes)
        else:
            raise AdaptError(
                f"{type(model).__name__} has no reset_classifier()",
                expected="a timm model, or one of transformers for image classification",
                fix="hf:NAME(architecture=AutoModelForImageClassification), or write reset_classifier(num_classes)",
            )
    return model.to(device)


def _class_layers(model: nn.Module) -> list[str]:
    """Return the linear layers in the head of a model of transformers, with one output per class."""
    labels = getattr(getattr(model, "config", None), "num_labels", None)
    heads = head_prefixes(model)
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == labels and is_below(name, heads)
    ]


def _replace_layers(model: Any, layers: list[str], classes: int) -> None:
    """Replace linear layers by ones with an output per class, initialised as transformers does."""
    for name in layers:
        old = model.get_submodule(name)
        new = nn.Linear(old.in_features, classes, old.bias is not None)
        model._init_weights(new)
        model.set_submodule(name, new)
    model.config.num_labels = classes
    model.num_labels = classes
    origin = origin_of(model)
    record_origin(model, dataclasses.replace(origin, options={**origin.options, "num_labels": classes}))


def model_shapes(name: str, **options: Any) -> nn.Module:
    """Make a model by name on the meta device, without memory for weights, to plan on.

    Args:
        name: As in `make_model`.
        options: As in `make_model`.

    Raises:
        DataError: The model is unknown.
    """
    with torch.device("meta"), _Unfilled(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # initialisers warn about tensors without storage
        return make_model(name, **options)


class _Unfilled(TorchFunctionMode):
    """Leaves out what initialisers write into tensors on the meta device: it has no effect, and takes long there."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return args[0] if func in _WRITES and args[0].is_meta else func(*args, **kwargs or {})


_WRITES = {
    getattr(Tensor, f"{name}_") for name in ("uniform", "normal", "erfinv", "mul", "add", "clamp", "fill", "zero")
}


def _options(name: str) -> tuple[str, dict[str, object]]:
    """Split a model's name into the name and its options."""
    bare, bracket, rest = name.partition("(")
    if not bracket:
        return name, {}
    try:
        if not rest.endswith(")"):
            raise ValueError("the last bracket is missing")  # noqa: TRY301
        return bare, read_options(rest[:-1])
    except ValueError as error:
        raise DataError(
            f"cannot read the options of the model {name!r}: {error}",
            expected="NAME(option=value,...), where every option is named",
            fix="torch:Linear(in_features=4,out_features=4)",
        ) from error


def _timm(name: str, *, pretrained: bool, **options: object) -> nn.Module:
    known = timm.list_models()
    if name.split(".")[0] not in known:
        if (Path(name) / FILE).is_file():
            raise DataError(
                f"{name} is a folder with an adapter, not a model",
                expected="nano, dinov2-s, a timm name, hf:NAME or torch:CLASS",
                fix=f"give the name of a model; `tensorfact inspect {name}` describes the adapter",
            )
        raise DataError(
            f"unknown model {name!r}",
            expected="nano, dinov2-s, a timm name, hf:NAME or torch:CLASS",
            got=f"{name!r}{nearest(name, [*_OWN, *known])}",
            fix="list the names with timm.list_models('*vit*')",
        )
    return cast("nn.Module", timm.create_model(name, pretrained=pretrained, **options))


def _transformers(name: str, *, pretrained: bool, architecture: str = "AutoModel", **options: object) -> nn.Module:
    try:
        import transformers
    except ImportError as error:
        raise DataError(f"hf:{name} needs transformers", fix="pip install 'tensorfact[transformers]'") from error
    cls: Any = getattr(transformers, architecture, None)
    if not hasattr(cls, "from_pretrained"):
        raise DataError(f"transformers has no model {architecture!r}", fix="architecture='AutoModel'")
    with _quiet(transformers.logging):
        if pretrained:
            return cast("nn.Module", cls.from_pretrained(name, **options))
        options = {key: list(value) if isinstance(value, tuple) else value for key, value in options.items()}
        known = name in transformers.CONFIG_MAPPING
        configure = transformers.AutoConfig.for_model if known else transformers.AutoConfig.from_pretrained
        usual = configure(name)
        if unknown := [option for option in options if not hasattr(usual, option)]:  # transformers takes any
            raise DataError(
                f"hf:{name}: {type(usual).__name__} has no option {unknown[0]!r}",
                got=f"{unknown[0]!r}{nearest(unknown[0], usual.to_dict())}",
                fix="leave it out, or use a name of the configuration",
            )
        config = configure(name, **options)
        config.architectures = config.architectures or []  # of several classes for a task, transformers reads it
        return cast("nn.Module", cls.from_config(config) if hasattr(cls, "from_config") else cls(config))


class Processed:
    """Preprocessing of an image of any mode by an image processor of transformers.

    Args:
        processor: The image processor.
    """

    def __init__(self, processor: Callable[..., Any]) -> None:
        self.processor, self.to_rgb = processor, ToRGB()

    def __call__(self, image: Image.Image) -> Tensor:
        """Return the input of the model.

        Args:
            image: The image.

        Raises:
            DataError: Its pixels have no known range.
        """
        return cast("Tensor", self.processor(images=self.to_rgb(image), return_tensors="pt")["pixel_values"][0])

    def __repr__(self) -> str:
        return f"Processed({self.processor})"


def image_processor(name: str) -> Callable[[Image.Image], Tensor] | None:
    """Return the preprocessing of a pretrained model of transformers; None if it takes no images.

    Args:
        name: A folder or a name on the hub.
    """
    import transformers

    try:
        with _quiet(transformers.logging):
            processor = transformers.AutoImageProcessor.from_pretrained(name)
    except (ImportError, OSError, ValueError):  # the model has none, or it needs another library
        return None
    return Processed(processor)


def _torch(name: str, *, pretrained: bool, **options: object) -> nn.Module:
    if pretrained:
        raise DataError(f"torch:{name} has no pretrained weights", fix="leave out pretrained=True")
    cls = getattr(nn, name, None)
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise DataError(f"torch.nn has no module {name!r}", fix="use a class of torch.nn, such as torch:Transformer")
    return cls(**options)


@contextlib.contextmanager
def _quiet(logging: ModuleType) -> Iterator[None]:
    """Context in which transformers logs errors only, not its remarks on configurations."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


_OWN: dict[str, Maker] = {"nano": nano, "dinov2-s": dinov2_s}
"""The models whose weights tensorfact brings or fetches itself."""

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
            got=f"{len(odd)} missing, unknown or of another shape, the first {odd[0]!r}",
            fix="pass weights of this architecture",
        )
    model.load_state_dict({**{n: t for n, t in stored.items() if n not in head}, **{n: own[n] for n in head}})
