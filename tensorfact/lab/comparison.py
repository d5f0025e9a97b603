"""Compare formats on one model and one data set, beside the linear probe and full fine-tuning."""

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
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..algebra import reconstruct
from ..algebra.extraction import Weights
from ..common.progress import Progress, silent
from ..common.table import Table
from ..errors import TrainingError
from ..formats import Format, format_label
from ..plan import TensorizationPlan, plan_for
from ..recipes import Recipe
from .baselines import FullFineTuning, LinearProbe, Method, Trained
from .data import Splits
from .measure import TrainingStep, freeze_to_floor, peak_bytes, step_ratios
from .methods import Adapting
from .models import with_head
from .training import Schedule, evaluate, fit

PACKAGES = ("torch", "timm", "tensorly", "opt_einsum", "numpy")


@dataclasses.dataclass(frozen=True)
class ComparisonRow:
    """What was measured of one method.

    Args:
        label: The method.
        parameters: Numbers that train, the head apart.
        bytes: Size of the file that holds what was trained, the head included.
        val_accuracy: Validation accuracy of the best epoch, one a seed, 0 to 1.
        test_accuracy: Test accuracy of the same parameters, one a seed, 0 to 1.
        step_ratio: Time of a training step as a multiple of the frozen floor's.
        peak_bytes: Most memory that tensors take during a training step.
        merge_error: Largest difference of merged and adapted outputs, over the largest output.
        increment_error: Relative error with which the format holds the given increment; None without one.
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
    """Rows of methods on one model and data set. Printed, it is a table.

    Args:
        rows: One row a method.
        run_info: When, on what and with which settings it ran.
    """

    rows: tuple[ComparisonRow, ...]
    run_info: Mapping[str, Any]

    def table(self) -> Table:
        """Return the rows as text: accuracies in percent with the spread (standard deviation) over seeds."""
        headers = (
            "method",
            "parameters",
            "file",
            "validation %",
            "test %",
            "step/floor",
            "peak memory",
            "merge error",
            *(["increment error"] if any(row.increment_error is not None for row in self.rows) else []),
        )
        rows = tuple(
            (
                row.label,
                f"{row.parameters:,}",
                f"{row.bytes / 1024:,.0f} KiB",
                _percent(row.val_accuracy),
                _percent(row.test_accuracy),
                f"{row.step_ratio:.2f}",
                f"{row.peak_bytes / 2**20:,.1f} MiB",
                f"{row.merge_error:.0e}" if row.merge_error else "0",
                *(["" if row.increment_error is None else f"{row.increment_error:.3g}"] if len(headers) > 8 else []),
            )
            for row in self.rows
        )
        return Table(headers, rows)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON data, in the sections `run_info`, `train_info` and `meta_info`."""
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
    formats: Mapping[str, Format | Mapping[str, Format] | Recipe] | Iterable[Format],
    *,
    plan: TensorizationPlan | None = None,
    scale: float = 1.0,
    dropout: float = 0.0,
    seeds: Sequence[int] = (0, 1, 2),
    epochs: int = 100,
    batch_size: int = 64,
    lr: float = 1e-3,
    weight_decay: float = 1e-4,
    baselines: Sequence[Method] = (LinearProbe(), FullFineTuning()),
    increment: Weights | None = None,
    progress: Progress = silent,
) -> Comparison:
    """Train every format on the same model, data and seeds, and measure what each costs.

    Every run starts from a copy of `model` with a fresh head. Only the validation split chooses anything; the test
    split is read once, with the chosen parameters. The step time is measured interleaved with the frozen floor: the
    frozen model with gradients through all blocks and a training head.

    Args:
        model: A timm model, or one with `pretrained_cfg` and `reset_classifier`; it is not changed.
        data: What to train on, choose by and report on.
        formats: Formats; or by the row's label formats, formats for each group, or recipes, which have a plan, and
            may have a scale and other options, of their own.
        plan: Which weights fold into which tensors; `plan_for(model)` by default.
        scale: Scale s of the update: W + s dW.
        dropout: The adapters' dropout.
        seeds: One training run each.
        epochs: Passes over the training split.
        batch_size: Batch size: samples per step.
        lr: Peak learning rate.
        weight_decay: AdamW's weight decay.
        baselines: The rows to compare with.
        increment: Fine-tuned weights of the model; how well each format holds their increment is one more column.
        progress: Called after each epoch of each run.

    Returns:
        One row for each baseline and format.

    Raises:
        PlanError: The plan does not fit the model.
        RankError: A rank that the plan's tensors do not allow; found before anything trains.
        AdaptError: The model cannot get a fresh head.
        DataError: The increment's weights do not fit the model.
        TrainingError: There is no seed, or a label is there twice, or a run's loss is not finite.

    Examples:
        >>> from tensorfact import TensorTrain, compare
        >>> from tensorfact.lab import digits, nano
        >>> model = nano()
        >>> result = compare(model, digits(model), [TensorTrain(rank=2)], seeds=[0], epochs=1)
        >>> [(row.label, row.parameters) for row in result.rows]
        [('linear probe', 0), ('full fine-tuning', 677760), ('tt rank=2', 672)]
    """
    plan = plan or plan_for(model)
    labelled = formats if isinstance(formats, Mapping) else _labelled(formats)
    shared = {"scale": scale, "dropout": dropout}
    recipes = {
        label: each if isinstance(each, Recipe) else Recipe(plan, each, shared) for label, each in labelled.items()
    }
    methods = [*baselines, *(Adapting(label, _always(recipe)) for label, recipe in recipes.items())]
    labels = [method.label for method in methods]
    if not seeds or len(set(labels)) < len(labels):
        problem = "no seed" if not seeds else f"a label twice among {labels}"
        raise TrainingError(f"compare: {problem}", fix="pass at least one seed, and formats that differ")
    settings: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "weight_decay": weight_decay}
    Schedule(**settings, warmup_epochs=0, seed=0)  # every mistake in a number or a rank shows before anything trains
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


