"""Arguments of public functions: flags are bools, and numbers may come from numpy and torch."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import tensorfact as tf
from tensorfact import (
    CP,
    Alpha,
    MatrixBatch,
    TensorTrain,
    Tucker,
    adapt,
    bank,
    combine,
    extract,
    load_adapter,
    open_bank,
    recipes,
    to_lora,
)
from tensorfact.errors import AdaptError, DataError, RankError, TensorfactError, TrainingError
from tensorfact.lab import arrays, digits, doctor, evaluate, nano, open_task, sprites
from tensorfact.lab.baselines import PromptTuning, prompt_length
from tensorfact.lab.data import fashion_mnist, few_shot, hugging_face, image_folder, timm_dataset, vtab
from tensorfact.lab.models import load_model, make_model
from tensorfact.network import Core, calibrate
from tensorfact.optim import precondition
from tests.helpers import refused, snapshot, untouched
from tests.lab.training.runs import data, network, numbers, run

ROOMS = (
    "",
    ".lab",
    ".lab.data",
    ".lab.baselines",
    ".network",
    ".formats",
    ".algebra",
    ".lora",
    ".adapters",
    ".optim",
    ".recipes",
)
NOT_YET = {"adapt.subtract_start", "load_adapter.check_base", "AdapterState.load.check_base"}
"""Flags whose checks are in files of storage and adapters."""
INTERNAL = {"Cut.over_inputs", "Cut.formed.together"}

MODEL = nano()
PLAN = tf.plan_for(MODEL, blocks="attention")
PIXELS, LABELS = np.zeros((9, 8, 8)), np.arange(9)
FOLDER = Path("folder")


def adapted(**options: Any) -> object:
    return adapt(MODEL, PLAN, TensorTrain(2), **options)


@functools.cache
def source() -> tf.Adapter:
    return adapt(nano(), PLAN, TensorTrain(2), check=False)


def preconditioned(**options: Any) -> object:
    return precondition(torch.optim.SGD(source().factors.parameters()), source(), **options)


def combined(**options: Any) -> object:
    return combine({source(): 1.0}, **options)


def loaded(**options: Any) -> object:
    return load_adapter(MODEL, source(), **options)


FLAGS: dict[str, Callable[..., object]] = {
    "Adapter.explain.measure": lambda **o: source().explain(**o),
    "Adapter.to_lora.head": lambda **o: source().to_lora("none", **o),
    "Bank.explain.measure": lambda **o: adapt(nano(), tasks=["one"], check=False).explain(**o),
    "Alpha.root": lambda **o: Alpha(8, **o),
    "CP.weights": lambda **o: CP(4, **o),
    "Core.trained": lambda **o: Core("A", ("in",), **o),
    "PromptTuning.deep": PromptTuning,
    "Splits.held_out": lambda **o: tf.lab.Splits("a", data(), data(), data(), 3, **o),
    "adapt.check": adapted,
    "adapt.recompute": adapted,
    "adapt.train_head": adapted,
    "arrays.imagenet_statistics": lambda **o: arrays(PIXELS, LABELS, MODEL, train=4, val=2, **o),
    "load_adapter.replace": lambda **o: load_adapter(MODEL, "none", **o),
    "open_bank.check_base": lambda **o: open_bank(MODEL, "none", **o),
    "bank.check_base": lambda **o: bank(MODEL, {"one": "none.safetensors"}, **o),
    "calibrate.use": calibrate,
    "combine.check_base": combined,
    "combine.keep_head": combined,
    "digits.imagenet_statistics": lambda **o: digits(MODEL, **o),
    "extract.keep": lambda **o: extract(MODEL, MODEL, PLAN, TensorTrain(2), **o),
    "fashion_mnist.imagenet_statistics": lambda **o: fashion_mnist(MODEL, **o),
    "doctor.costs": lambda **o: doctor(MODEL, **o),
    "few_shot.check": lambda **o: few_shot(FOLDER, MODEL, shots=1, seed=0, **o),
    "few_shot.imagenet_statistics": lambda **o: few_shot(FOLDER, MODEL, shots=1, seed=0, **o),
    "fit.drop_last": lambda **o: run(network(), **o),
    "fit.gradient_checkpointing": lambda **o: run(network(), **o),
    "hugging_face.check": lambda **o: hugging_face(FOLDER, MODEL, **o),
    "hugging_face.imagenet_statistics": lambda **o: hugging_face(FOLDER, MODEL, **o),
    "image_folder.check": lambda **o: image_folder(FOLDER, MODEL, **o),
    "image_folder.imagenet_statistics": lambda **o: image_folder(FOLDER, MODEL, **o),
    "load.check_base": lambda **o: tf.load(FOLDER, **o),
    "load_adapter.check": loaded,
    "load_adapter.recompute": loaded,
    "load_model.pretrained": lambda **o: load_model("nano", **o),
    "make_model.pretrained": lambda **o: make_model("nano", **o),
    "nano.pretrained": nano,
    "fact_tk_released.released_start": lambda **o: recipes.fact_tk_released(MODEL, **o),
    "fact_tt.released_start": lambda **o: recipes.fact_tt(MODEL, **o),
    "precondition.relative": lambda **o: preconditioned(**o),
    "open_task.check": lambda **o: open_task("digits", MODEL, **o),
    "open_task.imagenet_statistics": lambda **o: open_task("digits", MODEL, **o),
    "prompt_length.deep": lambda **o: prompt_length("svhn", **o),
    "sprites.imagenet_statistics": lambda **o: sprites("location", MODEL, **o),
    "timm_dataset.check": lambda **o: timm_dataset("folder", MODEL, **o),
    "timm_dataset.download": lambda **o: timm_dataset("folder", MODEL, **o),
    "timm_dataset.imagenet_statistics": lambda **o: timm_dataset("folder", MODEL, **o),
    "to_lora.head": lambda **o: to_lora("none.safetensors", MODEL, None, **o),
    "vtab.check": lambda **o: vtab(FOLDER, "svhn", MODEL, **o),
    "vtab.imagenet_statistics": lambda **o: vtab(FOLDER, "svhn", MODEL, **o),
}


def flags() -> Iterator[str]:
    """Find the arguments of public functions, classes and methods that are annotated as bools."""
    for room in ROOMS:
        module = importlib.import_module(f"tensorfact{room}")
        for name in module.__all__:
            made = getattr(module, name)
            found = {name: made}
            if inspect.isclass(made):
                methods = {key: getattr(made, key) for key in vars(made) if not key.startswith("_")}
                found |= {f"{name}.{key}": value for key, value in methods.items() if callable(value)}
            for called, function in found.items():
                if callable(function) and not isinstance(function, ModuleType):
                    for parameter in inspect.signature(function).parameters.values():
                        if parameter.annotation in ("bool", "bool | str"):
                            yield f"{called}.{parameter.name}"


def test_every_flag_has_a_case() -> None:
    assert set(flags()) - FLAGS.keys() == NOT_YET | INTERNAL


@pytest.mark.parametrize("name", FLAGS)
def test_a_flag_is_true_or_false(name: str) -> None:
    argument = name.rpartition(".")[2]
    values: list[Any] = [1, 0, None, np.True_, torch.tensor(True), [], 3.0]
    values += [""] if argument == "train_head" else ["", "no", "yes", "False"]
    before = snapshot(MODEL)
    for value in values:
        with refused_flag(argument):
            FLAGS[name](**{argument: value})
    assert snapshot(MODEL) == before


def refused_flag(argument: str) -> Any:
    return pytest.raises(TensorfactError, match=rf"{argument}: expected True.* False.*Fix: {argument}=(True|False)")


@pytest.mark.parametrize("integer", [np.int64, np.uint8, torch.tensor])
@pytest.mark.parametrize("real", [np.float32, np.float64, torch.tensor])
def test_fit_takes_numbers_of_numpy_and_torch(integer: Any, real: Any, tmp_path: Path) -> None:
    plain: dict[str, Any] = {"epochs": 2, "batch_size": 16, "lr": 0.25, "seed": 3, "warmup_epochs": 0.25}
    given = {key: (integer if isinstance(value, int) else real)(value) for key, value in plain.items()}
    expected = numbers(run(network(), **plain))
    path = tmp_path / "run.safetensors"
    assert numbers(run(network(), **given, checkpoint=path)) == expected
    assert numbers(run(network(), **plain, checkpoint=path)) == expected, "the checkpoint is that of the same run"
    assert evaluate(network(), data(), batch_size=integer(7)) == evaluate(network(), data(), batch_size=7)


@pytest.mark.parametrize("name", ["epochs", "batch_size", "seed", "accumulation", "workers", "validate_every"])
@pytest.mark.parametrize("value", [True, np.True_, torch.tensor(True), 1.5, "2", -1])
def test_a_number_of_fit_is_no_bool(name: str, value: Any) -> None:
    model = network()
    with untouched(model), refused(TrainingError, f"fit: {name}: expected an int", f"Fix: {name}="):
        run(model, **{name: value})


@pytest.mark.parametrize("lr", [0, 0.0, -1e-3, float("nan"), float("inf"), True, np.True_, np.float32(0), "1e-3", None])
def test_a_learning_rate_is_a_number_above_zero(lr: Any) -> None:
    model = network()
    with untouched(model), refused(TrainingError, "fit: lr: expected a finite number above 0", "Fix: lr=0.001"):
        run(model, lr=lr)
    with refused(AdaptError, "parameter_groups: lr: expected a number above 0"):
        source().parameter_groups(lr)


@pytest.mark.parametrize("integer", [np.int64, np.uint8, torch.tensor])
def test_adapt_takes_numbers_of_numpy_and_torch(integer: Any) -> None:
    one, two = (adapt(nano(), PLAN, TensorTrain(2), check=False, seed=seed, scale=2.0) for seed in (3, integer(3)))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert two.state.description.seed == 3
    assert isinstance(two.state.description.seed, int)
    for format in (TensorTrain, Tucker, CP, MatrixBatch):
        assert format(integer(2)) == format(2)
    assert TensorTrain((integer(2), integer(3))) == TensorTrain((2, 3))
    assert one.round(budget=integer(250)).changes == two.round(budget=250).changes
    assert adapt(nano(), PLAN, MatrixBatch(integer(4)), check=False, scale=Alpha(integer(8))).scales == {"encoder": 2.0}


@pytest.mark.parametrize("real", [np.float32, np.float64, torch.tensor])
def test_a_tolerance_a_fraction_and_a_scale_may_be_of_numpy_or_torch(real: Any) -> None:
    adapter = adapt(nano(), PLAN, TensorTrain(4), check=False, seed=0, scale=real(0.5))
    assert adapter.scales == {"encoder": 0.5}
    for change in (tf.round_ranks, lambda adapter, tolerance: tf.convert(adapter, CP(4), tolerance=tolerance)):
        assert change(adapter, tolerance=real(0.25)).changes == change(adapter, tolerance=0.25).changes
    if real is not torch.tensor:
        assert TensorTrain(real(0.25)) == TensorTrain(0.25)


@pytest.mark.parametrize("value", [True, np.True_, torch.tensor(True), 1.5, "2"])
def test_a_seed_a_rank_and_a_budget_are_no_bools(value: Any) -> None:
    with untouched(MODEL), refused(AdaptError, "adapt: seed: expected an int", "Fix: seed=0"):
        adapted(seed=value)
    for format in (TensorTrain, Tucker, CP, MatrixBatch):
        with refused(RankError, f"{format.__name__}: rank", "an int of at least 1"):
            format(value)
    with refused(RankError, "round_ranks: rank"):
        tf.round_ranks(source(), rank=value)
    with refused(RankError, "round_ranks: budget"):
        tf.round_ranks(source(), budget=value)


@pytest.mark.parametrize("seed", [1 << 63, -1, -(1 << 63) - 1, 10**40])
def test_a_seed_is_not_negative_and_has_63_bits(seed: int) -> None:
    with untouched(MODEL), refused(AdaptError, "adapt: seed", "an int of at least 0", "Fix: seed=0"):
        adapted(seed=seed)


@pytest.mark.parametrize("value", [True, np.True_, 1.5, "2", 0, -1])
def test_a_size_of_a_split_is_an_int(value: Any) -> None:
    assert digits(MODEL, train=np.int64(8), val=torch.tensor(4)).sizes["train"] == 8  # type: ignore[arg-type]
    with refused(DataError, "digits: sizes of the splits", "ints of at least 1", fix=False):
        digits(MODEL, train=value)
    with refused(DataError, "few_shot: shots", "Fix: shots=1"):
        few_shot(FOLDER, MODEL, shots=value, seed=0)
