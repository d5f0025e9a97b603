"""Training: what trains, what stands still, and that a stopped run ends as if it had never stopped."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from tensorfact import Group, Rule, TensorizationPlan, TensorTrain, Tucker, adapt, fit
from tensorfact.common.progress import Progress
from tensorfact.errors import CheckpointError, DivergedError, TrainingError
from tensorfact.lab import History, evaluate
from tensorfact.lab.training import Schedule
from tensorfact.storage.files import read_header, read_tensors, write_tensors

from .helpers import bits, difference, layers, randomise, refused, snapshot, state_bits, untouched

EPOCHS = 5


def data(count: int = 48, seed: int = 0) -> TensorDataset:
    x = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x, x[:, :3].argmax(1))


def network(seed: int = 0) -> nn.Module:
    """Return a classifier with dropout and normalisation, so that random state and buffers matter."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3)
    )  # fmt: skip


def run(model: nn.Module, **options: Any) -> History:
    return fit(model, data(), data(24, seed=1), **{"epochs": EPOCHS, "batch_size": 16, "lr": 0.02, **options})


def numbers(history: History) -> list[tuple[float | None, ...]]:
    """Return everything of a history but its wall times."""
    return [(e.train_loss, e.val_loss, e.val_accuracy) for e in history.epochs]


def stopping_after(epochs: int) -> Progress:
    def progress(task: str, done: int, total: int) -> None:
        if done == epochs:
            raise KeyboardInterrupt

    return progress


# ---------------------------------------------------------------------------------------------------------- learning


def test_an_adapted_model_learns_and_its_base_stands_still() -> None:
    model = randomise(nn.Sequential(layers(2), nn.Linear(6, 3)))
    base = state_bits(model)
    plan = TensorizationPlan((Group("g", "layer in out", (Rule("0.{layer}.weight", "out in"),)),))
    adapter = adapt(model, plan, TensorTrain(2), train_head="1", seed=0)
    start = {name: bits(core) for name, core in adapter.named_cores().items()}
    _, before = evaluate(model, data(24, seed=1))
    history = run(model, epochs=15)
    accuracy, after = evaluate(model, data(24, seed=1))
    assert after < before
    assert accuracy == history.val_accuracy
    assert accuracy > 0.5
    now = state_bits(model)
    changed = {name for name in base if now[name] != base[name]}
    assert changed == {"1.weight", "1.bias"}
    assert all(bits(core) != start[name] for name, core in adapter.named_cores().items())


def test_the_model_holds_the_best_epoch_s_parameters() -> None:
    model = network()
    history = run(model, epochs=8, lr=0.3)
    accuracy, loss = evaluate(model, data(24, seed=1))
    best = max(range(8), key=lambda index: history.epochs[index].val_accuracy or 0.0)
    assert history.best_epoch == best, "the first of the best"
    assert accuracy == history.val_accuracy == history.epochs[best].val_accuracy
    assert loss == pytest.approx(history.epochs[best].val_loss, rel=1e-5)


def test_the_same_seed_gives_the_same_run_and_another_does_not() -> None:
    runs = []
    for seed, noise in ((3, 0), (3, 1), (4, 0)):
        model = network()
        torch.manual_seed(noise)
        runs.append((numbers(run(model, seed=seed)), state_bits(model)))
    assert runs[0] == runs[1] != runs[2]


def test_the_caller_s_random_state_is_left_alone() -> None:
    model = network()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    run(model, epochs=2)
    assert torch.equal(torch.get_rng_state(), state)


def test_evaluating_leaves_model_and_random_state_alone() -> None:
    model = network().train()
    cast("nn.BatchNorm1d", model[1]).eval()  # type: ignore[index]
    torch.manual_seed(5)
    state = torch.get_rng_state()
    with untouched(model):
        evaluate(model, data())
    assert torch.equal(torch.get_rng_state(), state)


def test_evaluation_does_not_depend_on_the_batch_size() -> None:
    model = network()
    results = [evaluate(model, data(50), batch_size=size) for size in (1, 7, 50, 256)]
    assert all(result == pytest.approx(results[0], rel=1e-5) for result in results)


