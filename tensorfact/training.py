"""Train what requires gradients: a small explicit loop that can be stopped and resumed."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.data import DataLoader, Dataset

from .adapt import Adapter
from .anatomy import ATTRIBUTE
from .checkpoint import fingerprint
from .errors import CheckpointError, TrainingError
from .files import read_header, read_tensors, write_tensors
from .progress import Progress, silent

Loss = Callable[[Tensor, Tensor], Tensor]
Samples = Dataset[Any]


@dataclasses.dataclass(frozen=True)
class Epoch:
    """One pass over the training split.

    Args:
        train_loss: Mean loss of the steps.
        val_loss: Mean loss on the validation split afterwards.
        val_accuracy: Fraction of the validation split classified rightly, 0 to 1.
        seconds: Wall time of the pass and its validation.
    """

    train_loss: float
    val_loss: float
    val_accuracy: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class History:
    """What a training run did.

    Args:
        epochs: The passes in order.
        best_epoch: Index of the pass whose parameters the model now holds.
    """

    epochs: tuple[Epoch, ...]
    best_epoch: int

    @property
    def val_accuracy(self) -> float:
        """Validation accuracy of the parameters the model now holds, 0 to 1."""
        return self.epochs[self.best_epoch].val_accuracy


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The numbers that define a run; a checkpoint resumes only under the same ones."""

    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    warmup_epochs: float
    seed: int
    lr_factors: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, lowest in (("epochs", 1), ("batch_size", 1), ("seed", 0)):
            self._check(name, "an int", lowest, int)
        for name in ("lr", "weight_decay", "warmup_epochs"):
            self._check(name, "a finite number", 0, (int, float))

    def _check(self, name: str, kind: str, lowest: int, types: type | tuple[type, ...]) -> None:
        value: Any = getattr(self, name)
        a_number = isinstance(value, types) and not isinstance(value, bool)
        if not (a_number and lowest <= value < math.inf):
            raise TrainingError(f"fit: {name}", expected=f"{kind} >= {lowest}", got=repr(value))

    def lr_factor(self, progress: float) -> float:
        """Return the learning rate's multiple after `progress` of the epochs: linear warm-up, then a cosine to 0."""
        warmup = min(self.warmup_epochs / self.epochs, 1.0)
        if progress < warmup:
            return progress / warmup
        return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / max(1 - warmup, 1e-12)))


def fit(
    model: nn.Module,
    train: Samples,
    val: Samples,
    *,
    epochs: int = 100,
    batch_size: int = 64,
    lr: float = 1e-3,
    weight_decay: float = 1e-4,
    warmup_epochs: float | None = None,
    lr_factors: Mapping[str, float] | None = None,
    loss: Loss = nn.functional.cross_entropy,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    progress: Progress = silent,
) -> History:
    """Train the parameters that require gradients, and keep the best of them by validation accuracy.

    AdamW, linear warm-up and a cosine to zero, by step. Normalisation layers with running statistics stay in
    evaluation mode where their parameters are frozen, so that a frozen base model does not drift. Everything random
    comes from `seed` and the epoch's index; the caller's random state is left as it was.

    Args:
        model: Maps inputs (batch, ...) to logits (batch, class). Trained in place, on the device it is on.
        train: Samples (input, class index).
        val: Samples that choose the best epoch; never trained on.
        epochs: Passes over `train`.
        batch_size: Samples a step.
        lr: Peak learning rate.
        weight_decay: AdamW's weight decay.
        warmup_epochs: Passes of linear warm-up; a tenth of `epochs` by default.
        lr_factors: Multiples of `lr` for some of the adapter's factors, or its head; see `Adapter.parameter_groups`.
        loss: Maps (logits, class indices) to a scalar.
        seed: Seed of the order of samples, and of dropout.
        checkpoint: A file written after each epoch. If it exists, training resumes from it and ends with the same
            numbers as if it had never stopped.
        progress: Called after each epoch.

    Returns:
        The losses and accuracies of every epoch; the model holds the best epoch's parameters.

    Raises:
        TrainingError: Nothing requires gradients, a number is out of range, or the loss is no longer finite.
        CheckpointError: `checkpoint` is damaged, or belongs to another run.

    Examples:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> from tensorfact import fit
        >>> x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
        >>> data = TensorDataset(x, (x[:, 0] > 0).long())
        >>> history = fit(torch.nn.Linear(4, 2), data, data, epochs=20, batch_size=8, lr=0.1)
        >>> history.val_accuracy > 0.9
        True
    """
    warmup = warmup_epochs
    if warmup is None:
        warmup = epochs / 10 if isinstance(epochs, int) else 0  # what is no int, the recipe refuses
    run = _Run(
        model,
        Schedule(epochs, batch_size, lr, weight_decay, warmup, seed, {} if lr_factors is None else lr_factors),
        loss,
    )
    for name, split in (("train", train), ("val", val)):
        if not len(split):  # type: ignore[arg-type]
            raise TrainingError(f"fit: the {name} split is empty", fix="pass at least one sample")
    if checkpoint is not None and Path(checkpoint).exists():
        run.resume(checkpoint)
    modes = {module: module.training for module in model.modules()}
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    try:
        while len(run.history) < epochs:
            with torch.random.fork_rng(devices=sorted(devices, key=str)):
                run.epoch(train, val)
            if checkpoint is not None:
                run.save(checkpoint)
            progress("training", len(run.history), epochs)
    finally:
        for module, mode in modes.items():
            module.training = mode
    run.restore(run.best)
    return History(tuple(run.history), run.best_epoch)


