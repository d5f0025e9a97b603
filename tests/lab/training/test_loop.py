"""Training: which parameters train, which stay frozen, which epoch is kept, and what raises."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tensorfact import Group, MatrixBatch, Rule, TensorizationPlan, TensorTrain, adapt, fit
from tensorfact.errors import AdaptError, TrainingError
from tensorfact.lab import Splits, evaluate
from tensorfact.lab.training import Epoch
from tests.bundled import nano, plan, samples
from tests.helpers import bits, layers, randomise, refused, snapshot, state_bits, untouched
from tests.lab.training.runs import Parts, data, network, numbers, run, stopping_after


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
    epochs = history.epochs
    best = max(range(8), key=lambda at: (epochs[at].val_accuracy or 0.0, -(epochs[at].val_loss or 0.0)))
    assert history.best_epoch == best, "of the most accurate ones, that of the lowest loss"
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


def test_modes_are_given_back_as_they_were() -> None:
    model = network().train()
    model[3].eval()  # type: ignore[index]
    modes = snapshot(model)["modes"]
    run(model, epochs=1)
    assert snapshot(model)["modes"] == modes
    with pytest.raises(KeyboardInterrupt):
        run(model, progress=stopping_after(1))
    assert snapshot(model)["modes"] == modes


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


@pytest.mark.parametrize("name", ["loss", "progress", "on_epoch"])
@pytest.mark.parametrize("wrong", ["nonsense", 3, dict, nn.CrossEntropyLoss, lambda one: None, nn.Linear(6, 3)])
def test_a_function_takes_the_arguments_of_a_call(name: str, wrong: Any) -> None:
    model = network()
    with untouched(model), refused(TrainingError, f"fit: {name}", "a function of ("):
        run(model, **{name: wrong})


@pytest.mark.parametrize("wrong", [None, "model", 3, nn.Linear, {}])
def test_the_model_is_a_module(wrong: Any) -> None:
    with refused(TrainingError, "fit: model", "torch.nn.Module"):
        run(wrong)
    with refused(TrainingError, "evaluate: model", "torch.nn.Module"):
        evaluate(wrong, data())


@pytest.mark.parametrize("wrong", [3, "cpu", torch.device("cpu"), nn.Linear(1, 1)])
def test_the_accelerator_is_accelerate_s(wrong: Any) -> None:
    model = network()
    with untouched(model), refused(TrainingError, "fit: accelerator", "accelerate.Accelerator"):
        run(model, accelerator=wrong)


def infinite(value: float, shape: tuple[int, ...] = (6,)) -> TensorDataset:
    x = torch.randn(48, *shape, generator=torch.Generator().manual_seed(0))
    x[7].view(-1)[2] = value
    return TensorDataset(x, torch.arange(48) % 3)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_data_that_is_not_finite_is_named(value: float) -> None:
    bad, words = infinite(value), ("holds NaN or infinity", "1 of 6 values")
    with refused(TrainingError, "fit: train, sample 7", *words):
        fit(network(), bad, data(), epochs=1, batch_size=16, accumulation=2)
    with refused(TrainingError, "fit: train, sample 7 of a batch", *words):
        fit(network(), DataLoader(bad, batch_size=16), data(), epochs=1)
    with refused(TrainingError, "fit: val, sample 7", *words):
        fit(network(), data(), bad, epochs=1)
    with refused(TrainingError, "evaluate: data, sample 7", *words):
        evaluate(network(), bad)


def test_data_that_the_model_does_not_read_may_be_infinite() -> None:
    class Masked(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input.nan_to_num(0.0, 0.0, 0.0))

    bad = infinite(float("nan"))
    assert fit(Masked(6, 3), bad, bad, epochs=1).val_accuracy is not None


def test_nothing_to_train_is_refused() -> None:
    model = network().requires_grad_(False)
    with untouched(model), refused(TrainingError, "no parameter", "adapt("):
        run(model)


@pytest.mark.parametrize("empty", ["train", "val"])
def test_an_empty_split_is_refused(empty: str) -> None:
    none = TensorDataset(torch.zeros(0, 6), torch.zeros(0, dtype=torch.int64))
    splits = {"train": data(), "val": data(), empty: none}
    with refused(TrainingError, "empty"):
        fit(network(), splits["train"], splits["val"], epochs=1)


def test_without_a_validation_split_the_last_epoch_stays() -> None:
    model, reference = network(), network()
    history = fit(model, data(), None, epochs=4, batch_size=16, lr=0.3)
    assert (history.best_epoch, history.val_accuracy) == (3, None)
    assert all(epoch.val_loss is None and epoch.val_accuracy is None for epoch in history.epochs)
    seen = run(reference, epochs=4, lr=0.3)
    assert [e.train_loss for e in seen.epochs] == [e.train_loss for e in history.epochs]


@pytest.mark.parametrize("stop", [None, 1, 2, 3])
def test_some_epochs_are_validated_and_the_best_of_them_stays(tmp_path: Any, stop: int | None) -> None:
    model = network()
    if stop is not None:
        with pytest.raises(KeyboardInterrupt):
            run(network(), lr=0.3, validate_every=2, checkpoint=tmp_path / "run", progress=stopping_after(stop))
    history = run(model, lr=0.3, validate_every=2, checkpoint=tmp_path / "run")
    assert [epoch.val_accuracy is not None for epoch in history.epochs] == [False, True, False, True, True]
    every = run(network(), lr=0.3)
    expected = [epoch.val_accuracy if index in (1, 3, 4) else None for index, epoch in enumerate(every.epochs)]
    assert [epoch.val_accuracy for epoch in history.epochs] == expected
    assert history.val_accuracy == max(accuracy for accuracy in expected if accuracy is not None)
    assert evaluate(model, data(24, seed=1)).accuracy == history.val_accuracy


def test_every_epoch_is_told_and_may_end_the_run() -> None:
    seen: list[tuple[int, Epoch]] = []

    def on_epoch(index: int, epoch: Epoch) -> None:
        seen.append((index, epoch))
        if len(seen) == 5:
            raise KeyError("enough")

    model = network().train()
    model[1].eval()  # type: ignore[index]
    modes = snapshot(model)["modes"]
    history = run(model, epochs=3, on_epoch=on_epoch)
    assert seen == list(enumerate(history.epochs))
    with pytest.raises(KeyError, match="enough"):
        run(model, epochs=3, on_epoch=on_epoch)
    assert snapshot(model)["modes"] == modes


def test_fit_takes_learning_rates_and_resumes_under_the_same(tmp_path: Path) -> None:
    def run(epochs: int, checkpoint: Path | None, factors: dict[str, float] | None) -> dict[str, bytes]:
        model = nano()
        adapter = adapt(model, plan(), MatrixBatch(4), seed=0)
        fit(model, samples(), samples(), epochs=epochs, warmup_epochs=0, checkpoint=checkpoint, lr_factors=factors)
        return state_bits(adapter)

    plain, faster = run(2, None, None), run(2, None, {"B": 16.0})
    assert plain != faster
    assert run(2, None, {"B": 1.0}) == plain
    assert run(2, tmp_path / "c.safetensors", {"B": 16.0}) == faster
    assert run(2, tmp_path / "c.safetensors", {"B": 16.0}) == faster


@pytest.mark.parametrize("factors", [{"B": 16.0}, {"A": 2.0}, {"g.B": 3.0, "A": 0.5}])
def test_learning_rates_of_an_adapter_of_a_part(factors: dict[str, float]) -> None:
    def trained(model: nn.Module, factors: dict[str, float] | None) -> dict[str, bytes]:
        run(model, epochs=1, lr_factors=factors)
        return state_bits(model)

    plain, changed = trained(Parts(1.0), None), trained(Parts(1.0), factors)
    assert any(changed[name] != plain[name] for name in plain if ".tensorfact." in name)
    assert trained(Parts(1.0), dict.fromkeys(factors, 1.0)) == plain
    with refused(AdaptError, "'C'"):
        trained(Parts(1.0), {"C": 2.0})


def test_learning_rates_belong_to_one_adapter() -> None:
    for count, words in ((0, ("needs a model with an adapter",)), (2, ("parts.0, parts.1", "lr_factors=None"))):
        with refused(TrainingError, "fit: lr_factors", *words):
            run(Parts(*[1.0] * count), lr_factors={"B": 16.0})
    run(Parts(1.0, 1.0), epochs=1)


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("train_head", [True, False])
def test_a_disabled_adapter_is_not_trained(train_head: bool, nested: bool) -> None:
    model = nano()
    adapter = adapt(model, plan(), TensorTrain(2), train_head=train_head)
    whole = nn.Sequential(model) if nested else model
    data = TensorDataset(torch.randn(8, 1, 28, 28), torch.arange(8))
    with untouched(whole), adapter.disabled(), refused(TrainingError, "disabled", "outside `with adapter.disabled():`"):
        fit(whole, data, data, epochs=1)
    fit(whole, data, data, epochs=1)


@pytest.mark.parametrize("train_head", [True, False])
def test_a_merged_adapter_is_not_trained(train_head: bool) -> None:
    model = nano()
    adapter = adapt(model, plan(), TensorTrain(2), train_head=train_head)
    adapter.merge()
    data = TensorDataset(torch.randn(8, 1, 28, 28), torch.arange(8))
    with refused(TrainingError, "merged", "adapter.unmerge()"):
        fit(model, data, data, epochs=1, lr=1e-3)


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_run_of_few_steps_trains(epochs: int) -> None:
    model = nn.Linear(4, 2)
    before = model.weight.detach().clone()
    data = TensorDataset(torch.randn(6, 4), torch.tensor([0, 1] * 3))
    fit(model, data, None, epochs=epochs, lr=0.1)
    assert not torch.equal(model.weight, before)


def test_validation_data_is_chosen_and_splits_are_taken_apart() -> None:
    splits = Splits("a", data(), data(), data(), 3)
    call: Any = fit
    for given in ((splits,), (splits, None)):
        with refused(
            TrainingError, "fit: train", "got 'Splits'", "pass its splits: fit(model, splits.train, splits.val)"
        ):
            call(network(), *given, epochs=1)
    with refused(TrainingError, "fit: val is missing", "or None", "fit(model, train, val)"):
        call(network(), data(), epochs=1)
