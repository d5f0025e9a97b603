"""What a run is: everything that its numbers depend on beside data and weights, as JSON."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

from ...common.checks import finite_number, one_of, whole_number
from ...errors import SweepError

T = TypeVar("T")

Stage = Literal["select", "final", "released"]
"""What a run trains on and reads: `select` trains on the training split and reads the validation split; `final` trains
on both and reads the test split once, at the end; `released` trains on both and chooses its epoch by the test split."""

STAGES: tuple[Stage, ...] = ("select", "final", "released")


@dataclasses.dataclass(frozen=True)
class Settings:
    """The numbers of a training run.

    Args:
        epochs: Passes over the training samples.
        batch_size: Batch size: samples per step.
        lr: Peak learning rate.
        weight_decay: AdamW's weight decay.
        warmup_epochs: Passes of linear warm-up.
        dropout: The adapters' dropout.
        drop_path: The model's stochastic depth.
        drop_last: Leave an incomplete last batch out.
        validate_every: Epochs between two validations.
        imagenet_statistics: Normalise by ImageNet's mean and deviation instead of the model's own.
        precision: "no" for the model's own dtype, or "bf16" for products in it.
        threads: Threads of the processor. One, so that an engine's choice of processes changes no number.
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
        # the same number written as an int and as a float is one setting, and makes one id
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
    """One training run: what trains on what, and how. Equal specs give equal numbers on one machine.

    Args:
        model: A model's name, with options in parentheses: `vit_base_patch16_224`, `NAME(img_size=32)`.
        task: A task's name; see `tensorfact.lab.data.open_task`.
        method: A method and its options: `fact-tt:rank=16`, `bitfit`, `tt:rank=4`.
        scale: Scale s of the update W + s dW; None for the method's own.
        seed: Seed of the method's factors, of the head and of the order of samples.
        stage: What it trains on and reads.
        settings: The training's numbers.
        pretrained: Load pretrained weights; `nano` brings its own.
        checkpoint: A safetensors file with the model's weights.

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
    scale: float | None
    seed: int
    stage: Stage
    settings: Settings = dataclasses.field(default_factory=Settings)
    pretrained: bool = False
    checkpoint: str | None = None

    def __post_init__(self) -> None:
        if self.scale is not None:
            _coerce(self, "scale", float, positive=True)
        _coerce(self, "seed", int)
        _coerce(self, "pretrained", bool)
        texts = (self.model, self.task, self.method, self.checkpoint or "")
        if not all(isinstance(text, str) for text in texts) or not isinstance(self.settings, Settings):
            raise SweepError("a run", expected="names as text, and Settings", got=repr(self), fix="see RunSpec")
        one_of(self.stage, STAGES, "stage", SweepError)

    @property
    def id(self) -> str:
        """A name that equal specs share, and no others: the beginning of the JSON's SHA-256."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: object) -> RunSpec:
        """Read what `to_dict` returned.

        Raises:
            SweepError: A field is missing or unknown.
        """
        return build(cls, data, settings=lambda settings: build(Settings, settings))

    def to_json(self) -> str:
        """Return the spec in one line, keys sorted."""
        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> RunSpec:
        """Read what `to_json` returned.

        Raises:
            SweepError: It is no JSON, or a field is missing or unknown.
        """
        return cls.from_dict(parse_json(text, "a run's spec"))

    def __str__(self) -> str:
        scale = "" if self.scale is None else f", scale {self.scale:g}"
        return f"{self.method}{scale} on {self.task}, seed {self.seed}, {self.stage}"


def parse_json(text: str, what: str) -> Any:
    """Read JSON.

    Args:
        text: The text.
        what: What it is, for the message.

    Raises:
        SweepError: It is none.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SweepError(f"{what} is no JSON", got=str(error), fix="write it again, or remove it") from error


def _coerce(of: object, name: str, kind: type, *, positive: bool = False) -> None:
    """Give a field its type, or say that it is no such number."""
    value = getattr(of, name)
    if kind is bool:
        if not isinstance(value, bool):
            raise SweepError(name, expected="True or False", got=repr(value), fix=f"{name}=True")
    elif kind is int:
        value = whole_number(value, name, SweepError, least=0 if name == "seed" else 1)
        if value >= 2**53:  # JSON numbers are exact up to there
            raise SweepError(name, expected="an int below 2**53", got=repr(value), fix=f"{name}=0")
    else:
        meant = f"a finite number {'above' if positive else 'of at least'} 0"
        fits = (lambda v: v > 0) if positive else (lambda v: v >= 0)
        value = finite_number(value, name, SweepError, fits=fits, expected=meant)
    object.__setattr__(of, name, value)


def build(cls: type[T], data: object, **read: Callable[[Any], Any]) -> T:
    """Make a dataclass from plain data.

    Args:
        cls: The dataclass.
        data: Its fields, by name.
        read: How a field is read; as it is by default.

    Raises:
        SweepError: A field is missing or unknown.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]  # T is a dataclass
    needed = {name for name, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING}
    if not isinstance(data, Mapping) or not needed <= data.keys() <= fields.keys():
        got = sorted(data) if isinstance(data, Mapping) else data
        raise SweepError(
            f"a stored {cls.__name__}",
            expected=f"the fields {', '.join(fields)}",
            got=repr(got),
            cause="another version wrote it, or it was changed by hand",
            fix="write it with `tensorfact sweep --specs`, or start in another folder",
        )
    try:
        return cls(**{name: read.get(name, lambda value: value)(value) for name, value in data.items()})
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        if isinstance(error, SweepError):
            raise
        raise SweepError(
            f"a stored {cls.__name__}", got=str(error), fix="remove the file, and it is made again"
        ) from error
