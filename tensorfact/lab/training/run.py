"""The state of a training run: train an epoch, validate, save and resume."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.data import DataLoader

from ...common.checks import AnyPath
from ...errors import CheckpointError, DivergedError, TrainingError
from ...storage.fingerprint import sampled_digest
from .bar import NoBar
from .batches import BatchOrigin, MicroBatches, deal, load, shuffled
from .budget import carry_moments, rank_budget
from .engine import TrainingEngine
from .evaluation import BATCH, Evaluation, tally
from .history import Epoch, History
from .labels import ignored_by, no_label_counts
from .optimizers import adapters_of, multiples_of, optimizer_of
from .predictions import loss_of, predict, refuse_infinite, without_gradient
from .saved import Identity, Saved
from .schedule import Loss, Samples, Schedule, size_of
from .sources import Data, in_order, length_of, steps_of

_SEEDS = 1 << 64
"""The number of seeds that torch takes."""


class TrainingRun:
    """The state of one training run: optimizer, history, best parameters.

    Args:
        engine: Runs the model and the optimizer, in one process or several.
        schedule: Hyperparameters of the run.
        loss: Maps (logits, class indices) to the mean over the samples.
        accumulation: Number of micro-batches per process and batch.
        workers: Number of `DataLoader` workers.

    Raises:
        TrainingError: No parameter requires gradients, one that does is in fp16, the adapter is merged or disabled, or
            `lr_factors` or `budget` do not fit the model.
    """

    def __init__(self, engine: TrainingEngine, schedule: Schedule, loss: Loss, accumulation: int, workers: int) -> None:
        self.engine, self.schedule, self.loss = engine, schedule, loss
        self.accumulation, self.workers = accumulation, workers
        model = engine.module
        _refuse_without_factors(model)
        self.budget = rank_budget(engine, schedule)
        trained = self._trained()
        if not trained:
            raise TrainingError(
                "fit: no parameter of the model requires gradients",
                cause="the model is frozen and has no adapter",
                fix="call tensorfact.adapt(model, plan, format) first",
            )
        halves = [name for name, p, _ in trained if p.dtype == torch.float16]
        if halves:
            raise TrainingError(
                f"fit: cannot train {halves[0]!r} in fp16",
                cause="small optimizer steps underflow in fp16",
                fix="call model.float() and pass Accelerator(mixed_precision='fp16'), or call model.bfloat16()",
            )
        every = dict(model.named_parameters())
        self.frozen = sampled_digest(every, tuple(every.keys() - {name for name, _, _ in trained}))
        with self.undoing():
            if self.budget is not None:
                self.budget.start()
            self._renew()
        self.history = History((), 0)
        self.best: Mapping[str, Tensor] = {}

    @contextlib.contextmanager
    def undoing(self) -> Iterator[None]:
        """Context manager that gives the adapter the ranks from before the run if an error is raised in it."""
        try:
            yield
        except BaseException:
            if self.budget is not None:
                self.budget.undo()
            raise

    def _trained(self) -> list[tuple[str, nn.Parameter, float]]:
        """Return the trained parameters, each with its name and multiple of the learning rate, in ascending order."""
        model = self.engine.module
        multiples = multiples_of(model, self.schedule.lr_factors)
        trained = [(name, p, multiples.get(id(p), 1.0)) for name, p in model.named_parameters() if p.requires_grad]
        return sorted(trained, key=lambda item: item[2])

    def _renew(self) -> None:
        """Make the optimizer of the present parameters."""
        trained = self._trained()
        self.names = [name for name, _, _ in trained]
        self.optimizer = optimizer_of(self.schedule, self.engine.module, [(p, multiple) for _, p, multiple in trained])

    def _change_ranks(self, index: int) -> None:
        """Change the ranks if that is due before an epoch. The optimizer starts anew for the parameters that change."""
        if self.budget is not None and self.budget.change(index):
            before = self.optimizer
            self._renew()
            carry_moments(before, self.optimizer)
            self.engine.exchange(self.optimizer)

    def identity(self, train: Data, val: Data | None) -> Identity:
        """Return what a checkpoint must match for this run to resume from it."""
        scales = {  # those of a budget change, and are read from the checkpoint
            f"{path}.{name}".removeprefix("."): scale
            for path, adapter in adapters_of(self.engine.module).items()
            for name, scale in adapter.scales.items()
            if self.budget is None
        }
        samples = tuple(length_of(part) or 0 for part in (train, val) if part is not None)
        return Identity(self.schedule, self.frozen, scales, samples)

    def epoch(self, train: Data, val: Data | None, bar: NoBar) -> Epoch:
        """Train for one epoch, validate, and keep the parameters if they are the best so far."""
        start = time.perf_counter()
        index = len(self.history.epochs)
        seed = (self.schedule.seed * 1_000_003 + index) % _SEEDS
        torch.manual_seed(seed)
        steps, loaded = steps_of(train) if isinstance(train, DataLoader) else self._dealt(train, seed)
        self._change_ranks(index)
        self._train_mode()
        losses = self._pass(loaded, steps, bar)
        if not all(bool(torch.isfinite(p).all()) for p in self.engine.module.parameters() if p.requires_grad):
            raise _diverged(f"a parameter is no longer finite after epoch {index}")
        self.engine.agree(self._counting())
        val_loss = accuracy = None
        if val is not None and self.schedule.validates(index):
            accuracy, val_loss = self._validate(val)
        train_loss = float(torch.stack(losses).mean())
        epoch = Epoch(train_loss, val_loss, accuracy, time.perf_counter() - start)
        since = 0 if self.budget is None else self.budget.settled
        self.history = self.history.followed_by(epoch, self.schedule.ties, since)
        if accuracy is not None and self.history.best_epoch == index >= since:
            self.best = {name: tensor.detach().clone() for name, tensor in self.state().items()}
        bar.validated(epoch)
        return epoch

    def _dealt(self, train: Samples, seed: int) -> tuple[list[MicroBatches], Iterator[object]]:
        """Return the steps of an epoch, and this process's micro-batches."""
        order = shuffled(size_of(train))
        own = (seed + (self.engine.process << 32)) % _SEEDS
        if self.engine.process:  # all processes share the sample order, not the dropout masks
            torch.manual_seed(own)
        schedule = self.schedule
        steps = self._deal(order, schedule.batch_size, self.accumulation, drop_last=schedule.drop_last)
        return steps, load(train, steps, self.workers, own, "fit: train")

    def _pass(self, loaded: Iterable[object], steps: list[MicroBatches], bar: NoBar) -> list[Tensor]:
        """Run the steps of one epoch; return their losses. A step whose samples are all ignored is left out."""
        index, schedule, engine = len(self.history.epochs), self.schedule, self.engine
        losses, samples = [], iter(loaded)
        for number, parts in enumerate(steps):
            for group in self.optimizer.param_groups:
                done = index + (number + 1) / len(steps)
                # the decay ends at zero, which would be the rate of a run of a single step
                now = schedule.lr_factor(done / schedule.epochs) if schedule.epochs * len(steps) > 1 else 1.0
                now *= 1.0 if self.budget is None else self.budget.lr_factor(done)
                group["lr"] = schedule.lr * group["multiple"] * now
            engine.step.zero_grad(set_to_none=True)
            share, counted, batches = self._gradients(parts, samples)
            kept, ignored = engine.total(counted).tolist()
            if not kept:
                bar.step(index, number + 1, len(steps), None)
                continue
            value = engine.total(share) * ((kept + ignored) / kept)
            if not torch.isfinite(value):
                for batch, origin in batches:
                    refuse_infinite(batch, origin)
                raise _diverged(f"the loss of epoch {index}, step {number} is {value.item()}")
            if ignored:  # the loss is the mean over the other samples
                _scale_gradients(engine.module, (kept + ignored) / kept)
            engine.step.step()
            losses.append(value)
            bar.step(index, number + 1, len(steps), value)
        if not losses:
            raise no_label_counts("fit: train", ignored_by(self.loss))
        return losses

    def _gradients(
        self, parts: MicroBatches, loaded: Iterator[object]
    ) -> tuple[Tensor, Tensor, list[tuple[object, BatchOrigin]]]:
        """Accumulate the gradients of one batch.

        Returns:
            This process's share of the loss; the fractions of the batch that are its samples and that it ignores; its
            micro-batches.
        """
        engine, values, batches = self.engine, [], []
        ignored, counted = ignored_by(self.loss), torch.zeros(2, dtype=torch.float64)
        for part in parts:
            batch = next(loaded)
            with contextlib.nullcontext() if part is parts[-1] else engine.apart():
                origin = BatchOrigin("fit: train", part.indices)
                batches.append((batch, origin))
                logits, labels, share = predict(engine.run, batch, engine.device, origin, ignored)
                value = loss_of(self.loss, logits, labels, origin)
                if not value.requires_grad:
                    raise without_gradient(logits, origin)
                weight = part.weight * share
                engine.backward(value * (weight * engine.processes))  # gradients are averaged over processes
            values.append(value.detach() * weight)
            counted += torch.tensor([weight, part.weight - weight], dtype=torch.float64)
        return torch.stack(values).sum(), counted, batches

    def _validate(self, val: Data) -> Evaluation:
        """Return validation accuracy and loss, over all processes."""
        engine, what = self.engine, "fit: val"
        batches, parts = in_order(
            val, BATCH, what, workers=self.workers, processes=engine.processes, process=engine.process
        )
        engine.run.eval()
        # not inference_mode: models keep tensors of a forward pass, and train with them later
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            found = tally(engine.run, batches, parts, self.loss, engine.device, what)
        right, total, count = engine.total(torch.tensor(found, dtype=torch.float64)).tolist()
        if not count:
            raise no_label_counts(what, ignored_by(self.loss))
        if not math.isfinite(total):
            raise _diverged(f"the validation loss after epoch {len(self.history.epochs)} is {total / count}")
        return Evaluation(right / count, total / count)

    def _deal(self, order: Sequence[int], size: int, parts: int, *, drop_last: bool = False) -> list[MicroBatches]:
        """Return this process's share of the batches."""
        processes, process = self.engine.processes, self.engine.process
        return deal(order, size, processes=processes, process=process, parts=parts, drop_last=drop_last)

    def save(self, path: AnyPath, identity: Identity) -> None:
        """Write the training state to a checkpoint, in the main process."""
        whole, states = self.engine.whole, self.optimizer.state_dict()["state"]
        saved = Saved(
            self.history,
            {name: whole(tensor) for name, tensor in self.state().items()},
            {name: whole(tensor) for name, tensor in self.best.items()},
            {self.names[at]: {key: whole(value) for key, value in of.items()} for at, of in states.items()},
            None if self.budget is None else self.budget.ranks,
        )
        if self.engine.main:
            saved.write(path, identity)

    def resume(self, path: AnyPath, identity: Identity) -> None:
        """Resume from a checkpoint if it exists; every process reads it.

        Raises:
            CheckpointError: The file is damaged, belongs to another run, is not seen by every process, or its folder
                does not exist.
        """
        folder = Path(path).parent
        if not folder.is_dir():
            raise CheckpointError(f"cannot write {path}: the folder {folder} does not exist", fix=f"mkdir -p {folder}")
        seeing = int(self.engine.total(torch.tensor(int(Path(path).exists()))))
        if not seeing:
            return
        if seeing < self.engine.processes:
            raise CheckpointError(
                f"{path} is seen by {seeing} of {self.engine.processes} processes",
                fix="put the checkpoint into a folder that all machines share",
            )
        if self.budget is not None:
            self.budget.resume(path)
            self._renew()
            self.engine.exchange(self.optimizer)
        state = self.state()
        saved = Saved.read(path, identity, state)
        self.restore(saved.now)
        self.history, self.best = saved.history, saved.best
        moments = {
            at: {key: value if key == "step" else self.engine.like(state[name], value) for key, value in of.items()}
            for at, name in enumerate(self.names)
            for of in [saved.moments.get(name, {})]
        }
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Write parameters and buffers back into the model."""
        with torch.no_grad():
            for name, tensor in self.state().items():
                tensor.copy_(self.engine.like(tensor, state[name]))

    def state(self) -> dict[str, Tensor]:
        """Return the trained parameters and the persistent buffers, by name; others are caches of the model."""
        self.engine.settle()
        parameters = dict(self.engine.module.named_parameters())
        return {**{name: parameters[name] for name in self.names}, **_persistent_buffers(self.engine.module)}

    def _train_mode(self) -> None:
        self.engine.run.train()
        for module in self.engine.module.modules():
            if isinstance(module, _NormBase) and not any(p.requires_grad for p in module.parameters(recurse=False)):
                module.eval()

    def _counting(self) -> list[Tensor]:
        """Return the running statistics that training changes."""
        norms = (m for m in self.engine.module.modules() if isinstance(m, _NormBase) and m.training)
        return [buffer for norm in norms for buffer in norm.buffers(recurse=False)]


def _refuse_without_factors(model: nn.Module) -> None:
    """Raise if the model runs without its factors."""
    for adapter in adapters_of(model).values():
        if adapter._switch.disabled:
            raise TrainingError(
                "fit: the adapter is disabled, so that its factors would not train",
                fix="call fit() outside `with adapter.disabled():`",
            )
        if adapter.merged:
            raise TrainingError(
                "fit: the adapter is merged, so that only the head would train",
                fix="call adapter.unmerge() before fit(), and adapter.merge() after it",
            )


def _scale_gradients(model: nn.Module, factor: float) -> None:
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.mul_(factor)


def _persistent_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Return the buffers that a state dict holds, by name."""
    caches = {
        f"{path}.{name}".removeprefix(".")
        for path, module in model.named_modules()
        for name in module._non_persistent_buffers_set
    }
    return {name: buffer for name, buffer in model.named_buffers() if name not in caches}


def _diverged(problem: str) -> DivergedError:
    return DivergedError(
        f"fit: {problem}",
        cause="the learning rate or the adapter's scale is too large",
        fix="lower lr or scale",
    )
