"""Labels: ignored samples do not count, labels out of range say what helps, and only class indices are scored."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from tensorfact import fit
from tensorfact.errors import TrainingError
from tensorfact.lab import evaluate
from tensorfact.lab.training import History
from tensorfact.lab.training.labels import ignored_by
from tests.helpers import difference, refused, state_bits, untouched
from tests.lab.training.runs import data, plain

CE = nn.functional.cross_entropy


def with_labels(labels: Any, seed: int = 0) -> TensorDataset:
    labels = torch.as_tensor(labels)
    return TensorDataset(torch.randn(len(labels), 6, generator=torch.Generator().manual_seed(seed)), labels)


# ------------------------------------------------------------------------------------------------------------- ignored


@settings(max_examples=30)
@given(
    labels=st.lists(st.sampled_from([-100, -100, 0, 1, 2]), min_size=1, max_size=12).filter(lambda x: max(x) >= 0),
    size=st.integers(1, 13),
    loader=st.booleans(),
    smoothing=st.sampled_from([0.0, 0.2]),
)
def test_accuracy_and_loss_are_those_of_the_samples_that_count(
    labels: list[int], size: int, loader: bool, smoothing: float
) -> None:
    """The loss is torch's cross entropy over the whole set, however it is divided into batches."""
    model, samples = plain(), with_labels(labels)
    x, y = samples.tensors
    loss = functools.partial(CE, label_smoothing=smoothing)
    given = {"data": DataLoader(samples, size)} if loader else {"data": samples, "batch_size": size}
    found = evaluate(model, **given, loss=loss)
    assert found.loss == pytest.approx(loss(model(x), y).item(), rel=1e-5)
    kept = y != -100
    assert found.accuracy == pytest.approx(float((model(x).argmax(1) == y)[kept].double().mean()))


def trained(samples: Dataset[Any], **options: Any) -> tuple[nn.Module, History]:
    model = plain()
    return model, fit(model, samples, None, **{"epochs": 2, "lr": 0.02, "batch_size": 16, **options})


IGNORING = with_labels(torch.where(torch.arange(48) % 5 < 2, -100, data().tensors[1]))


@pytest.mark.parametrize("accumulation", [2, 5, 16])
def test_parts_of_a_batch_add_up_without_the_ignored_samples(accumulation: int) -> None:
    whole, expected = trained(IGNORING)
    parts, history = trained(IGNORING, accumulation=accumulation)
    assert all(difference(one, two) < 1e-4 for one, two in zip(whole.parameters(), parts.parameters(), strict=True))
    for one, two in zip(history.epochs, expected.epochs, strict=True):
        assert one.train_loss == pytest.approx(two.train_loss, rel=1e-4)


@pytest.mark.parametrize("accumulation", [1, 3, 7])
def test_ignored_samples_train_nothing(accumulation: int) -> None:
    """In one batch, training with them is training without them."""
    kept = IGNORING.tensors[1] != -100
    without, expected = trained(TensorDataset(*(tensor[kept] for tensor in IGNORING.tensors)), batch_size=48)
    model, history = trained(IGNORING, batch_size=48, accumulation=accumulation)
    assert all(difference(one, two) < 1e-4 for one, two in zip(without.parameters(), model.parameters(), strict=True))
    assert history.epochs[1].train_loss == pytest.approx(expected.epochs[1].train_loss, rel=1e-4)


@pytest.mark.parametrize("options", [{}, {"accumulation": 2}, {"loss": nn.CrossEntropyLoss()}])
def test_a_batch_of_ignored_samples_is_left_out(options: Any) -> None:
    labels = torch.full((12,), -100)
    labels[5] = 1
    samples = with_labels(labels)
    model, history = trained(samples, batch_size=2, epochs=1, weight_decay=0.0, **options)
    x, y = samples.tensors
    assert history.epochs[0].train_loss == pytest.approx(CE(plain()(x[5:6]), y[5:6]).item(), rel=1e-5)
    assert state_bits(model) != state_bits(plain())
    assert fit(model, data(), samples, epochs=1).val_accuracy in (0, 1)


@pytest.mark.parametrize("ignored", [-100, 2, 255])
def test_data_without_a_sample_that_counts_is_named(ignored: int) -> None:
    samples = with_labels(torch.full((5,), ignored))
    loss, words = nn.CrossEntropyLoss(ignore_index=ignored), ("has no sample that counts", f"only the label {ignored}")
    for empty in (samples, DataLoader(samples, 2)):
        with refused(TrainingError, "fit: train", *words):
            fit(plain(), empty, None, epochs=1, loss=loss)
        with refused(TrainingError, "fit: val", *words):
            fit(plain(), data(), empty, epochs=1, loss=loss)
        with refused(TrainingError, "evaluate: data", *words):
            evaluate(plain(), empty, loss=loss)


@pytest.mark.parametrize(
    ("loss", "ignored"),
    [
        (CE, -100),
        (nn.CrossEntropyLoss(ignore_index=255), 255),
        (nn.CrossEntropyLoss(ignore_index=0), 0),
        (functools.partial(CE, ignore_index=-1), -1),
        (functools.partial(nn.CrossEntropyLoss(ignore_index=7)), 7),
        (lambda logits, labels: logits.sum(), -100),
    ],
)
def test_the_ignored_label_is_the_loss_s(loss: Any, ignored: int) -> None:
    assert ignored_by(loss) == ignored
    labels = torch.tensor([1, 2, 1, ignored])
    evaluate(plain(), with_labels(labels), loss=loss)
    assert evaluate(plain(), with_labels(labels), loss=loss).accuracy in (0, 1 / 3, 2 / 3, 1)


