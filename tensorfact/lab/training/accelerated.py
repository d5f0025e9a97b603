"""Training by a user's `accelerate.Accelerator`: on its device and in its precision, by DDP, or sharded by FSDP2."""

from __future__ import annotations

import contextlib
import copy
import gc
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed
from torch import Tensor, nn

from ...errors import TrainingError
from ...storage.description import fingerprint
from .engine import TrainingEngine

if TYPE_CHECKING:
    from accelerate import Accelerator


def engine_for(model: nn.Module, accelerator: Accelerator | None) -> TrainingEngine:
    """Return where a model is trained.

    Args:
        model: The caller's model; nothing changes on it before `Engine.prepare`.
        accelerator: The caller's accelerator, if there is one.

    Raises:
        TrainingError: `fit` cannot use the accelerator.
    """
    if accelerator is None:
        return TrainingEngine(model)
    _check(accelerator)
    return Sharded(model, accelerator) if accelerator.is_fsdp2 else Accelerated(model, accelerator)


def _check(accelerator: Accelerator) -> None:
    if accelerator.gradient_accumulation_steps > 1:
        raise TrainingError(
            "fit: the accelerator accumulates gradients by itself",
            expected="gradient_accumulation_steps 1",
            got=str(accelerator.gradient_accumulation_steps),
            fix="pass accumulation= to fit",
        )
    kind = accelerator.distributed_type.value
    if kind in ("DEEPSPEED", "MEGATRON_LM", "XLA") or (kind == "FSDP" and not accelerator.is_fsdp2):
        raise TrainingError(
            f"fit: an accelerator of type {kind}",
            expected="one process, DDP or FSDP2",
            got=f"{kind}, version 1" if kind == "FSDP" else kind,
            fix="fsdp_plugin=FullyShardedDataParallelPlugin(fsdp_version=2)",
        )
    if not accelerator.is_fsdp2:
        return
    plugin = accelerator.state.fsdp_plugin
    if plugin.activation_checkpointing:
        raise TrainingError(
            "fit: FSDP2 with activation_checkpointing", fix="pass gradient_checkpointing=True to fit instead"
        )
    if plugin.cpu_ram_efficient_loading:
        raise TrainingError(
            "fit: FSDP2 with cpu_ram_efficient_loading",
            cause="that sends the weights from one process; fit takes them from the model that every process has",
            fix="FullyShardedDataParallelPlugin(fsdp_version=2, cpu_ram_efficient_loading=False)",
        )


class Accelerated(TrainingEngine):
    """The processes of an accelerator, with a whole model each.

    Args:
        model: The caller's model.
        accelerator: The caller's accelerator.
    """

    def __init__(self, model: nn.Module, accelerator: Accelerator) -> None:
        super().__init__(model)
        self.accelerator: Any = accelerator
        self.processes, self.process = accelerator.num_processes, accelerator.process_index
        self.device = accelerator.device
        self._undo = contextlib.ExitStack()

    def prepare(self, optimizer: torch.optim.Optimizer) -> None:
        """Wrap the model; all processes must hold the same one."""
        self._compare()
        for known in (self.accelerator._models, self.accelerator._optimizers):
            self._undo.callback(known.__delitem__, slice(len(known), None))
        before = dict(vars(self.module))
        try:
            self.run, self.step = self.accelerator.prepare(self.module, optimizer)
        finally:
            marks = vars(self.module).keys() - before.keys()
            self._undo.callback(_unwrap, self.module, marks, before.get("forward"))

    def _compare(self) -> None:
        """Refuse models that differ between the processes."""
        if self.processes == 1:
            return
        tensors = dict(self.module.named_parameters())
        number = int(fingerprint(tensors, tuple(tensors))[:15], 16)
        every = self.accelerator.gather(torch.tensor([number], device=self.device))
        if not bool((every == number).all()):
            raise TrainingError(
                "fit: the processes hold different models",
                cause="adapt() without a seed, or a head drawn at random in every process",
                fix="call torch.manual_seed before making the model, and adapt(..., seed=0), in every process",
            )

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss, scaled as the precision needs."""
        self.accelerator.backward(loss)

    def apart(self) -> AbstractContextManager[object]:
        """Return a context in which gradients stay in their process."""
        context: AbstractContextManager[object] = self.accelerator.no_sync(self.run)
        return context

    def measuring(self) -> AbstractContextManager[object]:
        """Return a context without gradients; tensors made in inference mode could not be used in training."""
        return torch.no_grad()

    def total(self, values: Tensor) -> Tensor:
        """Return the sum over processes."""
        if self.processes == 1:
            return values
        found: Tensor = self.accelerator.reduce(values.to(self.device), "sum")
        return found

    def agree(self, buffers: list[Tensor]) -> None:
        """Give all processes the main process's numbers."""
        if self.processes > 1:
            for buffer in buffers:
                torch.distributed.broadcast(buffer, 0)

    def log(self, values: Mapping[str, float], index: int) -> None:
        """Tell the accelerator's trackers about an epoch; without any, nobody."""
        self.accelerator.log(dict(values), step=index)

    def close(self) -> None:
        """Unwrap the model and let go of it: DDP's hooks on the parameters would else go on waiting for others."""
        self.run = self.step = None
        self._undo.close()
        gc.collect()


def _unwrap(model: nn.Module, marks: Iterable[str], forward: Any) -> None:
    """Take off what `Accelerator.prepare` set on a model: marks, and a forward pass around its own."""
    for name in marks:
        delattr(model, name)
    if forward is not None:
        vars(model)["forward"] = forward


class Sharded(Accelerated):
    """The processes of an accelerator, with a part of the model's parameters each.

    A copy is sharded and trained, so that the caller's model stays an ordinary one.

    Args:
        model: The caller's model.
        accelerator: The caller's accelerator.
    """

    def __init__(self, model: nn.Module, accelerator: Accelerator) -> None:
        super().__init__(model, accelerator)
        self.module = copy.deepcopy(model)

    def prepare(self, optimizer: torch.optim.Optimizer) -> None:
        """Shard the copy; logits in half precision become fp32, as autocast's do."""
        super().prepare(optimizer)
        if self.accelerator.mixed_precision != "no":
            self.run.register_forward_hook(lambda _, __, logits: logits.float())

    def settle(self) -> None:
        """Free what was gathered."""
        for module in self.run.modules():
            if hasattr(module, "reshard"):
                module.reshard()

    def whole(self, tensor: Tensor) -> Tensor:
        """Return all of a tensor."""
        return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor

    def like(self, tensor: Tensor, value: Tensor) -> Tensor:
        """Return this process's part of an ordinary tensor."""
        from torch.distributed.tensor import DTensor, distribute_tensor

        if not isinstance(tensor, DTensor) or isinstance(value, DTensor):
            return value
        placed = value.to(tensor.device, tensor.dtype)
        return distribute_tensor(placed, tensor.device_mesh, tensor.placements, src_data_rank=None)

    def finish(self, state: Mapping[str, Tensor]) -> None:
        """Gather what was trained into the caller's model, in every process."""
        mine = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        with torch.no_grad():
            for name, tensor in state.items():
                mine[name].copy_(self.whole(tensor))