def evaluate(
    model: nn.Module, data: Samples, *, batch_size: int = 256, loss: Loss = nn.functional.cross_entropy
) -> tuple[float, float]:
    """Measure accuracy and loss without changing the model.

    Args:
        model: Maps inputs (batch, ...) to logits (batch, class).
        data: Samples (input, class index).
        batch_size: Samples a forward pass.
        loss: Maps (logits, class indices) to a scalar.

    Returns:
        Accuracy (0 to 1) and mean loss.

    Raises:
        TrainingError: `data` is empty.
    """
    device = next(model.parameters()).device
    modes = {module: module.training for module in model.modules()}
    model.eval()
    right = count = 0
    total = 0.0
    try:
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):  # a loader draws a seed
            for x, y in DataLoader(data, batch_size):
                logits, labels = model(x.to(device)), y.to(device)
                right += int((logits.argmax(-1) == labels).sum())
                total += float(loss(logits, labels)) * len(y)
                count += len(y)
    finally:
        for module, mode in modes.items():
            module.training = mode
    if not count:
        raise TrainingError("evaluate: the data is empty", fix="pass at least one sample")
    return right / count, total / count


def _multiples(model: nn.Module, factors: Mapping[str, float]) -> dict[int, float]:
    """Return the multiple of the learning rate of every parameter that has one of its own, by its identity."""
    if not isinstance(factors, Mapping):
        raise TrainingError("fit: lr_factors", expected="multiples by name", got=repr(factors), fix="{'B': 16}")
    if not factors:
        return {}
    adapter = getattr(model, ATTRIBUTE, None)
    if not isinstance(adapter, Adapter):
        raise TrainingError("fit: lr_factors on a model without an adapter", fix="call tensorfact.adapt first")
    groups = adapter.parameter_groups(1.0, factors)
    return {id(parameter): float(group["lr"]) for group in groups for parameter in group["params"]}


