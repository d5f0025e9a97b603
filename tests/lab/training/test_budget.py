"""Runs within a parameter budget: ranks move and end within it, and runs resume between the changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import TensorDataset

from tensorfact import (
    Adapter,
    Format,
    Group,
    MatrixBatch,
    Rule,
    TensorizationPlan,
    TensorTrain,
    adapt,
    fit,
    load_adapter,
)
from tensorfact.errors import CheckpointError, TensorfactError, TrainingError
from tensorfact.formats import BlockTerm, KhatriRao
from tensorfact.lab import History
from tensorfact.lab.training.budget import changes_before, rank_budget
from tensorfact.lab.training.engine import TrainingEngine
from tensorfact.lab.training.schedule import Schedule
from tensorfact.storage.files import read_header, read_tensors, write_tensors
from tests.helpers import refused, state_bits, untouched
from tests.lab.training.runs import numbers, stopping_after

WIDTH, LAYERS = 12, 3


class Deep(nn.Module):
    """A classifier of alike layers with a head that is not adapted."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS))
        self.head, self.gains = nn.Linear(WIDTH, 3), (1.0, 1.0, 1.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer, gain in zip(self.layers, self.gains, strict=True):
            x = x + gain * layer(x).tanh()
        logits: torch.Tensor = self.head(x)
        return logits


def adapted(format: Format | None = None, *, apart: bool = False) -> tuple[nn.Module, Adapter]:
    """Return an adapted model: all layers in one tensor, or a tensor for each."""
    model, rules = Deep(), (Rule("layers.{layer}.weight", "out in"),)
    group = Group("g", "in out", rules, partition="layer") if apart else Group("g", "layer in out", rules)
    return model, adapt(model, TensorizationPlan((group,)), format or TensorTrain(2), train_head="head", seed=0)


def data(count: int = 48, seed: int = 0) -> TensorDataset:
    x = torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x, x[:, :3].argmax(1))


def run(model: nn.Module, budget: int | None, **options: Any) -> History:
    settings = {"epochs": 8, "batch_size": 16, "lr": 0.01, **options}
    return fit(model, data(32), data(24, seed=1), budget=budget, **settings)


def test_the_learning_rate_rises_again_after_each_change() -> None:
    model, _ = adapted()
    schedule = Schedule(20, 16, 0.01, 0.0, 0, 0, budget=400)
    ranks = rank_budget(TrainingEngine(model), schedule)
    assert ranks is not None
    assert ranks.changes == (2, 4)
    assert [ranks.lr_factor(done) for done in (0.5, 2.0, 2.5, 3.0, 4.0, 4.5, 6.0, 20.0)] == [
        *(1.0, 1.0, 0.25, 0.5),
        *(1.0, 0.25, 1.0, 1.0),
    ]


