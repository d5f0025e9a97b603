"""Training with a user's `accelerate.Accelerator`: its device, precision and processes (DDP or FSDP2)."""

from __future__ import annotations

import contextlib
import copy
import gc
import sys
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch
import torch.distributed
from torch import Tensor, nn

from ...common.checks import of_type
from ...errors import TrainingError
from ...storage.fingerprint import sampled_digest
from .engine import TrainingEngine

if TYPE_CHECKING:
    from accelerate import Accelerator


def engine_for(model: nn.Module, accelerator: Accelerator | None) -> TrainingEngine:
    """Return the engine that trains a model: plain torch, or an accelerator.

    Args:
        model: The model to train; unchanged until `TrainingEngine.prepare`.
        accelerator: The accelerator passed to `fit`; None for plain torch in this process.

    Raises:
        TrainingError: `accelerator` is another object, or `fit` does not support its settings.
    """
    if accelerator is None:
        return TrainingEngine(model)
    accelerate = sys.modules.get("accelerate")  # imported where the accelerator was made
    of_type(
        accelerator,
        () if accelerate is None else accelerate.Accelerator,
        "fit: accelerator",
        TrainingError,
        expected="an accelerate.Accelerator or None",
        example="None",
    )
    _check(accelerator)
    return Sharded(model, accelerator) if accelerator.is_fsdp2 else Accelerated(model, accelerator)


def _check(accelerator: Accelerator) -> None:
    steps = accelerator.gradient_accumulation_steps
    if steps > 1:
        raise TrainingError(
            "fit: the accelerator accumulates gradients",
            expected="gradient_accumulation_steps=1",
            got=str(steps),
            fix=f"pass accumulation={steps} to fit instead",
        )
    kind = accelerator.distributed_type.value
    if kind in ("DEEPSPEED", "MEGATRON_LM", "XLA") or (kind == "FSDP" and not accelerator.is_fsdp2):
        raise TrainingError(
            f"fit: accelerators of type {kind} are not supported",
            expected="one process, DDP or FSDP2",
            got="FSDP version 1" if kind == "FSDP" else kind,
            fix="use fsdp_plugin=FullyShardedDataParallelPlugin(fsdp_version=2)",
        )
    if not accelerator.is_fsdp2:
        return
    plugin = accelerator.state.fsdp_plugin
    if plugin.activation_checkpointing:
        raise TrainingError(
            "fit: activation_checkpointing of FSDP2 is not supported",
            fix="pass gradient_checkpointing=True to fit instead",
        )
    if plugin.cpu_ram_efficient_loading:
        raise TrainingError(
            "fit: cpu_ram_efficient_loading of FSDP2 is not supported",
            cause="it broadcasts the weights of one process; fit reads the model of every process",
            fix="use FullyShardedDataParallelPlugin(fsdp_version=2, cpu_ram_efficient_loading=False)",
        )