def test_modes_are_given_back_as_they_were() -> None:
    model = network().train()
    model[3].eval()  # type: ignore[index]
    modes = snapshot(model)["modes"]
    run(model, epochs=1)
    assert snapshot(model)["modes"] == modes
    with pytest.raises(KeyboardInterrupt):
        run(model, progress=stopping_after(1))
    assert snapshot(model)["modes"] == modes


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.SyncBatchNorm])
def test_a_frozen_batch_norm_does_not_drift(norm: Any) -> None:
    model = nn.Sequential(nn.Linear(6, 6), norm(6), nn.Linear(6, 3))
    for parameter in list(model.parameters())[:4]:
        parameter.requires_grad_(False)
    before = {name: bits(buffer) for name, buffer in model.named_buffers()}
    run(model, epochs=2)
    assert {name: bits(buffer) for name, buffer in model.named_buffers()} == before


def test_a_batch_norm_that_trains_goes_on_counting() -> None:
    model = network()
    run(model, epochs=2)
    assert int(cast("Tensor", model.state_dict()["1.num_batches_tracked"])) > 0


def test_a_batch_norm_of_an_adapted_model_stands_still_too() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    plan = TensorizationPlan((Group("g", "in out", (Rule("0.weight", "out in"),)),))
    adapt(model, plan, TensorTrain(1))
    before = {name: bits(buffer) for name, buffer in model.named_buffers()}
    run(model, epochs=1)
    assert {name: bits(buffer) for name, buffer in model.named_buffers()} == before


def test_progress_is_reported_after_each_epoch() -> None:
    calls: list[tuple[str, int, int]] = []
    run(network(), epochs=3, progress=lambda *call: calls.append(call))
    assert calls == [("training", 1, 3), ("training", 2, 3), ("training", 3, 3)]


def test_any_loss_of_logits_and_labels_may_be_passed() -> None:
    seen: list[int] = []

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        seen.append(len(labels))
        return nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)

    run(network(), epochs=1, loss=loss)
    assert sum(seen) == 48 + 24


@pytest.mark.parametrize(
    ("warmup", "progress", "factor"),
    [
        (0, 0.0, 1.0),
        (0, 0.5, 0.5),
        (0, 1.0, 0.0),
        (2, 0.1, 0.5),
        (2, 0.2, 1.0),
        (2, 1.0, 0.0),
        (10, 0.5, 0.5),
        (99, 0.5, 0.5),
    ],
)
def test_the_learning_rate_warms_up_and_falls_to_zero(warmup: float, progress: float, factor: float) -> None:
    assert Schedule(10, 1, 1.0, 0.0, warmup, 0).lr_factor(progress) == pytest.approx(factor)


# ------------------------------------------------------------------------------------------------------------ resuming


@pytest.mark.parametrize("stop", [1, 3, EPOCHS])
def test_a_run_that_was_stopped_ends_with_the_same_numbers(tmp_path: Path, stop: int) -> None:
    whole = network()
    expected = run(whole)
    with pytest.raises(KeyboardInterrupt):
        run(network(), checkpoint=tmp_path / "run", progress=stopping_after(stop))
    model = network(seed=9)  # whatever it holds, the checkpoint decides
    history = run(model, checkpoint=tmp_path / "run")
    assert numbers(history) == numbers(expected)
    assert history.best_epoch == expected.best_epoch
    assert state_bits(model) == state_bits(whole)


def test_an_error_in_the_middle_of_an_epoch_costs_only_that_epoch(tmp_path: Path) -> None:
    whole = network()
    expected = run(whole)
    seen: list[int] = []

    def failing(logits: Tensor, labels: Tensor) -> Tensor:
        seen.append(1)
        if len(seen) == 10:
            raise MemoryError
        return nn.functional.cross_entropy(logits, labels)

    with pytest.raises(MemoryError):
        run(network(), checkpoint=tmp_path / "run", loss=failing)
    model = network(seed=9)
    assert numbers(run(model, checkpoint=tmp_path / "run")) == numbers(expected)
    assert state_bits(model) == state_bits(whole)