@given(epochs=st.integers(1, 1000))
def test_ranks_change_twice_in_the_first_half(epochs: int) -> None:
    found = changes_before(epochs)
    assert len(found) == (2 if epochs >= 4 else 0)
    assert list(found) == sorted(set(found))
    assert all(1 <= index <= (epochs + 1) // 2 for index in found)


@pytest.mark.parametrize("optimizer", ["adamw", "preconditioned"])
@pytest.mark.parametrize("apart", [False, True], ids=["one tensor", "a tensor for each layer"])
def test_the_ranks_move_and_end_within_the_budget(apart: bool, optimizer: str, tmp_path: Path) -> None:
    model, adapter = adapted(apart=apart)
    budget, sizes, formats = 270 if apart else 130, [], []

    def watch(index: int, _: object) -> None:
        sizes.append(adapter.num_parameters)
        formats.append(tuple(adapter.formats.values()))

    history = run(model, budget, on_epoch=watch, optimizer=optimizer)
    assert changes_before(8) == (1, 2)
    assert len(set(formats[2:])) == 1
    assert sizes[1] > budget
    assert max(sizes[:1] + sizes[2:]) <= budget
    assert budget - sizes[-1] < WIDTH + LAYERS * 5
    assert history.best_epoch >= 2
    assert adapter.num_parameters == sum(core.numel() for core in adapter.factors.parameters())
    expected = model.eval()(data()[:4][0])
    adapter.save(tmp_path / "adapter.safetensors")
    other = Deep()
    load_adapter(other, tmp_path / "adapter.safetensors")
    assert torch.equal(other.eval()(data()[:4][0]), expected)


def test_the_start_is_the_even_split_whatever_the_ranks_were() -> None:
    states = []
    for rank in (1, 3, 6):
        model, adapter = adapted(TensorTrain(rank), apart=True)
        run(model, 270, epochs=1, lr=1e-9)
        assert {str(format) for format in adapter.formats.values()} <= {"TensorTrain(rank=3)", "TensorTrain(rank=(3,))"}
        assert adapter.num_parameters == 3 * 3 * 2 * WIDTH
        states.append(adapter.scales)
    model, adapter = adapted(TensorTrain(1), apart=True)
    run(model, 10**6, epochs=1, lr=1e-9)
    assert {str(format) for format in adapter.formats.values()} == {f"TensorTrain(rank={WIDTH})"}


def test_ranks_go_to_the_layer_that_trains() -> None:
    model, adapter = adapted(TensorTrain(4), apart=True)
    model.gains = (0.0, 0.0, 1.0)  # type: ignore[assignment]
    run(model, 6 * 2 * WIDTH)
    sizes = [
        format.num_parameters(tensor.modes)
        for format, tensor in zip(adapter.formats.values(), adapter.resolved.tensors, strict=True)
    ]
    assert sizes[2] > max(sizes[:2])


@pytest.mark.parametrize(("stop", "apart"), [(1, True), (1, False), (2, True), (3, False)])
def test_a_run_resumes_bit_for_bit_between_the_changes(tmp_path: Path, stop: int, apart: bool) -> None:
    (whole, _), (stopped, _), (resumed, adapter) = (adapted(apart=apart) for _ in range(3))
    expected = run(whole, 200)
    with pytest.raises(KeyboardInterrupt):
        run(stopped, 200, checkpoint=tmp_path / "run", progress=stopping_after(stop))
    history = run(resumed, 200, checkpoint=tmp_path / "run")
    assert numbers(history) == numbers(expected)
    assert history.best_epoch == expected.best_epoch
    assert state_bits(resumed) == state_bits(whole)
    assert adapter.num_parameters <= 200


def test_the_model_that_was_interrupted_can_resume_itself(tmp_path: Path) -> None:
    (whole, _), (stopped, _) = adapted(), adapted()
    expected = run(whole, 200)
    with pytest.raises(KeyboardInterrupt):
        run(stopped, 200, checkpoint=tmp_path / "run", progress=stopping_after(2))
    assert numbers(run(stopped, 200, checkpoint=tmp_path / "run")) == numbers(expected)
    assert state_bits(stopped) == state_bits(whole)


def test_a_checkpoint_of_another_budget_format_or_plan_is_refused(tmp_path: Path) -> None:
    run(adapted()[0], 200, epochs=2, checkpoint=tmp_path / "run")
    for budget in (201, None):
        with refused(CheckpointError, "budget=200", f"budget={budget}"):
            run(adapted()[0], budget, epochs=2, checkpoint=tmp_path / "run")
    with refused(CheckpointError, "belongs to another run", "TensorTrain", "MatrixBatch"):
        run(adapted(MatrixBatch(1))[0], 200, epochs=2, checkpoint=tmp_path / "run")
    with refused(CheckpointError, "belongs to another run", "g[0]"):
        run(adapted(apart=True)[0], 200, epochs=2, checkpoint=tmp_path / "run")


@pytest.mark.parametrize(
    ("ranks", "words"),
    [
        (1, "is not a training checkpoint"),
        ({"formats": {"g": {"name": "none"}}, "scales": {"g": 1.0}}, "is not a training checkpoint"),
        ({"formats": {}, "scales": {}}, "belongs to another run"),
        ({"formats": {"g": {"name": "tt", "rank": 10**9}}, "scales": {"g": 1.0}}, "belongs to another run"),
        ({"formats": {"g": {"name": "cp", "rank": 36}}, "scales": {"g": 1.0}}, "belongs to another run"),
    ],
    ids=str,
)
def test_a_checkpoint_with_damaged_ranks_is_refused(tmp_path: Path, ranks: object, words: str) -> None:
    path = tmp_path / "run"
    run(adapted()[0], 200, epochs=1, checkpoint=path)
    header = read_header(path)
    write_tensors(path, read_tensors(path), {**header.metadata, "ranks": ranks})
    with refused(CheckpointError, words):
        run(adapted()[0], 200, epochs=1, checkpoint=path)


@pytest.mark.parametrize("why", ["damaged", "no folder", "optimizer"])
def test_a_run_that_does_not_begin_leaves_the_adapter_as_it_was(why: str, tmp_path: Path) -> None:
    model, adapter = adapted(TensorTrain(6), apart=True)
    with torch.no_grad():
        for core in adapter.factors.parameters():
            core.normal_(generator=torch.Generator().manual_seed(0))
    x = data()[:4][0]
    cores, expected = adapter.named_cores(), model(x)
    path = tmp_path / "run"
    path.write_bytes(b"garbage")
    path = tmp_path / "none" / "run" if why == "no folder" else path
    options: dict[str, Any] = {"lr_factors": {"W": 2.0}} if why == "optimizer" else {"checkpoint": path}
    with untouched(model), pytest.raises(TensorfactError):
        run(model, 200, **options)
    assert all(adapter.named_cores()[name] is core for name, core in cores.items())
    assert torch.equal(model(x), expected)


def test_formats_of_least_squares_keep_the_even_split() -> None:
    model, adapter = adapted(BlockTerm(2, blocks=2), apart=True)
    sizes: list[int] = []
    run(model, 500, on_epoch=lambda *_: sizes.append(adapter.num_parameters))
    assert len(set(sizes)) == 1
    assert sizes[0] <= 500


def test_the_head_keeps_its_moments_and_the_factors_start_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    real = torch.optim.AdamW.step

    def step(self: torch.optim.AdamW, *arguments: Any) -> Any:
        found = real(self, *arguments)
        counts = [int(state["step"]) for state in self.state.values()]
        seen.append((min(counts), max(counts)))
        return found

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    run(adapted()[0], 200)
    assert [most for _, most in seen] == list(range(1, 8 * 2 + 1))
    assert [least for least, _ in seen].count(1) == 3


@pytest.mark.parametrize("kind", ["processes", "shards"])
def test_several_processes_are_refused(kind: str) -> None:
    model, _ = adapted()
    engine = TrainingEngine(model)
    if kind == "processes":
        engine.processes = 2
    else:
        engine.module = adapted()[0]
    with untouched(model), refused(TrainingError, "fit: budget needs a single process", "budget=None"):
        rank_budget(engine, Schedule(8, 16, 0.01, 0.0, 1, 0, budget=200))


def test_multiples_of_the_learning_rate_hold_after_a_change() -> None:
    model, adapter = adapted()
    run(model, 200, lr_factors={"U": 1e-9}, weight_decay=0.0)
    assert adapter.num_parameters <= 200


def test_an_accelerator_of_one_process_works_alike() -> None:
    (first, _), (second, adapter) = adapted(), adapted()
    expected = run(first, 200)
    accelerator = Accelerator(cpu=True)
    assert numbers(run(second, 200, accelerator=accelerator)) == numbers(expected)
    assert not accelerator._optimizers
    assert adapter.num_parameters <= 200


@pytest.mark.parametrize("epochs", [1, 3])
def test_short_runs_keep_the_even_split(epochs: int) -> None:
    model, adapter = adapted()
    run(model, 200, epochs=epochs)
    network = adapter.formats["g"].network(adapter.resolved.tensors[0].modes)
    assert {size for leg, size in network.sizes.items() if leg not in network.output} == {5}


def test_what_has_no_ranks_to_move_is_refused_and_stays_as_it_is() -> None:
    with refused(TrainingError, "fit: budget needs a model with an adapter", "adapt("):
        run(Deep(), 200)
    model, _ = adapted(KhatriRao())
    with untouched(model), refused(TrainingError, "fit: budget needs formats with ranks", "TensorTrain(rank=4)"):
        run(model, 200)
    model, adapter = adapted()
    with untouched(model):
        least = TensorTrain(1).num_parameters(adapter.resolved.tensors[0].modes)
        with refused(TrainingError, "fit: budget of 10 parameters", f"budget={least}"):
            run(model, 10)
        with refused(TrainingError, "fit: budget"):
            run(model, 0)
        with refused(TrainingError, "fit: budget"):
            run(model, 1.5)  # type: ignore[arg-type]
    pair = cast("nn.Module", nn.Sequential(adapted()[0], nn.Linear(3, WIDTH), adapted()[0]))
    with untouched(pair), refused(TrainingError, "fit: budget needs a model with one adapter", "budget=None"):
        run(pair, 200)