class _Run:
    """The state of one training run: model, optimiser, history, best parameters."""

    def __init__(self, model: nn.Module, recipe: Schedule, loss: Loss) -> None:
        self.model, self.recipe, self.loss = model, recipe, loss
        self.multiples = _multiples(model, recipe.lr_factors)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.trained = dict(sorted(trained.items(), key=lambda item: self.multiples.get(id(item[1]), 1.0)))
        if not self.trained:
            raise TrainingError(
                "fit: no parameter of the model requires gradients",
                cause="the model is frozen and has no adapter",
                fix="call tensorfact.adapt(model, plan, format) first",
            )
        frozen = {name: p for name, p in model.named_parameters() if name not in self.trained}
        self.frozen = fingerprint(frozen, tuple(frozen))
        self.optimizer = torch.optim.AdamW(self._groups(), recipe.lr, weight_decay=recipe.weight_decay)
        self.history: list[Epoch] = []
        self.best_epoch = 0
        self.best: dict[str, Tensor] = {}

    def _groups(self) -> list[dict[str, Any]]:
        """Return what trains in the order of `trained`, grouped by the multiple of the learning rate."""
        alike = itertools.groupby(self.trained.values(), lambda parameter: self.multiples.get(id(parameter), 1.0))
        return [{"params": list(parameters), "multiple": multiple} for multiple, parameters in alike]

    def epoch(self, train: Samples, val: Samples) -> None:
        """Make one pass, validate, and remember the parameters if they are the best so far."""
        start = time.perf_counter()
        index, recipe = len(self.history), self.recipe
        torch.manual_seed(recipe.seed * 1_000_003 + index)
        batches = DataLoader(train, recipe.batch_size, shuffle=True)
        device = next(iter(self.trained.values())).device
        self._train_mode()
        losses = []
        for step, (x, y) in enumerate(batches):
            for group in self.optimizer.param_groups:
                now = recipe.lr_factor((index + (step + 1) / len(batches)) / recipe.epochs)
                group["lr"] = recipe.lr * group["multiple"] * now
            value = self.loss(self.model(x.to(device)), y.to(device))
            if not torch.isfinite(value):
                raise TrainingError(
                    f"fit: the loss of epoch {index}, step {step} is {value.item()}",
                    cause="the learning rate or the adapter's scale is too large, or an input is not finite",
                    fix="lower lr or scale, or check the data",
                )
            self.optimizer.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            losses.append(value.detach())
        accuracy, val_loss = evaluate(self.model, val, loss=self.loss)
        if not math.isfinite(val_loss):
            raise TrainingError(
                f"fit: the validation loss after epoch {index} is {val_loss}",
                cause="the learning rate or the adapter's scale is too large, or an input is not finite",
                fix="lower lr or scale, or check the data",
            )
        train_loss = float(torch.stack(losses).mean())
        self.history.append(Epoch(train_loss, val_loss, accuracy, time.perf_counter() - start))
        if index == 0 or accuracy > self.history[self.best_epoch].val_accuracy:
            self.best_epoch = index
            self.best = {name: tensor.detach().clone() for name, tensor in self._state().items()}

    def save(self, path: str | Path) -> None:
        """Write everything that the next epoch depends on."""
        names = list(self.trained)
        moments = {
            f"optimizer.{key}.{names[index]}": value
            for index, state in self.optimizer.state_dict()["state"].items()
            for key, value in state.items()
        }
        tensors = {
            **{f"now.{name}": tensor for name, tensor in self._state().items()},
            **{f"best.{name}": tensor for name, tensor in self.best.items()},
            **moments,
        }
        history = [dataclasses.asdict(epoch) for epoch in self.history]
        write_tensors(
            path,
            tensors,
            {
                "kind": "training",
                "recipe": dataclasses.asdict(self.recipe),
                "frozen": self.frozen,
                "history": {"epochs": history, "best_epoch": self.best_epoch},
            },
        )

    def resume(self, path: str | Path) -> None:
        """Read back what `save` wrote, if it belongs to this run."""
        header, state = read_header(path), self._state()
        mine: dict[str, Any] = {**dataclasses.asdict(self.recipe), "frozen": self.frozen}
        try:
            saved = header.metadata["history"]
            history, best = [Epoch(**epoch) for epoch in saved["epochs"]], int(saved["best_epoch"])
            theirs = {**header.metadata["recipe"], "frozen": header.metadata["frozen"]}
            history[best]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise CheckpointError(
                f"{path} holds no training run", got=repr(error), fix="choose another path"
            ) from error
        shapes = {name.removeprefix("now."): shape for name, shape in header.shapes.items() if name.startswith("now.")}
        if theirs != mine or shapes != {name: tuple(tensor.shape) for name, tensor in state.items()}:
            raise CheckpointError(
                f"{path} belongs to another run",
                expected=f"{mine} and {len(state)} trained tensors",
                got=f"{theirs} and {len(shapes)}",
                fix="pass the arguments and the model of that run, or another checkpoint path",
            )
        tensors = read_tensors(path)
        self.restore(_below("now.", tensors))
        self.best = _below("best.", tensors)
        moments: dict[int, dict[str, Tensor]] = {index: {} for index in range(len(self.trained))}
        numbers = {name: index for index, name in enumerate(self.trained)}
        for key, value in _below("optimizer.", tensors).items():
            moment, name = key.split(".", 1)
            moments[numbers[name]][moment] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        self.history, self.best_epoch = history, best

    def restore(self, state: dict[str, Tensor]) -> None:
        """Write parameters and buffers back into the model."""
        with torch.no_grad():
            for name, tensor in self._state().items():
                tensor.copy_(state[name])

    def _state(self) -> dict[str, Tensor]:
        return {**self.trained, **dict(self.model.named_buffers())}

    def _train_mode(self) -> None:
        self.model.train()
        for module in self.model.modules():
            if isinstance(module, _NormBase) and not any(p.requires_grad for p in module.parameters(recurse=False)):
                module.eval()


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
