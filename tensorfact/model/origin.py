"""Where a base model comes from: enough to make it again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from torch import nn

from ..common.aliases import Options
from .example import timm_shape

_RECORDED = "_tensorfact_origin"


@dataclasses.dataclass(frozen=True)
class ModelOrigin:
    """The name of a model and where its weights come from.

    Args:
        name: The name that `tensorfact.lab.models.load_model` takes: `nano`, a timm name, `hf:NAME` or `torch:CLASS`;
            empty if it is not known.
        options: Keyword arguments of the model.
        pretrained: Whether its weights are those that its library downloads.
        checkpoint: The safetensors file that its weights were loaded from, by its absolute path.
        seed: The seed that its weights were drawn from.
        classes: The number of classes of its head, which may have been replaced since it was made; None without one.
        repository: The repository on the Hub that holds its weights; empty if it is not known.
        license: The license of its weights; empty if it is not known.
    """

    name: str = ""
    options: Options = dataclasses.field(default_factory=dict)
    pretrained: bool = False
    checkpoint: str | None = None
    seed: int | None = None
    classes: int | None = None
    repository: str = ""
    license: str = ""

    def __post_init__(self) -> None:
        kinds = {"name": str, "options": Mapping, "pretrained": bool, "repository": str, "license": str}
        optional = {"checkpoint": str, "seed": int, "classes": int}
        wrong = [name for name, kind in kinds.items() if not isinstance(getattr(self, name), kind)]
        wrong += [name for name, kind in optional.items() if not isinstance(getattr(self, name), kind | None)]
        if wrong or not all(isinstance(name, str) for name in self.options):
            raise TypeError(f"{', '.join(wrong) or 'options'} of the base model with a value of another type")

    @property
    def can_be_made(self) -> bool:
        """Whether the model and its weights can be made again."""
        return bool(self.name) and (self.pretrained or self.checkpoint is not None or self.seed is not None)


def record_origin(model: nn.Module, origin: ModelOrigin) -> None:
    """Note on a model where it comes from; copies of the model keep the note.

    Args:
        model: The model.
        origin: Where it comes from.
    """
    model.__dict__[_RECORDED] = origin


def origin_of(model: nn.Module) -> ModelOrigin:
    """Return where a model comes from: as recorded, or as timm and transformers note it.

    These libraries do not note whether the weights were downloaded: where they could be, it is assumed.

    Args:
        model: The base model, adapted or not.
    """
    recorded = model.__dict__.get(_RECORDED)
    known = _of_timm(model) or _of_transformers(model) or ModelOrigin()
    if not isinstance(recorded, ModelOrigin):
        return known
    return dataclasses.replace(recorded, classes=known.classes, repository=known.repository, license=known.license)


def _of_timm(model: nn.Module) -> ModelOrigin | None:
    config = getattr(model, "pretrained_cfg", None)
    if not isinstance(config, Mapping) or not isinstance(config.get("architecture"), str):
        return None
    tag = config.get("tag")
    options: dict[str, object] = {}
    classes = getattr(model, "num_classes", None)
    shape, stated = timm_shape(model), tuple(config.get("input_size", ()))
    if shape and shape[:1] != stated[:1]:
        options["in_chans"] = shape[0]
    if shape and shape[1:] != stated[1:]:
        options["img_size"] = list(shape[1:])
    weights = any(config.get(where) for where in ("hf_hub_id", "url", "file"))
    name = config["architecture"] + (f".{tag}" if isinstance(tag, str) and tag else "")
    return ModelOrigin(
        name,
        options,
        pretrained=weights,
        classes=classes if isinstance(classes, int) else None,
        repository=str(config.get("hf_hub_id") or ""),
        license=str(config.get("license") or ""),
    )


def _of_transformers(model: nn.Module) -> ModelOrigin | None:
    config = getattr(model, "config", None)
    kind, path = getattr(config, "model_type", None), getattr(config, "_name_or_path", None)
    if not isinstance(kind, str):
        return None
    options: dict[str, object] = {"architecture": type(model).__name__}
    labels = getattr(config, "num_labels", None)
    if isinstance(labels, int):
        options["num_labels"] = labels
    known = path if isinstance(path, str) and path else ""
    return ModelOrigin(f"hf:{known or kind}", options, pretrained=bool(known), repository=known)
