"""Spec of a run as JSON data: everything that its numbers depend on, except data and weights."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from typing import Literal

from ...adapters.scale import AUTO
from ...common.aliases import JsonObject
from ...common.checks import finite_number, one_of, whole_number
from ...errors import SweepError
from .stored import build, parse_json

Stage = Literal["select", "final", "released"]
"""Data of a run. `select` trains on the training split and evaluates on the validation split; `final` trains on both
and evaluates once on the test split; `released` trains on both and chooses its epoch on the test split."""

GivenScale = float | str | None
"""A scale s of the update W + s dW, "auto", or None: the default of the method."""

STAGES: tuple[Stage, ...] = ("select", "final", "released")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Hyperparameters of a training run.

    Args:
        epochs: Passes over the training samples.
        batch_size: Batch size: samples per step.
        lr: Peak learning rate.
        weight_decay: Weight decay of AdamW.
        warmup_epochs: Epochs of linear warm-up of the learning rate.
        dropout: Dropout probability of the adapters.
        drop_path: Stochastic depth rate of the model.
        drop_last: Leave out an incomplete last batch.
        validate_every: Validate every this many epochs.
        imagenet_statistics: Normalise by the mean and deviation of ImageNet instead of those of the model.
        precision: Mixed precision: "bf16" or "fp16" run matrix products in that dtype; "no" keeps the model's dtype.
        threads: CPU threads of torch. With the default 1, results do not depend on the engine.
    """

    epochs: int = 100
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 1e-4
    warmup_epochs: float = 10
    dropout: float = 0.0
    drop_path: float = 0.0
    drop_last: bool = False
    validate_every: int = 1
    imagenet_statistics: bool = False
    precision: str = "no"
    threads: int = 1

    def __post_init__(self) -> None:
        # 1 and 1.0 must give the same id
        for name, kind in {"lr": float, "weight_decay": float, "warmup_epochs": float, "dropout": float}.items():
            _coerce(self, name, kind)
        _coerce(self, "drop_path", float)
        for name in ("epochs", "batch_size", "validate_every", "threads"):
            _coerce(self, name, int)
        for name in ("drop_last", "imagenet_statistics"):
            _coerce(self, name, bool)
        one_of(self.precision, ("no", "bf16", "fp16"), "precision", SweepError)


@dataclasses.dataclass(frozen=True)
class RunSpec:
    """Spec of one training run. Runs with equal specs give equal numbers on one machine.

    Args:
        model: Name of a model, with options in parentheses: `vit_base_patch16_224`, `NAME(img_size=32)`.
        task: Name of a task; see `tensorfact.lab.data.open_task`.
        method: Method and options: `fact-tt:rank=16`, `bitfit`, `tt:rank=4`.
        scale: Scale s of the update W + s dW; "auto": derived; None: the default of the method.
        seed: Seed of the factors, the head and the order of samples.
        stage: Data to train and evaluate on; see `Stage`.
        settings: Hyperparameters of the training.
        pretrained: Load pretrained weights; `nano` always has its own.
        checkpoint: A safetensors file with the weights of the model.

    Examples:
        >>> spec = RunSpec("nano", "digits", "tt:rank=4", 10.0, 0, "select")
        >>> RunSpec.from_json(spec.to_json()) == spec
        True
        >>> len(spec.id)
        16
    """

    model: str
    task: str
    method: str
    scale: GivenScale
    seed: int
    stage: Stage
    settings: Settings = dataclasses.field(default_factory=Settings)
    pretrained: bool = False
    checkpoint: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.scale, str):
            one_of(self.scale, (AUTO,), "scale", SweepError, fix='scale="auto", or a number')
        elif self.scale is not None:
            _coerce(self, "scale", float, positive=True)
        _coerce(self, "seed", int)
        _coerce(self, "pretrained", bool)
        texts = (self.model, self.task, self.method, self.checkpoint or "")
        if not all(isinstance(text, str) for text in texts) or not isinstance(self.settings, Settings):
            raise SweepError(
                "RunSpec: invalid field",
                expected="model, task, method and checkpoint as str, settings as Settings",
                got=repr(self),
                fix='RunSpec("nano", "digits", "tt:rank=4", 1.0, 0, "final")',
            )
        one_of(self.stage, STAGES, "stage", SweepError)

    @functools.cached_property
    def id(self) -> str:
        """Hash of the spec: the first 16 hex digits of the SHA-256 of its JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def to_dict(self) -> JsonObject:
        """Return the spec as JSON data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: object) -> RunSpec:
        """Read what `to_dict` returned.

        Raises:
            SweepError: A field is missing or unknown.
        """
        return build(cls, data)

    def to_json(self) -> str:
        """Return the spec as one line of JSON with sorted keys."""
        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> RunSpec:
        """Read what `to_json` returned.

        Raises:
            SweepError: Invalid JSON, or a field is missing or unknown.
        """
        return cls.from_dict(parse_json(text, "the spec of a run"))

    def __str__(self) -> str:
        scale = "" if self.scale is None else f", scale {spelled_scale(self.scale)}"
        return f"{self.method}{scale} on {self.task}, seed {self.seed}, {self.stage}"


def spelled_scale(scale: float | str) -> str:
    """Return a scale as text.

    Args:
        scale: A number, or "auto".
    """
    return scale if isinstance(scale, str) else f"{scale:g}"


def fraction(value: object, name: str) -> float:
    """Check that a value is a number from 0 to 1, and return it as a float.

    Args:
        value: The value to check.
        name: Name of the field, for the error message.

    Raises:
        SweepError: It is not.
    """
    return finite_number(value, name, SweepError, fits=lambda v: 0 <= v <= 1, expected="a number from 0 to 1")


def _coerce(of: object, name: str, kind: type, *, positive: bool = False) -> None:
    """Convert a field to its type, or raise a SweepError."""
    value = getattr(of, name)
    if kind is bool:
        if not isinstance(value, bool):
            raise SweepError(name, expected="True or False", got=repr(value), fix=f"{name}=True")
    elif kind is int:
        value = whole_number(value, name, SweepError, least=0 if name == "seed" else 1)
        if value >= 2**53:  # JSON numbers are exact up to there
            raise SweepError(name, expected="an int below 2**53", got=repr(value), fix=f"{name}=1")
    else:
        if positive:
            value = finite_number(value, name, SweepError, fits=lambda v: v > 0, expected="a finite number above 0")
        else:
            value = finite_number(
                value, name, SweepError, fits=lambda v: v >= 0, expected="a finite number of at least 0"
            )
    object.__setattr__(of, name, value)
