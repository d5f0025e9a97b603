"""Training checkpoints: everything that the next epoch depends on, in one file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from torch import Tensor

from ...common.checks import AnyPath
from ...common.table import counted
from ...errors import CheckpointError, TrainingError
from ...formats import Format, format_from_dict, format_to_dict
from ...storage.files import read_header, read_tensors, write_tensors
from .history import Epoch, History
from .schedule import Schedule

Tensors = Mapping[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Identity:
    """What a checkpoint and a run must have in common for the run to resume from it.

    Args:
        schedule: Hyperparameters of the run.
        frozen: Fingerprint of the frozen parameters.
        scales: Scales of the adapters, by the path of the adapted module and the tensor name.
        samples: Number of training and of validation samples.
    """

    schedule: Schedule
    frozen: str
    scales: Mapping[str, float]
    samples: tuple[int, ...]

    @property
    def described(self) -> dict[str, str]:
        """What each part of it is, in words, by its name."""
        return {
            **{name: f"{name}={value!r}" for name, value in dataclasses.asdict(self.schedule).items()},
            "frozen": f"frozen weights of fingerprint {self.frozen}",
            "scales": f"scales {dict(self.scales) or 'of no adapter'}",
            "samples": f"{' and '.join(map(str, self.samples))} samples",
        }


@dataclasses.dataclass(frozen=True)
class Ranks:
    """The formats and scales of an adapter at an epoch of a run that changes them.

    Args:
        formats: Formats by tensor name.
        scales: Scales by tensor name.
    """

    formats: Mapping[str, Format]
    scales: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Saved:
    """The state of a run after an epoch.

    Args:
        history: Metrics of the epochs so far.
        now: Trained parameters and persistent buffers, by name.
        best: The same after the best epoch; empty without validation.
        moments: Optimizer state, by parameter name.
        ranks: The ranks of the adapter, if the run changes them.
    """

    history: History
    now: Tensors
    best: Tensors
    moments: Mapping[str, Tensors]
    ranks: Ranks | None = None

    def write(self, path: AnyPath, identity: Identity) -> None:
        """Write the state to one file, atomically.

        Args:
            path: Checkpoint file; replaced if it exists.
            identity: Identity of the run.

        Raises:
            CheckpointError: The file cannot be written.
        """
        tensors = {
            **{f"now.{name}": tensor for name, tensor in self.now.items()},
            **{f"best.{name}": tensor for name, tensor in self.best.items()},
            **{f"optimizer.{key}.{name}": value for name, of in self.moments.items() for key, value in of.items()},
        }
        write_tensors(
            path,
            tensors,
            {
                "kind": "training",
                "recipe": dataclasses.asdict(identity.schedule),
                "frozen": identity.frozen,
                "scales": dict(identity.scales),
                "samples": list(identity.samples),
                "history": dataclasses.asdict(self.history),
                **_ranks_stored(self.ranks),
            },
        )

    @classmethod
    def read(cls, path: AnyPath, identity: Identity, state: Tensors) -> Saved:
        """Read a checkpoint, and check that it belongs to a run.

        Args:
            path: File that `write` wrote.
            identity: Identity of the run, which the file must match.
            state: Trained parameters and persistent buffers of the run, by name; the file must have the same names and
                shapes.

        Raises:
            CheckpointError: The file is damaged, or belongs to another run.
        """
        header, history = read_header(path), stored_history(path)
        try:
            metadata = header.metadata
            samples = tuple(metadata["samples"])
            theirs = Identity(Schedule(**metadata["recipe"]), metadata["frozen"], metadata["scales"], samples)
        except (KeyError, TypeError, ValueError, TrainingError) as error:
            raise _no_checkpoint(path, error) from error
        shapes = {name.removeprefix("now."): shape for name, shape in header.shapes.items() if name.startswith("now.")}
        own = {name: tuple(tensor.shape) for name, tensor in state.items()}
        if theirs != identity or shapes != own:
            expected = identity.described | {"tensors": _counted(own, shapes)}
            got = theirs.described | {"tensors": _counted(shapes, own)}
            differ = [name for name in expected if expected[name] != got[name]]
            raise CheckpointError(
                f"{path} belongs to another run",
                expected=", ".join(expected[name] for name in differ),
                got=", ".join(got[name] for name in differ),
                fix="pass the arguments and the model of that run, or another checkpoint path",
            )
        tensors = read_tensors(path)
        moments: dict[str, dict[str, Tensor]] = {}
        for key, value in _below("optimizer.", tensors).items():
            moment, name = key.split(".", 1)
            moments.setdefault(name, {})[moment] = value
        return cls(history, _below("now.", tensors), _below("best.", tensors), moments)


def _ranks_stored(ranks: Ranks | None) -> dict[str, object]:
    if ranks is None:
        return {}
    formats = {name: format_to_dict(format) for name, format in ranks.formats.items()}
    return {"ranks": {"formats": formats, "scales": dict(ranks.scales)}}


def stored_ranks(path: AnyPath) -> Ranks | None:
    """Return the ranks that a checkpoint holds, or None if it is one of a run that does not change them.

    Args:
        path: File that `Saved.write` wrote.

    Raises:
        CheckpointError: The file is missing, damaged or not a training checkpoint.
    """
    stored = read_header(path).metadata.get("ranks")
    if stored is None:
        return None
    try:
        formats = {name: format_from_dict(format) for name, format in stored["formats"].items()}
        scales = {name: float(scale) for name, scale in stored["scales"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _no_checkpoint(path, error) from error
    return Ranks(formats, scales)


def stored_history(path: AnyPath) -> History:
    """Return the metrics of the epochs that a checkpoint holds.

    Args:
        path: File that `Saved.write` wrote.

    Raises:
        CheckpointError: The file is missing, damaged or not a training checkpoint.
    """
    metadata = read_header(path).metadata
    try:
        saved = metadata["history"]
        history = History(tuple(Epoch(**epoch) for epoch in saved["epochs"]), int(saved["best_epoch"]))
        history.epochs[history.best_epoch]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise _no_checkpoint(path, error) from error
    return history


def _no_checkpoint(path: AnyPath, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path} is not a training checkpoint", got=repr(error), fix="pass another checkpoint path")


def _counted(shapes: Mapping[str, tuple[int, ...]], others: Mapping[str, tuple[int, ...]]) -> str:
    """Return a number of trained tensors, and the first of them that the others do not have in this shape."""
    first = next((name for name, shape in sorted(shapes.items()) if others.get(name) != shape), None)
    shown = f", {first} of shape {tuple(shapes[first])} among them" if first is not None else ""
    return f"{counted(len(shapes), 'trained tensor')}{shown}"


def _below(prefix: str, tensors: Tensors) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
