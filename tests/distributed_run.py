"""What one process of several runs: some trainings of a small model, whose results go to a folder.

Usage: distributed_run.py KIND OUT CASE..., with KIND one of alone, ddp, fsdp, fsdp-blocks, fsdp-bf16.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import TensorDataset

from tensorfact import Adapter, TensorTrain, adapt, fit, plan_for
from tensorfact.errors import TrainingError
from tensorfact.lab import History, evaluate, nano
from tensorfact.lab.training import Epoch
from tensorfact.storage.files import write_tensors
from tests.helpers import draw

if TYPE_CHECKING:
    from accelerate import Accelerator

OPTIONS: dict[str, Any] = {"epochs": 2, "batch_size": 16, "lr": 3e-3, "weight_decay": 0.1}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "parts": {"accumulation": 3},
    "tiny": {"count": 5, "batch_size": 2, "epochs": 1},
    "dropped": {"drop_last": True, "validate_every": 2},
    "unvalidated": {"val": None},
    "recomputed": {"gradient_checkpointing": True, "accumulation": 2},
    "workers": {"workers": 1, "epochs": 1},
    "stopped": {"epochs": 3},
    "norm": {"norm": True, "count": 24, "val": None},
    "rates": {"lr_factors": {"V": 3.0}},
    "ignored": {"ignored": 2, "accumulation": 2, "epochs": 1, "val": None},
    "formed": {"epochs": 1, "adapt": {"route": "formed"}},
    "read": {"epochs": 1, "adapt": {"route": "weight", "subtract_start": True}},
}
"""Arguments of `fit`; `count` samples instead of 45; `norm`: a frozen batch normalisation; `ignored`: every second
label is -100; arguments of `adapt`."""


class Stop(Exception):  # noqa: N818
    """What a caller ends a run with."""


def data(count: int, seed: int) -> TensorDataset:
    x = torch.randn(count, 1, 28, 28, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x, (x.mean((1, 2, 3)) * 28 > 0).long())


def adapted(*, norm: bool = False, seed: int = 0, **options: Any) -> tuple[nn.Module, Adapter]:
    """Return a model whose every factor has a gradient from the first step on."""
    torch.manual_seed(0)
    model = nano()
    if norm:
        model.fc_norm = nn.BatchNorm1d(96)
    adapter = adapt(model, plan_for(model), TensorTrain(2), seed=seed, **{"scale": 1.0, **options})
    draw(adapter)
    return model, adapter


def trained(case: Mapping[str, Any], accelerator: Accelerator | None, **more: Any) -> tuple[nn.Module, History]:
    options = {"count": 45, "norm": False, "ignored": 0, "adapt": {}, "val": data(21, 1), **OPTIONS, **case, **more}
    model, _ = adapted(norm=options.pop("norm"), **options.pop("adapt"))
    train = data(options.pop("count"), 0)
    if step := options.pop("ignored"):
        train.tensors[1][::step] = -100
    history = fit(model, train, options.pop("val"), accelerator=accelerator, **options)
    return model, history


def stopped(accelerator: Accelerator | None, path: Path) -> tuple[nn.Module, History]:
    """Train with an interruption after the second epoch."""

    def stop(index: int, epoch: Epoch) -> None:
        if index == 1:
            raise Stop

    try:
        trained(CASES["stopped"], accelerator, checkpoint=path, on_epoch=stop)
    except (Stop, TrainingError):  # in the main process, and in the others
        return trained(CASES["stopped"], accelerator, checkpoint=path)
    raise AssertionError


def differing(accelerator: Accelerator) -> None:
    """Expect that processes with different models are told so."""
    model, _ = adapted(seed=accelerator.process_index)
    model.reset_classifier(2 + accelerator.process_index)  # type: ignore[operator]
    try:
        fit(model, data(4, 0), None, accelerator=accelerator)
    except TrainingError as error:
        assert "different models" in str(error)  # noqa: PT017
        return
    raise AssertionError


def make_accelerator(kind: str) -> Accelerator | None:
    if kind == "alone":
        return None
    from accelerate import Accelerator, FullyShardedDataParallelPlugin
    from accelerate.utils import DistributedType

    precision = "bf16" if kind == "fsdp-bf16" else "no"
    accelerator = Accelerator(cpu=True, mixed_precision=precision)
    if kind.startswith("fsdp"):
        blocks = {"auto_wrap_policy": "transformer_based_wrap", "transformer_cls_names_to_wrap": ["Block"]}
        plugin = FullyShardedDataParallelPlugin(fsdp_version=2, **({} if kind == "fsdp" else blocks))
        if precision != "no":
            plugin.set_mixed_precision(precision)
        # accelerate shards on GPUs only; what it then does is the same on the CPU
        accelerator.state.distributed_type, accelerator.state.fsdp_plugin = DistributedType.FSDP, plugin
    return accelerator


def main(kind: str, out: Path, cases: list[str]) -> None:
    accelerator = make_accelerator(kind)
    warnings.simplefilter("error")
    rank = 0 if accelerator is None else accelerator.process_index
    for case in cases:
        model, history = stopped(accelerator, out / "run") if case == "stopped" else trained(CASES[case], accelerator)
        assert type(model).__name__ == "VisionTransformer"
        assert all(type(p).__name__ in ("Parameter",) for p in model.parameters())
        if rank == 1:  # nobody waits for the others any more
            model.eval()(data(2, 2).tensors[0]).sum().backward()
        state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        model.tensorfact.merge()  # type: ignore[operator, union-attr]
        measured = evaluate(model, data(21, 1))
        epochs = [[epoch.train_loss, epoch.val_loss, epoch.val_accuracy] for epoch in history.epochs]
        write_tensors(out / f"{case}-{rank}", state, {"epochs": epochs, "merged": measured})
    if accelerator is not None:
        differing(accelerator)
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
