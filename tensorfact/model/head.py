"""What may train beside the factors: the head of a model, its classifier, and parameters that match patterns."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import Tensor, nn

from ..common.checks import quoted
from ..errors import AdaptError, nearest
from .parameters import base_parameters, each_once

HEADS = ("classifier", "head", "heads", "fc", "score")
"""Attributes of a model that torchvision, and many others, give their classifier."""


def stated_head(model: nn.Module) -> tuple[str, ...]:
    """Return the names of a timm model's classifier modules, from `pretrained_cfg["classifier"]`."""
    config = getattr(model, "pretrained_cfg", None)
    named = config.get("classifier") if isinstance(config, Mapping) else None
    names = named if isinstance(named, (tuple, list)) else (named,)
    return tuple(name for name in names if isinstance(name, str) and name)


def head_prefixes(model: nn.Module) -> tuple[str, ...]:
    """Return the names of a model's head: the modules that turn features into predictions of a task.

    timm states them. A model of transformers for a task holds its base model and, beside it, the head; a language
    model, whose predictions are words, has none. Of any other model it is the last layer of a module that is called
    `classifier`, `head`, `heads`, `fc` or `score`.
    """
    if stated := stated_head(model):
        return stated
    base, words = getattr(model, "base_model", None), getattr(model, "get_output_embeddings", None)
    if isinstance(base, nn.Module) and callable(words):
        if words() is not None:
            return ()
        if base is not model and _takes_inputs(model, base):
            beside = ((name, child) for name, child in model.named_children() if child is not base)
            return tuple(name for name, child in beside if next(child.parameters(), None) is not None)
    last = (_last_layer(model, name) for name in HEADS)
    return next(((name,) for name in last if name), ())


def _takes_inputs(model: nn.Module, base: nn.Module) -> bool:
    """Return whether the inputs of a model of transformers enter its base model, so that what is beside it is a head.

    DINOv3's own base model calls its encoder `model`, beside the patch embedding and the last norm.
    """
    with contextlib.suppress(Exception):  # a model without one raises, an unknown model anything
        embeddings = model.get_input_embeddings()  # type: ignore[operator]  # of transformers
        return not isinstance(embeddings, nn.Module) or any(module is embeddings for module in base.modules())
    return True


def _last_layer(model: nn.Module, name: str) -> str:
    """Return the name of the last linear layer or convolution in a child of a model; empty if it has none."""
    child = model._modules.get(name)
    found = [path for path, module in child.named_modules() if isinstance(module, _LAYERS)] if child is not None else []
    return ".".join(filter(None, (name, found[-1]))) if found else ""


_LAYERS = (nn.Linear, nn.Conv2d)


def is_below(name: str, prefixes: tuple[str, ...]) -> bool:
    """Return whether a parameter has one of these names or lies in a module of one of them."""
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def head_buffers(model: nn.Module, head: Iterable[str]) -> dict[str, Tensor]:
    """Return the buffers of the head's modules, such as a normalisation's running statistics."""
    modules = {name.rpartition(".")[0] for name in head}
    return {name: buffer for name, buffer in model.named_buffers() if name.rpartition(".")[0] in modules}


def head_parameters(model: nn.Module, train_head: bool | str | Sequence[str]) -> tuple[str, ...]:
    """Return the names of the head's parameters."""
    named = (train_head,) if isinstance(train_head, str) else train_head
    if not isinstance(named, bool):
        named = tuple(named) if isinstance(named, Sequence) else ()
        if not named or not all(isinstance(name, str) and name for name in named):
            raise AdaptError(
                "adapt: train_head",
                expected="True, False, a module's name, or several names",
                got=quoted(train_head),
                fix="train_head=True",
            )
    if not named or not isinstance(model, nn.Module):
        return ()
    parameters = base_parameters(model)
    prefixes = head_prefixes(model) if isinstance(named, bool) else named
    found = tuple(name for name in parameters if is_below(name, prefixes))
    unknown = [] if isinstance(named, bool) else [each for each in named if not _has_parameters(parameters, each)]
    if unknown:
        names = [name for name, _ in model.named_modules()]
        raise AdaptError(
            f"adapt: train_head={train_head!r}: {unknown[0]!r} names no module with parameters",
            got=f"{unknown[0]!r}{nearest(unknown[0], names)}",
            fix="pass the head's module name, or train_head=False",
        )
    if not found and (meant := _could_be_heads(model)):
        raise AdaptError(
            f"adapt: no head was found in {type(model).__name__}, which has {model.num_classes} classes",
            cause="its classifier has a name of its own, and would stay frozen as it is",
            fix=f"train_head={meant[-1]!r}, or train_head=False",
        )
    return found


def matching_parameters(model: nn.Module, train: str | Sequence[str]) -> tuple[str, ...]:
    """Return the names of the parameters that match one of several patterns, a tied parameter once.

    Args:
        model: The base model.
        train: A pattern or several, as in `adapt`: each is compared with every run of the components of a name, so that
            `norm1` matches `blocks.0.norm1.weight`, and so do `blocks.*.norm1` and `norm*`.

    Raises:
        AdaptError: A pattern is no text, or matches nothing.
    """
    patterns = (train,) if isinstance(train, str) else train
    if not isinstance(patterns, Sequence) or not all(isinstance(pattern, str) and pattern for pattern in patterns):
        raise AdaptError(
            "adapt: train",
            expected="a name or pattern of modules or parameters, or several",
            got=quoted(train),
            fix="train='norm*', or train=('norm*', 'bias')",
        )
    if not patterns:
        return ()
    parameters = base_parameters(model)
    runs = {name: _runs(name) for name in parameters}
    for pattern in patterns:
        if not any(_matches(each, pattern) for each in runs.values()):
            raise AdaptError(
                f"adapt: train={train!r}: a pattern that matches no module with parameters and no parameter",
                got=f"{pattern!r}{nearest(pattern, dict.fromkeys(run for each in runs.values() for run in each))}",
                fix=f"leave {pattern!r} out, or use a name from model.named_parameters()",
            )
    found = {name: parameters[name] for name, each in runs.items() if any(_matches(each, p) for p in patterns)}
    return tuple(each_once(found))


def _runs(name: str) -> list[str]:
    """Return every run of consecutive components of a parameter's name: `a.b` has the runs `a`, `a.b` and `b`."""
    parts = name.split(".")
    return [".".join(parts[start:end]) for start in range(len(parts)) for end in range(start + 1, len(parts) + 1)]


def _matches(runs: Iterable[str], pattern: str) -> bool:
    return any(fnmatchcase(run, pattern) for run in runs)


def _has_parameters(parameters: Iterable[str], module: str) -> bool:
    return any(is_below(name, (module,)) for name in parameters)


def _could_be_heads(model: nn.Module) -> list[str]:
    """Return the layers with as many outputs as the model has classes, if it says how many."""
    classes = getattr(model, "num_classes", None)
    if not isinstance(classes, int) or classes < 1:
        return []
    return [name for name, m in model.named_modules() if isinstance(m, nn.Linear) and m.out_features == classes]