@pytest.mark.parametrize("accumulation", [2, 3])
def test_ignored_positions_weigh_nothing(accumulation: int) -> None:
    """Samples with several labels, some of them ignored: padding behind sentences of different length."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (12, 5), generator=generator)
    labels[torch.arange(12)[:, None] % 6 < torch.arange(5)] = -100
    labels[3] = -100
    samples = TensorDataset(torch.randn(12, 5, 6, generator=generator), labels)

    def trained(accumulation: int) -> nn.Module:
        torch.manual_seed(0)
        model = nn.Linear(6, 3)
        fit(model, samples, None, epochs=2, batch_size=6, lr=0.02, accumulation=accumulation, loss=per_token)
        return model

    whole, parts = trained(1), trained(accumulation)
    assert all(difference(one, two) < 1e-4 for one, two in zip(whole.parameters(), parts.parameters(), strict=True))


def per_token(logits: Tensor, labels: Tensor) -> Tensor:
    return CE(logits.flatten(0, 1), labels.flatten())


# ---------------------------------------------------------------------------------------------------------- right range


@pytest.mark.parametrize(
    ("labels", "fix"),
    [
        ([-1, 0, 1, 2], "use labels + 1 and a model with 4 classes, or -100 instead of -1"),
        ([-1, 0, 1, 1], "use labels + 1, or -100 instead of -1"),
        ([-1, -100, 3, 0], "use labels + 1 and a model with 5 classes, or -100 instead of -1"),
        ([-2, 0, 1, 5], "use class indices from 0, and -100 for samples to ignore"),
        ([0, -100, 3, 5], "model.reset_classifier(6)"),
    ],
)
def test_labels_out_of_range_say_what_helps(labels: list[int], fix: str) -> None:
    with refused(TrainingError, "fit: train, sample", "class indices from 0 to 2", f"Fix: {fix}"):
        fit(plain(), with_labels(labels), None, epochs=1)


@pytest.mark.parametrize("shape", [(4, 5), (4, 2, 5), (2, 7)])
def test_a_label_for_each_token_needs_a_loss_of_tokens(shape: tuple[int, ...]) -> None:
    samples = TensorDataset(torch.randn(*shape, 6), torch.zeros(shape, dtype=torch.int64))
    words = ("(batch, class)", str((*shape, 3)), "cross_entropy(logits.flatten(0, -2), labels.flatten())")
    with refused(TrainingError, "fit: train: logits and labels of cross entropy", *words):
        fit(nn.Linear(6, 3), samples, None, epochs=1)
    fixed: Callable[[Tensor, Tensor], Tensor] = lambda logits, labels: CE(logits.flatten(0, -2), labels.flatten())  # noqa: E731
    assert fit(nn.Linear(6, 3), samples, None, epochs=1, loss=fixed).epochs[0].train_loss < 10


# -------------------------------------------------------------------------------------------------------------- scored


@pytest.mark.parametrize(
    "labels",
    [
        torch.rand(12),
        torch.rand(12, 1),
        nn.functional.one_hot(torch.arange(12) % 3).float(),
        torch.zeros(12, 4, 4, dtype=torch.int64),
        torch.zeros(12, 5, dtype=torch.int64),
    ],
)
def test_what_cannot_be_scored_is_refused_before_anything_trains(labels: Tensor) -> None:
    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        raise AssertionError

    model, samples = plain(), with_labels(labels)
    for val in (samples, DataLoader(samples, 5)):
        with untouched(model), refused(TrainingError, "fit: val: the accuracy", "(batch,)", "argmax(-1)", "val=None"):
            fit(model, data(), val, epochs=1, loss=loss)
    with refused(TrainingError, "evaluate: data: the accuracy", "(batch,)", "torch.no_grad()"):
        evaluate(model, samples, loss=lambda logits, labels: logits.mean())
    fit(model, samples, None, epochs=1, loss=lambda logits, labels: logits.square().mean())


@pytest.mark.parametrize("labels", [torch.arange(12) % 3, (torch.arange(12) % 3).double(), torch.arange(12) % 2 > 0])
def test_class_indices_of_any_type_are_scored(labels: Tensor) -> None:
    samples = with_labels(labels)
    model = plain()
    history = fit(model, samples, samples, epochs=1, loss=lambda logits, labels: CE(logits, labels.long()))
    expected = (model(samples.tensors[0]).argmax(1) == labels).double().mean()
    assert history.val_accuracy == pytest.approx(float(expected))


@pytest.mark.parametrize("shuffle", [False, True])
def test_looking_at_the_labels_changes_no_number(shuffle: bool) -> None:
    """The generator of a loader, and torch's, draw what they would have drawn."""
    model = plain()
    torch.manual_seed(3)
    state, generator = torch.get_rng_state(), torch.Generator().manual_seed(1)
    loader = DataLoader(data(), 16, shuffle=shuffle, generator=generator)
    seen: list[Tensor] = []
    with pytest.raises(KeyboardInterrupt):
        fit(model, loader, loader, epochs=1, loss=lambda logits, labels: _stop(seen, labels))
    assert torch.equal(torch.get_rng_state(), state)
    expected = next(iter(DataLoader(data(), 16, shuffle=shuffle, generator=torch.Generator().manual_seed(1))))
    assert torch.equal(seen[0], expected[1])


def _stop(seen: list[Tensor], labels: Tensor) -> Tensor:
    seen.append(labels)
    raise KeyboardInterrupt
