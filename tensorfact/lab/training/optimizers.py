"""The optimizer of a training run, and the learning rates of its parameters."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import nn

from ...adapters import Adapter
from ...adapters.trainable import Trainable
from ...errors import TrainingError
from ...optim import PreconditionedAdamW
from .schedule import Schedule


def optimizer_of(
    schedule: Schedule, model: nn.Module, trained: Sequence[tuple[nn.Parameter, float]]
) -> torch.optim.Optimizer:
    """Return the optimizer of a run.

    Args:
        schedule: Hyperparameters of the run.
        model: The model.
        trained: Its trained parameters, each with the multiple of the learning rate, in ascending order of these.

    Raises:
        TrainingError: `optimizer="preconditioned"` without exactly one adapter, or with sharded factors.
    """
    alike = itertools.groupby(trained, lambda item: item[1])
    groups = [{"params": [p for p, _ in items], "multiple": multiple} for multiple, items in alike]
    if schedule.optimizer == "adamw":
        fused = fusible(p for p, _ in trained)
        return torch.optim.AdamW(groups, schedule.lr, weight_decay=schedule.weight_decay, fused=fused)
    adapter = the_adapter(model, 'fit: optimizer="preconditioned"', 'optimizer="adamw"')
    if any(hasattr(core, "device_mesh") for core in adapter.named_cores().values()):
        raise TrainingError(
            'fit: optimizer="preconditioned" needs whole factors',
            got="factors sharded over processes, as FSDP2 keeps them",
            fix='pass optimizer="adamw", or train with DDP',
        )
    return PreconditionedAdamW(adapter, groups, lr=schedule.lr, weight_decay=schedule.weight_decay)


def fusible(parameters: Iterable[nn.Parameter]) -> bool:
    """Return whether `torch.optim.AdamW(fused=True)` can update parameters: all of them in one kernel.

    On a CPU, torch's kernel takes a gradient to have the strides of its parameter, and autograd gives it these strides
    only if the parameter's values lie beside each other in memory.

    Args:
        parameters: The trained parameters.

    Examples:
        >>> fusible([nn.Parameter(torch.ones(4, 4))]), fusible([nn.Parameter(torch.ones(4, 4)[:, ::2])])
        (True, False)
    """
    return all(p.device.type in ("cpu", "cuda") and p.is_floating_point() and p.is_contiguous() for p in parameters)


def adapters_of(model: nn.Module) -> dict[str, Trainable]:
    """Return the adapters of a model and of its parts, by the path of the adapted module.

    Args:
        model: The model.
    """
    named = ((name.rpartition(".")[0], module) for name, module in model.named_modules())
    return {path: module for path, module in named if isinstance(module, Trainable)}


def multiples_of(model: nn.Module, factors: Mapping[str, float]) -> dict[int, float]:
    """Return the learning-rate multipliers of `lr_factors`, by the id of the parameter.

    Args:
        model: The model.
        factors: The multipliers by name, as in `Adapter.parameter_groups`.

    Raises:
        TrainingError: There are multipliers, but not exactly one adapter.
    """
    if not factors:
        return {}
    adapter = the_adapter(model, "fit: lr_factors", "lr_factors=None")
    groups = adapter.parameter_groups(1.0, factors)
    return {id(parameter): float(group["lr"]) for group in groups for parameter in group["params"]}


def the_adapter(model: nn.Module, argument: str, otherwise: str) -> Adapter:
    """Return the one adapter of a model.

    Args:
        model: The model.
        argument: The argument that needs it, for messages.
        otherwise: The value of the argument that does without, for messages.

    Raises:
        TrainingError: The model has no adapter, or several.
    """
    adapters = adapters_of(model)
    if not adapters:
        raise TrainingError(
            f"{argument} needs a model with an adapter", fix="call tensorfact.adapt(model, plan, format) first"
        )
    if len(adapters) > 1:
        raise TrainingError(
            f"{argument} needs a model with one adapter",
            got=f"adapters of {', '.join(path or 'the whole model' for path in adapters)}",
            fix=f"pass {otherwise}, or adapt the model once, with one plan",
        )
    [adapter] = adapters.values()
    if not isinstance(adapter, Adapter):
        raise TrainingError(f"{argument} needs an adapter", got="a bank of tasks", fix=f"pass {otherwise}")
    return adapter