def test_an_adapted_model_with_dropout_resumes(tmp_path: Path) -> None:
    def adapted() -> nn.Module:
        model = randomise(nn.Sequential(layers(2), nn.Linear(6, 3)))
        plan = TensorizationPlan((Group("g", "layer in out", (Rule("0.{layer}.weight", "out in"),)),))
        adapt(model, plan, Tucker(2), dropout=0.3, train_head="1", seed=0)
        return model

    whole = adapted()
    expected = run(whole)
    with pytest.raises(KeyboardInterrupt):
        run(adapted(), checkpoint=tmp_path / "run", progress=stopping_after(2))
    model = adapted()
    assert numbers(run(model, checkpoint=tmp_path / "run")) == numbers(expected)
    assert state_bits(model) == state_bits(whole)


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    model = network()
    expected = run(model, checkpoint=tmp_path / "run")
    before, again = (tmp_path / "run").read_bytes(), network(seed=9)
    assert run(again, checkpoint=tmp_path / "run") == expected
    assert state_bits(again) == state_bits(model)
    assert (tmp_path / "run").read_bytes() == before


KILLED = """
import os, signal, sys
import torch
from tests.test_training import network, run
torch.set_num_threads(1)

def progress(task, done, total):
    if done == 3:
        os.kill(os.getpid(), signal.SIGKILL)

run(network(), checkpoint=sys.argv[1], progress=progress)
"""


def test_a_killed_process_resumes(tmp_path: Path) -> None:
    whole = network()
    expected = run(whole)
    root = Path(__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "run"], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    model = network(seed=9)
    assert numbers(run(model, checkpoint=tmp_path / "run")) == numbers(expected)
    assert state_bits(model) == state_bits(whole)


@pytest.mark.parametrize(
    "change", [{"epochs": 6}, {"lr": 0.01}, {"batch_size": 8}, {"seed": 1}, {"weight_decay": 0.1}, {"warmup_epochs": 2}]
)
def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    run(network(), checkpoint=tmp_path / "run")
    model = network(seed=9)
    (name,) = change
    with untouched(model), refused(CheckpointError, str(tmp_path / "run"), "another run", name):
        run(model, checkpoint=tmp_path / "run", **change)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    run(network(), checkpoint=tmp_path / "run")
    other = nn.Linear(6, 3)
    with untouched(other), refused(CheckpointError, "another run"):
        run(other, checkpoint=tmp_path / "run")
    frozen = network(seed=9)
    cast("nn.Linear", frozen[0]).weight.requires_grad_(False)  # type: ignore[index]
    with untouched(frozen), refused(CheckpointError, "another run"):
        run(frozen, checkpoint=tmp_path / "run")


def test_a_checkpoint_of_another_frozen_base_is_refused(tmp_path: Path) -> None:
    """Factors trained on one base mean nothing on another, whose weights are not in the checkpoint."""

    def adapted(seed: int) -> nn.Module:
        model = randomise(nn.Sequential(layers(2), nn.Linear(6, 3)), seed)
        plan = TensorizationPlan((Group("g", "layer in out", (Rule("0.{layer}.weight", "out in"),)),))
        adapt(model, plan, TensorTrain(2), seed=0)
        return model

    with pytest.raises(KeyboardInterrupt):
        run(adapted(0), checkpoint=tmp_path / "run", progress=stopping_after(2))
    other = adapted(1)
    with untouched(other), refused(CheckpointError, "another run"):
        run(other, checkpoint=tmp_path / "run")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the checkpoint of a finished run, and room for copies of it."""
    path = tmp_path_factory.mktemp("runs") / "run"
    run(network(), checkpoint=path)
    return path


@settings(max_examples=100)
@given(data=st.data())
def test_a_damaged_checkpoint_is_refused(finished: Path, data: st.DataObject) -> None:
    whole = bytearray(finished.read_bytes())
    # most of the file is numbers, which one digest covers; the description before them is what needs trying
    numbers_from = 8 + int.from_bytes(whole[:8], "little")
    whole[data.draw(st.integers(0, numbers_from + 64))] ^= 1 << data.draw(st.integers(0, 7))
    length = data.draw(st.just(len(whole)) | st.integers(0, len(whole) - 1))
    damaged, model = finished.with_name("damaged"), network(seed=9)
    damaged.write_bytes(whole[:length])
    with untouched(model), pytest.raises(CheckpointError):
        run(model, checkpoint=damaged)


@pytest.mark.parametrize(
    "words",
    [
        {},
        {"kind": "adapter"},
        {"recipe": 3},
        {"recipe": []},
        {"history": "{"},
        {"history": []},
        {"history": {"epochs": [], "best_epoch": 0}},
        {"history": None},
    ],
)
def test_a_well_formed_checkpoint_of_nonsense_is_refused(finished: Path, words: dict[str, Any]) -> None:
    kept = dict(read_header(finished).metadata) if "history" in words else {}
    metadata = {key: value for key, value in {**kept, **words}.items() if value is not None}
    foreign, model = finished.with_name("foreign"), network(seed=9)
    write_tensors(foreign, read_tensors(finished), metadata)
    with untouched(model), pytest.raises(CheckpointError):
        run(model, checkpoint=foreign)


def test_a_checkpoint_in_a_missing_folder_fails_as_a_checkpoint(tmp_path: Path) -> None:
    with refused(CheckpointError, str(tmp_path / "no" / "run")):
        run(network(), checkpoint=tmp_path / "no" / "run")


# ----------------------------------------------------------------------------------------------------------- bad input


def test_nothing_to_train_is_refused() -> None:
    model = network().requires_grad_(False)
    with untouched(model), refused(TrainingError, "no parameter", "adapt("):
        run(model)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0), ("epochs", -1), ("batch_size", 0), ("lr", -1.0), ("lr", float("nan")), ("lr", float("inf")),
        ("weight_decay", -0.1), ("weight_decay", float("nan")), ("warmup_epochs", -1), ("warmup_epochs", float("inf")),
    ],
)  # fmt: skip
def test_a_number_out_of_range_is_refused(name: str, value: Any) -> None:
    model = network()
    with untouched(model), refused(TrainingError, name, repr(value), fix=False):
        run(model, **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", "5"), ("epochs", 1.5), ("batch_size", 2.5), ("lr", None)],
)
def test_a_number_of_another_type_is_refused(name: str, value: Any) -> None:
    model = network()
    with untouched(model), refused(TrainingError, name, repr(value), fix=False):
        run(model, **{name: value})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_is_refused(value: float) -> None:
    model = network()
    bad = data()
    bad.tensors[0][40] = value
    with refused(DivergedError, "epoch 0", "lower lr or scale"):
        fit(model, bad, data(24), epochs=2, batch_size=8)
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_run_that_explodes_says_so() -> None:
    with pytest.raises(TrainingError):
        run(nn.Linear(6, 3), lr=1e38, epochs=40)


@pytest.mark.parametrize("empty", ["train", "val"])
def test_an_empty_split_is_refused(empty: str) -> None:
    none = TensorDataset(torch.zeros(0, 6), torch.zeros(0, dtype=torch.int64))
    splits = {"train": data(), "val": data(), empty: none}
    with refused(TrainingError, "empty"):
        fit(network(), splits["train"], splits["val"], epochs=1)


def test_evaluating_nothing_is_refused() -> None:
    with refused(TrainingError, "empty"):
        evaluate(network(), TensorDataset(torch.zeros(0, 6), torch.zeros(0, dtype=torch.int64)))


def test_a_history_is_a_value() -> None:
    history = run(network(), epochs=2)
    assert dataclasses.replace(history) == history
    assert history.val_accuracy == max(epoch.val_accuracy or 0.0 for epoch in history.epochs)
    assert all(epoch.seconds > 0 for epoch in history.epochs)


def test_noise_of_the_last_bits_does_not_hide_in_the_comparison() -> None:
    """The helpers of this file compare bits: a difference of one unit in the last place is seen."""
    one, two = network(), network()
    with torch.no_grad():
        weight = cast("nn.Linear", two[0]).weight  # type: ignore[index]
        weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(9.0))
    assert state_bits(one) != state_bits(two)
    assert difference(cast("Tensor", one.state_dict()["0.weight"]), cast("Tensor", two.state_dict()["0.weight"])) < 1e-6