def _run(
    model: nn.Module, data: Splits, method: Method, seed: int, settings: Mapping[str, Any], progress: Progress
) -> _Run:
    """Train one method with one seed, and measure what came of it."""
    copied = _fresh(model, data.classes, seed)
    trained = method.attach(copied, seed)
    val = fit(copied, data.train, data.val, seed=seed, progress=progress, **settings).val_accuracy
    assert val is not None  # there is a validation split
    test, _ = evaluate(copied, data.test)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trained.safetensors")
        trained.save(path)
        size = path.stat().st_size
    error = _merge_error(copied, trained, _batch(data.test, settings["batch_size"], copied)[0])
    return _Run(trained.num_parameters, size, val, test, error)


def _costs(
    model: nn.Module, data: Splits, methods: Sequence[Method], plan: TensorizationPlan, seed: int, batch_size: int
) -> dict[str, tuple[float, int]]:
    """Measure every method's step against the floor, and its peak memory."""
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
    """Copy a model and give it a new head."""
    return with_head(copy.deepcopy(model), classes, seed)


def _batch(data: Any, size: int, model: nn.Module) -> tuple[Tensor, Tensor]:
    x, y = next(iter(DataLoader(data, size)))
    device = next(model.parameters()).device
    return x.to(device), y.to(device)


def _merge_error(model: nn.Module, trained: Trained, x: Tensor) -> float:
    model.eval()
    with torch.no_grad():
        adapted = model(x)
        trained.merge()
        return float((model(x) - adapted).abs().max() / adapted.abs().max())


def _always(recipe: Recipe) -> Callable[[nn.Module], Recipe]:
    return lambda _: recipe


def _named(task: str, progress: Progress) -> Progress:
    return lambda _, done, total: progress(task, done, total)


def _labelled(formats: Iterable[Format]) -> dict[str, Format]:
    return {format_label(format): format for format in formats}


def _run_info(model: nn.Module, data: Splits, plan: TensorizationPlan) -> dict[str, Any]:
    device = next(model.parameters()).device
    gpu = {"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    return {
        "created_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "tensorfact": version("tensorfact"),
        "packages": {name: version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "machine": {"system": platform.platform(), "threads": torch.get_num_threads(), "device": str(device), **gpu},
        "model": {"name": _name(model), "parameters": sum(p.numel() for p in model.parameters())},
        "data": {"name": data.name, "classes": data.classes, **data.sizes},
        "plan": plan.to_json(),
    }


def _name(model: nn.Module) -> str:
    config = getattr(model, "pretrained_cfg", None) or {}
    return str(config.get("architecture") or type(model).__name__)


def _percent(values: Sequence[float]) -> str:
    mean = f"{100 * statistics.fmean(values):.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean
