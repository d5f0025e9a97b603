"""A resumed run gives the result of an uninterrupted one; a checkpoint of another run raises."""

from __future__ import annotations

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

from tensorfact import Group, Rule, TensorizationPlan, TensorTrain, Tucker, adapt, fit, plan_for
from tensorfact.errors import CheckpointError, TrainingError
from tensorfact.lab import History, nano
from tensorfact.storage.files import read_header, read_tensors, write_tensors
from tests.helpers import difference, layers, randomise, refused, state_bits, untouched
from tests.lab.training.runs import EPOCHS, Parts, data, network, numbers, run, stopping_after


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
from tests.lab.training.runs import network, run
torch.set_num_threads(1)

def progress(task, done, total):
    if done == 3:
        os.kill(os.getpid(), signal.SIGKILL)

run(network(), checkpoint=sys.argv[1], progress=progress)
"""


def test_a_killed_process_resumes(tmp_path: Path) -> None:
    whole = network()
    expected = run(whole)
    root = Path(__file__).parents[3]
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


def test_the_message_names_what_differs_and_nothing_else(tmp_path: Path) -> None:
    run(network(), checkpoint=tmp_path / "run")
    words = "belongs to another run: expected epochs=6, lr=0.01, got epochs=5, lr=0.02. Fix: "
    with refused(CheckpointError, words):
        run(network(), checkpoint=tmp_path / "run", epochs=6, lr=0.01, warmup_epochs=0.5)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    run(network(), checkpoint=tmp_path / "run")
    other = nn.Linear(6, 3)
    with untouched(other), refused(CheckpointError, "another run", "2 trained tensors, bias of shape (3,) among them"):
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


def test_noise_of_the_last_bits_does_not_hide_in_the_comparison() -> None:
    """These tests compare bits: a difference of one unit in the last place is seen."""
    one, two = network(), network()
    with torch.no_grad():
        weight = cast("nn.Linear", two[0]).weight  # type: ignore[index]
        weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(9.0))
    assert state_bits(one) != state_bits(two)
    assert difference(cast("Tensor", one.state_dict()["0.weight"]), cast("Tensor", two.state_dict()["0.weight"])) < 1e-6


@pytest.mark.parametrize("stop", [1, 2, 4])
def test_without_a_validation_split_a_run_resumes(tmp_path: Any, stop: int) -> None:
    whole, model = network(), network()
    options: dict[str, Any] = {"epochs": 5, "batch_size": 16, "lr": 0.3}
    expected = fit(whole, data(), None, **options)
    with pytest.raises(KeyboardInterrupt):
        fit(network(), data(), None, checkpoint=tmp_path / "run", progress=stopping_after(stop), **options)
    assert numbers(fit(model, data(), None, checkpoint=tmp_path / "run", **options)) == numbers(expected)
    assert state_bits(model) == state_bits(whole)


def test_a_checkpoint_of_another_scale_or_other_samples_is_refused(tmp_path: Path) -> None:
    def model(scale: float) -> nn.Module:
        made = nano()
        adapt(made, plan_for(made), TensorTrain(1), scale=scale, seed=0)
        return made

    x, path = torch.randn(6, 1, 28, 28), tmp_path / "run"
    data, fewer = TensorDataset(x, torch.arange(6)), TensorDataset(x[:4], torch.arange(4))
    fit(model(1.0), data, fewer, epochs=1, checkpoint=path)
    for scale, train, val in ((2.0, data, fewer), (1.0, fewer, fewer), (1.0, data, None)):
        with refused(CheckpointError, "another run"):
            fit(model(scale), train, val, epochs=1, checkpoint=path)
    with refused(CheckpointError, "does not exist", "mkdir"):
        fit(model(1.0), data, None, epochs=1, checkpoint=tmp_path / "none" / "run")


@pytest.mark.parametrize("wrong", [5, b"run", "", "a\0b"])
def test_a_checkpoint_is_a_path(wrong: Any) -> None:
    model = network()
    with untouched(model), refused(TrainingError, "fit: checkpoint", "a str or an os.PathLike"):
        run(model, checkpoint=wrong)


class Masked(nn.Linear):
    """A model with a cache that follows the shape of its inputs, or that appears with the first of them."""

    def __init__(self, mask: Tensor | None) -> None:
        super().__init__(6, 3)
        self.mask: Tensor | None
        self.seen: Tensor
        self.register_buffer("mask", mask, persistent=False)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, input: Tensor) -> Tensor:
        if self.mask is None or self.mask.shape != input.shape[1:]:
            self.mask = torch.ones(input.shape[1:])
        if self.training:
            self.seen += len(input)
        logits = super().forward(input * self.mask)
        return logits.mean(1) if input.dim() == 3 else logits


def lengths(length: int) -> TensorDataset:
    x = torch.randn(6, length, 6, generator=torch.Generator().manual_seed(0))
    return TensorDataset(x, torch.arange(6) % 3)


@pytest.mark.parametrize("mask", [None, torch.ones(1), torch.eye(6).to_sparse()])
@pytest.mark.parametrize("part", [False, True])
def test_a_run_resumes_beside_a_cache_that_is_not_persistent(tmp_path: Path, mask: Tensor | None, part: bool) -> None:
    def trained(epochs: int, **options: Any) -> tuple[nn.Module, History]:
        torch.manual_seed(0)
        model = nn.Sequential(Masked(mask)) if part else Masked(mask)
        stop = stopping_after(epochs)
        return model, fit(model, lengths(5), lengths(7), epochs=3, lr=0.1, progress=stop, **options)

    expected, history = trained(9)
    with pytest.raises(KeyboardInterrupt):
        trained(2, checkpoint=tmp_path / "run")
    model, resumed = trained(9, checkpoint=tmp_path / "run")
    assert numbers(resumed) == numbers(history)
    assert state_bits(model) == state_bits(expected)
    prefix = "0." if part else ""
    assert {f"now.{prefix}{name}" for name in ("weight", "bias", "seen")} == {
        name for name in read_header(tmp_path / "run").shapes if name.startswith("now.")
    }


@pytest.mark.parametrize(("scales", "others"), [((2.0,), (3.0,)), ((1.0, 2.0), (1.0, 3.0)), ((1.0, 2.0), (2.0, 1.0))])
def test_the_scales_of_adapters_of_parts_are_compared(
    tmp_path: Path, scales: tuple[float, ...], others: tuple[float, ...]
) -> None:
    expected = run(Parts(*scales), checkpoint=tmp_path / "run")
    assert run(Parts(*scales), checkpoint=tmp_path / "run") == expected
    with refused(CheckpointError, "another run"):
        run(Parts(*others), checkpoint=tmp_path / "run")
