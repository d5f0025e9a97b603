"""Compare formats on one model and one data set, with the linear probe and full fine-tuning as baselines."""

from __future__ import annotations

import copy
import dataclasses
import datetime
import platform
import statistics
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..adapters.scale import AUTO
from ..algebra import reconstruct
from ..algebra.extraction import Weights
from ..common.aliases import JsonObject, Options
from ..common.checks import callback
from ..common.progress import Progress, silent
from ..common.table import Table
from ..errors import TrainingError
from ..formats import FormatLike
from ..formats.registry import labelled
from ..model.origin import origin_of
from ..plan import TensorizationPlan, plan_for
from ..recipes import Recipe
from .baselines import FullFineTuning, LinearProbe, Method, Trained
from .data import Splits
from .measure import TrainingStep, freeze_to_floor, peak_bytes, step_ratios
from .methods import Adapting, method_of
from .models import with_head
from .training import Samples, Schedule, evaluate, fit
from .training.predictions import logits_of

PACKAGES = ("torch", "timm", "tensorly", "opt_einsum", "numpy")


@dataclasses.dataclass(frozen=True)
class ComparisonRow:
    """Measurements of one method.

    Args:
        label: Name of the method.
        parameters: Number of trained parameters, excluding the head.
        bytes: File size of the trained parameters, including the head.
        val_accuracy: Validation accuracy of the best epoch for each seed, 0 to 1.
        test_accuracy: Test accuracy of the same parameters for each seed, 0 to 1.
        step_ratio: Time of a training step divided by that of the frozen floor.
        peak_bytes: Peak memory of tensors during a training step.
        merge_error: Largest absolute difference between merged and adapted outputs, over the largest output.
        increment_error: Relative error of the given increment in this format; None if no increment was given.
    """

    label: str
    parameters: int
    bytes: int
    val_accuracy: tuple[float, ...]
    test_accuracy: tuple[float, ...]
    step_ratio: float
    peak_bytes: int
    merge_error: float
    increment_error: float | None = None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Result of `compare`: one row per method. `print` shows it as a table.

    Args:
        rows: Measurements, one row per method.
        run_info: Date, machine, package versions, model, data, plan and settings, as JSON data.
    """

    rows: tuple[ComparisonRow, ...]
    run_info: JsonObject

    def table(self) -> Table:
        """Return the rows as a table: accuracies in percent, mean ± standard deviation over seeds."""
        headers = [
            "method",
            "parameters",
            "file",
            "validation %",
            "test %",
            "step/floor",
            "peak memory",
            "merge error",
        ]
        rows = [
            [
                row.label,
                f"{row.parameters:,}",
                f"{row.bytes / 1024:,.0f} KiB",
                _percent(row.val_accuracy),
                _percent(row.test_accuracy),
                f"{row.step_ratio:.2f}",
                f"{row.peak_bytes / 2**20:,.1f} MiB",
                f"{row.merge_error:.0e}" if row.merge_error else "0",
            ]
            for row in self.rows
        ]
        if any(row.increment_error is not None for row in self.rows):
            headers.append("increment error")
            for row, cells in zip(self.rows, rows, strict=True):
                cells.append("" if row.increment_error is None else f"{row.increment_error:.3g}")
        return Table(tuple(headers), tuple(map(tuple, rows)))

    def to_dict(self) -> JsonObject:
        """Return JSON data in three sections: `run_info`, `train_info` and `meta_info`."""
        train = ("val_accuracy", "test_accuracy", "step_ratio", "peak_bytes", "merge_error", "increment_error")
        rows = {row.label: dataclasses.asdict(row) for row in self.rows}
        return {
            "run_info": dict(self.run_info),
            "train_info": {label: {key: row[key] for key in train} for label, row in rows.items()},
            "meta_info": {label: {key: row[key] for key in ("parameters", "bytes")} for label, row in rows.items()},
        }

    def __str__(self) -> str:
        return str(self.table())


def compare(
    model: nn.Module,
    data: Splits,
    formats: Mapping[str, FormatLike | Mapping[str, FormatLike] | Recipe] | Iterable[FormatLike],
    *,
    plan: TensorizationPlan | None = None,
    scale: float | Literal["auto"] = AUTO,
    dropout: float = 0.0,
    seeds: Sequence[int] = (0, 1, 2),
    epochs: int = 100,
    batch_size: int = 64,
    lr: float = 1e-3,
    weight_decay: float = 1e-4,
    baselines: Sequence[Method | str] = (LinearProbe(), FullFineTuning()),
    increment: Weights | None = None,
    progress: Progress = silent,
) -> Comparison:
    """Train several formats on the same model, data and seeds, and compare their accuracy and cost.

    Every run starts from a copy of `model` with a new head. The best epoch is chosen on the validation split; the test
    split is evaluated once, with the parameters of that epoch. Step times are measured alternately with the frozen
    floor: the frozen model with a trained head and with gradients through all blocks.

    Args:
        model: A timm model, one of transformers for image classification, or one with `pretrained_cfg` and
            `reset_classifier`; it is not changed.
        data: Training, validation and test splits.
        formats: A list of formats; or a mapping from row labels to formats, to formats for each group, or to recipes.
            A recipe has its own plan, and may set its own scale and other options.
        plan: Plan that folds weights into tensors; default: `plan_for(model)`.
        scale: Scale s of the update: W + s dW; see `adapt`.
        dropout: Dropout probability of the adapters.
        seeds: Random seeds; each method trains once per seed.
        epochs: Passes over the training split.
        batch_size: Batch size: samples per step.
        lr: Peak learning rate.
        weight_decay: Weight decay of AdamW.
        baselines: Methods to compare with, or their names as in a sweep: `bitfit`, `peft-lora:r=8`.
        increment: Fine-tuned weights of the model; adds a column with the relative error of each format on their
            increment.
        progress: Called after each epoch of each run.

    Returns:
        One row for each baseline and format.

    Raises:
        PlanError: The plan does not fit the model.
        RankError: A tensor of the plan does not admit a rank; raised before training starts.
        AdaptError: The head of the model cannot be replaced.
        DataError: `data` has no test samples, or the weights in `increment` do not fit the model.
        TrainingError: `seeds` is empty, two methods have the same label, `progress` is not a function of its arguments,
            or a loss is not finite.

    Examples:
        >>> from tensorfact import TensorTrain, compare
        >>> from tensorfact.lab import digits, nano
        >>> model = nano()
        >>> data = digits(model, train=64, val=64, test=64)
        >>> result = compare(model, data, [TensorTrain(rank=2)], seeds=[0], epochs=1)
        >>> [(row.label, row.parameters) for row in result.rows]
        [('linear probe', 0), ('full fine-tuning', 677760), ('tt rank=2', 672)]
    """
    callback(progress, "compare: progress", TrainingError)
    data.require_test("compare")
    plan = plan or plan_for(model)
    shared = {"scale": scale, "dropout": dropout}
    given: Mapping[str, FormatLike | Mapping[str, FormatLike] | Recipe] = labelled(formats, "compare")
    recipes = {label: each if isinstance(each, Recipe) else Recipe(plan, each, shared) for label, each in given.items()}
    others = (method_of(each) if isinstance(each, str) else each for each in baselines)
    methods = [*others, *(Adapting(label, _always(recipe)) for label, recipe in recipes.items())]
    labels = [method.label for method in methods]
    if not seeds:
        raise TrainingError("compare: seeds is empty", fix="seeds=[0]")
    if len(set(labels)) < len(labels):
        raise TrainingError("compare: two methods have the same label", got=", ".join(labels), fix="pass each once")
    settings: Options = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "weight_decay": weight_decay}
    Schedule(**settings, warmup_epochs=0, seed=0)  # raises for invalid numbers before training starts
    for method in methods:
        method.attach(_fresh(model, data.classes, seeds[0]), seeds[0])

    held: dict[str, float] = {}
    if increment is not None:
        held_by = {label: recipe.format for label, recipe in recipes.items() if recipe.plan == plan}
        held = {r.label: r.error for r in reconstruct(model, increment, held_by, plan=plan, progress=progress).rows}
    costs = _costs(model, data, methods, plan, seeds[0], batch_size)
    rows = []
    for method in methods:
        runs = []
        for seed in seeds:
            task = f"{method.label}, seed {seed}"
            runs.append(_run(model, data, method, seed, settings, _named(task, progress)))
        ratio, peak = costs[method.label]
        first = runs[0]
        rows.append(
            ComparisonRow(
                method.label,
                first.parameters,
                first.bytes,
                tuple(run.val for run in runs),
                tuple(run.test for run in runs),
                ratio,
                peak,
                max(run.merge_error for run in runs),
                held.get(method.label),
            )
        )
    info = {**settings, "seeds": list(seeds), "scale": scale, "dropout": dropout}
    return Comparison(tuple(rows), {**_run_info(model, data, plan), "settings": info})


@dataclasses.dataclass(frozen=True)
class _Run:
    parameters: int
    bytes: int
    val: float
    test: float
    merge_error: float


def _run(model: nn.Module, data: Splits, method: Method, seed: int, settings: Options, progress: Progress) -> _Run:
    """Train one method with one seed, and measure accuracies, file size and merge error."""
    copied = _fresh(model, data.classes, seed)
    trained = method.attach(copied, seed)
    val = fit(copied, data.train, data.val, seed=seed, ties="first", progress=progress, **settings).val_accuracy
    assert val is not None  # `fit` got a validation split
    test = evaluate(copied, data.test).accuracy
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trained.safetensors")
        trained.save(path)
        size = path.stat().st_size
    error = _merge_error(copied, trained, _batch(data.test, settings["batch_size"], copied)[0])
    return _Run(trained.num_parameters, size, val, test, error)


def _costs(
    model: nn.Module, data: Splits, methods: Sequence[Method], plan: TensorizationPlan, seed: int, batch_size: int
) -> dict[str, tuple[float, int]]:
    """Measure the step time relative to the floor, and the peak memory, of every method."""
    x, y = _batch(data.train, batch_size, model)
    bottom = _fresh(model, data.classes, seed)
    freeze_to_floor(bottom, plan.resolve(bottom).parameters[0])
    floor = TrainingStep(bottom, x, y)
    costs = {}
    for method in methods:  # one copy at a time, so that a large model fits
        copied = _fresh(model, data.classes, seed)
        method.attach(copied, seed)
        step = TrainingStep(copied, x, y)
        peak = peak_bytes(step)
        costs[method.label] = (step_ratios(floor, {method.label: step})[method.label], peak)
    return costs


def _fresh(model: nn.Module, classes: int, seed: int) -> nn.Module:
    """Return a copy of the model with a new head."""
    return with_head(copy.deepcopy(model), classes, seed)


def _batch(data: Samples, size: int, model: nn.Module) -> tuple[Tensor, Tensor]:
    x, y = next(iter(DataLoader(data, size)))
    device = next(model.parameters()).device
    return x.to(device), y.to(device)


def _merge_error(model: nn.Module, trained: Trained, x: Tensor) -> float:
    model.eval()
    with torch.no_grad():
        adapted = logits_of(model(x))
        trained.merge()
        return float((logits_of(model(x)) - adapted).abs().max() / adapted.abs().max())


def _always(recipe: Recipe) -> Callable[[nn.Module], Recipe]:
    return lambda _: recipe


def _named(task: str, progress: Progress) -> Progress:
    return lambda _, done, total: progress(task, done, total)


def _run_info(model: nn.Module, data: Splits, plan: TensorizationPlan) -> JsonObject:
    device = next(model.parameters()).device
    gpu = {"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    return {
        "created_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "tensorfact": version("tensorfact"),
        "packages": {name: version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "machine": {"system": platform.platform(), "threads": torch.get_num_threads(), "device": str(device), **gpu},
        "model": {
            "name": _name(model),
            "parameters": sum(p.numel() for p in model.parameters()),
            "origin": dataclasses.asdict(origin_of(model)),
        },
        "data": {"name": data.name, "classes": data.classes, **data.sizes},
        "plan": plan.to_json(),
    }


def _name(model: nn.Module) -> str:
    config = getattr(model, "pretrained_cfg", None) or {}
    return str(config.get("architecture") or type(model).__name__)


def _percent(values: Sequence[float]) -> str:
    mean = f"{100 * statistics.fmean(values):.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean
