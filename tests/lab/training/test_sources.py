"""DataLoaders are iterated as they are; what contradicts them, and what is no data, is refused by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import (
    ChainDataset,
    DataLoader,
    IterableDataset,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from tensorfact import fit
from tensorfact.errors import TrainingError
from tensorfact.lab import digits, evaluate, nano
from tensorfact.lab.training.sources import check_loaders
from tests.helpers import refused, state_bits, untouched
from tests.lab.training.runs import data, network, numbers, plain


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """Samples without indices, and without a length."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter([data()[at] for at in range(48)])


class Sized(Stream):
    """A stream that states a length, which may be wrong."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length


def named(samples: list[Any]) -> dict[str, Tensor]:
    return {"input": torch.stack([x for x, _ in samples]), "labels": torch.stack([y for _, y in samples])}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("size", [16, 20])
def test_a_shuffling_loader_trains_as_its_data_set_does(size: int, workers: int) -> None:
    one, two = network(), network()
    options: dict[str, Any] = {"epochs": 2, "lr": 0.02}
    loader = DataLoader(data(), size, shuffle=True, num_workers=workers)
    val = DataLoader(data(24, seed=1), 7)
    expected = numbers(fit(one, data(), data(24, seed=1), batch_size=size, **options))
    found = numbers(fit(two, loader, val, **options))
    assert [epoch[0] for epoch in found] == [epoch[0] for epoch in expected]
    assert [epoch[1:] for epoch in found] == [pytest.approx(epoch[1:], rel=1e-5) for epoch in expected]
    assert state_bits(one) == state_bits(two)


@pytest.mark.parametrize(
    ("loader", "sizes"),
    [
        (lambda: DataLoader(data(), 20, drop_last=True), [20, 20]),
        (lambda: DataLoader(data(), 20), [20, 20, 8]),
        (lambda: DataLoader(data(), 16, sampler=SubsetRandomSampler(range(20))), [16, 4]),
        (lambda: DataLoader(data(), 16, sampler=WeightedRandomSampler([1.0] * 48, 40)), [16, 16, 8]),
        (lambda: DataLoader(data(), batch_sampler=[[0, 1, 2], [3], [4, 5]]), [3, 1, 2]),
        (lambda: DataLoader(data(), 24, collate_fn=named), [24, 24]),
        (lambda: DataLoader(Sized(48), 16), [16, 16, 16]),
    ],
)
def test_the_batches_are_those_of_the_loader(loader: Callable[[], Any], sizes: list[int]) -> None:
    seen: list[int] = []

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        seen.append(len(labels))
        return nn.functional.cross_entropy(logits, labels)

    fit(plain(), loader(), None, epochs=2, loss=loss)
    assert seen == sizes * 2
    seen.clear()
    evaluate(plain(), loader(), loss=loss)
    assert seen == sizes


@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(data(), 20),
        DataLoader(data(), 48, collate_fn=named),
        DataLoader(data(), 5, sampler=SequentialSampler(data())),
        DataLoader(Stream(), 16),
    ],
)
def test_a_loader_is_evaluated_as_its_data_set_is(loader: Any) -> None:
    model = network()
    with untouched(model):
        assert evaluate(model, loader) == pytest.approx(evaluate(model, data()), rel=1e-5)


def test_a_run_over_a_loader_resumes(tmp_path: Any) -> None:
    def run(epochs: int, **options: Any) -> dict[str, bytes]:
        model = network()
        loader = DataLoader(data(), 16, shuffle=True)

        def stop(index: int, epoch: object) -> None:
            if index + 1 == epochs:
                raise KeyboardInterrupt

        fit(model, loader, None, epochs=3, on_epoch=stop, **options)
        return state_bits(model)

    path = tmp_path / "run.safetensors"
    with pytest.raises(KeyboardInterrupt):
        run(2, checkpoint=path)
    assert run(9, checkpoint=path) == run(9)


@pytest.mark.parametrize(
    "options", [{"batch_size": 8}, {"batch_size": 16}, {"drop_last": True}, {"accumulation": 2}, {"workers": 1}]
)
def test_what_contradicts_a_loader_is_refused(options: dict[str, Any]) -> None:
    model, loader = network(), DataLoader(data(), 16)
    ((name, value),) = options.items()
    with untouched(model), refused(TrainingError, f"fit: {name}={value}", "train", "DataLoader"):
        fit(model, loader, None, epochs=1, **options)
    fit(model, data(64), loader, epochs=1, **options)


def test_a_batch_size_beside_a_loader_is_refused_by_evaluate() -> None:
    with refused(TrainingError, "evaluate: batch_size=4", "data"):
        evaluate(network(), DataLoader(data(), 16), batch_size=4)


def test_a_loader_is_not_split_over_processes() -> None:
    for train, val, name in ((DataLoader(data()), None, "train"), (data(), DataLoader(data()), "val")):
        check_loaders(train, val, processes=1, workers=0)
        with refused(TrainingError, f"fit: {name}: a DataLoader", "2 processes"):
            check_loaders(train, val, processes=2, workers=0)


def test_a_loader_that_ends_early_is_named() -> None:
    with refused(TrainingError, "fit: train", "ended after 3 of 4 batches", "__len__"):
        fit(plain(), DataLoader(Sized(64), 16), None, epochs=1)


@pytest.mark.parametrize("wrong", [None, 5, "data", Stream(), DataLoader(Stream(), 4), iter([1])])
def test_training_data_of_another_kind_is_refused(wrong: Any) -> None:
    model = network()
    if wrong == "data":
        wrong = digits(nano(), train=2, val=2, test=2)
    with untouched(model), refused(TrainingError, "fit: train", "DataLoader"):
        fit(model, wrong, None, epochs=1)


@pytest.mark.parametrize("wrong", [5, Stream(), iter([1])])
def test_data_of_another_kind_is_refused_by_every_argument(wrong: Any) -> None:
    with refused(TrainingError, "fit: val", "DataLoader"):
        fit(network(), data(), wrong, epochs=1)
    with refused(TrainingError, "evaluate: data", "DataLoader"):
        evaluate(network(), wrong)


@pytest.mark.parametrize(
    "empty",
    [data(0), DataLoader(data(0), 4), DataLoader(data(3), 4, drop_last=True), DataLoader(data(), batch_sampler=[])],
)
def test_data_without_a_batch_is_empty(empty: Any) -> None:
    for argument in ("train", "val"):
        with refused(TrainingError, f"fit: {argument} is empty"):
            fit(network(), **{"train": data(), "val": data(), argument: empty}, epochs=1)
    with refused(TrainingError, "evaluate: data is empty"):
        evaluate(network(), empty)


class Indexed(Sized):
    """A stream that could be indexed; torch's DataLoader refuses a sampler for it all the same."""

    def __getitem__(self, index: int) -> Any:
        return data()[index]


@pytest.mark.parametrize("stream", [Stream(), Sized(48), Indexed(48), ChainDataset([Sized(48), Sized(48)])])
def test_a_stream_is_passed_in_a_loader_whether_or_not_it_has_a_length(stream: Any) -> None:
    words = ("a data set with __getitem__ and __len__", "DataLoader(data, batch_size=64)")
    with refused(TrainingError, "fit: train", *words):
        fit(network(), stream, None, epochs=1)
    with refused(TrainingError, "fit: val", *words):
        fit(network(), data(), stream, epochs=1)
    with refused(TrainingError, "evaluate: data", *words):
        evaluate(network(), stream)
    assert evaluate(network(), DataLoader(stream, batch_size=64)).accuracy <= 1