class Accelerated(TrainingEngine):
    """Training with an accelerator; every process holds the whole model (one process, or DDP).

    Args:
        model: The model to train.
        accelerator: The accelerator passed to `fit`.
    """

    def __init__(self, model: nn.Module, accelerator: Accelerator) -> None:
        super().__init__(model)
        self.accelerator = accelerator
        self.processes, self.process = accelerator.num_processes, accelerator.process_index
        self.device = accelerator.device
        self._undo = contextlib.ExitStack()

    def prepare(self, optimizer: torch.optim.Optimizer) -> None:
        """Wrap the model and the optimizer; every process must hold the same model."""
        self._compare()
        for known in (self.accelerator._models, self.accelerator._optimizers):
            self._undo.callback(known.__delitem__, slice(len(known), None))
        before = dict(vars(self.module))
        try:
            self.run, self.step = self.accelerator.prepare(self.module, optimizer)
        finally:
            marks = vars(self.module).keys() - before.keys()
            self._undo.callback(_unwrap, self.module, marks, before.get("forward"))

    def exchange(self, optimizer: torch.optim.Optimizer) -> None:
        """Use another optimizer after `prepare`, since the model has other parameters; for a single process."""
        known = self.accelerator._optimizers
        known[:] = [each for each in known if each is not self.step]
        self.step = self.accelerator.prepare_optimizer(optimizer)

    def _compare(self) -> None:
        """Raise if the processes hold different models."""
        if self.processes == 1:
            return
        tensors = dict(self.module.named_parameters())
        number = int(sampled_digest(tensors, tuple(tensors))[:15], 16)
        every = self.accelerator.gather(torch.tensor([number], device=self.device))
        if not bool((every == number).all()):
            raise TrainingError(
                "fit: the processes hold different models",
                cause="adapt() without a seed, or a head initialised with another seed in every process",
                fix="call torch.manual_seed before making the model, and adapt(..., seed=0), in every process",
            )

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradients of a loss, scaled as the precision needs."""
        self.accelerator.backward(loss)

    def apart(self) -> AbstractContextManager[object]:
        """Return a context that skips gradient synchronisation (`no_sync`)."""
        context: AbstractContextManager[object] = self.accelerator.no_sync(self.run)
        return context

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over processes."""
        if self.processes == 1:
            return values
        found: Tensor = self.accelerator.reduce(values.to(self.device), "sum")
        return found

    def agree(self, buffers: list[Tensor]) -> None:
        """Broadcast buffers from the main process, in place."""
        if self.processes > 1:
            for buffer in buffers:
                torch.distributed.broadcast(buffer, 0)

    def log(self, values: Mapping[str, float], index: int) -> None:
        """Log an epoch's metrics to the accelerator's trackers, if it has any."""
        self.accelerator.log(dict(values), step=index)

    def close(self) -> None:
        """Unwrap the model and free DDP, whose hooks would otherwise keep waiting for other processes."""
        self.run = self.module
        self._undo.close()
        gc.collect()


def _unwrap(model: nn.Module, marks: Iterable[str], forward: object) -> None:
    """Undo what `Accelerator.prepare` set on a model: the attributes it added and its `forward`."""
    for name in marks:
        delattr(model, name)
    if forward is not None:
        vars(model)["forward"] = forward


class Sharded(Accelerated):
    """Training with FSDP2; every process holds a shard of the parameters.

    A copy is sharded and trained, so that the parameters of the caller's model stay ordinary tensors.

    Args:
        model: The model to train.
        accelerator: The accelerator passed to `fit`.
    """

    def __init__(self, model: nn.Module, accelerator: Accelerator) -> None:
        super().__init__(model, accelerator)
        self.module = copy.deepcopy(model)

    def prepare(self, optimizer: torch.optim.Optimizer) -> None:
        """Shard the copy; logits in half precision are cast to fp32, as under autocast."""
        super().prepare(optimizer)
        if self.accelerator.mixed_precision != "no":
            self.run.register_forward_hook(lambda _, __, logits: logits.float())

    def settle(self) -> None:
        """Free the parameters that the last forward pass gathered."""
        from torch.distributed.fsdp import FSDPModule

        for module in self.run.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def whole(self, tensor: Tensor) -> Tensor:
        """Gather a sharded tensor. Every process must call it."""
        return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor

    def like(self, tensor: Tensor, value: Tensor) -> Tensor:
        """Shard `value` like `tensor`, and return this process's shard."""
        from torch.distributed.tensor import DTensor, distribute_tensor

        if not isinstance(tensor, DTensor) or isinstance(value, DTensor):
            return value
        placed = value.to(tensor.device, tensor.dtype)
        return distribute_tensor(placed, tensor.device_mesh, tensor.placements, src_data_rank=None)

    def finish(self, state: Mapping[str, Tensor]) -> None:
        """Copy the trained parameters into the caller's model, in every process."""
        mine = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        with torch.no_grad():
            for name, tensor in state.items():
                mine[name].copy_(self.whole(tensor))
