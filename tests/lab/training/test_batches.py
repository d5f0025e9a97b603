"""Batches: one process gets those of a shuffling loader, several processes and workers lose no sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from tensorfact import fit
from tensorfact.errors import TrainingError
from tensorfact.lab.training.batches import deal, shuffled
from tests.helpers import refused, state_bits
from tests.lab.training.runs import data, network, numbers, plain, run

SIZES = st.integers(1, 9)


@given(count=st.integers(0, 60), size=st.integers(1, 70), processes=SIZES, parts=SIZES, drop_last=st.booleans())
def test_the_pieces_of_a_batch_are_the_batch(
    count: int, size: int, processes: int, parts: int, drop_last: bool
) -> None:
    order = torch.randperm(count).tolist()
    batches = [order[start : start + size] for start in range(0, count, size)]
    batches = [batch for batch in batches if len(batch) == size or not drop_last]
    dealt = [
        deal(order, size, processes=processes, process=process, parts=parts, drop_last=drop_last)
        for process in range(processes)
    ]
    assert {len(steps) for steps in dealt} == {len(batches)}
    for batch, steps in zip(batches, zip(*dealt, strict=True), strict=True):
        (rounds,) = {len(step) for step in steps}
        assert 1 <= rounds <= parts, "every process runs as often as the others"
        together = [[step[at] for step in steps] for at in range(rounds)]
        assert all(any(piece.weight for piece in pieces) for pieces in together), "no part is everyone's idle one"
        pieces = [piece for each in together for piece in each]
        counted = [piece for piece in pieces if piece.weight]
        assert [index for piece in counted for index in piece.indices] == batch
        assert all(piece.weight == len(piece.indices) / len(batch) for piece in counted)
        assert all(len(piece.indices) == 1 and piece.indices[0] in batch for piece in pieces if not piece.weight)
        sizes = [len(piece.indices) if piece.weight else 0 for piece in pieces]
        assert max(sizes) - min(sizes) <= 1
        assert sum(piece.weight for piece in pieces) == pytest.approx(1)


@given(count=st.integers(1, 40), size=st.integers(1, 50), seed=st.integers(0, 9))
def test_one_process_takes_what_a_shuffling_loader_takes(count: int, size: int, seed: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        expected = [batch.tolist() for batch in DataLoader(range(count), size, shuffle=True)]  # type: ignore[arg-type]
        state = torch.get_rng_state()
        torch.manual_seed(seed)
        dealt = deal(shuffled(count), size)
        assert torch.equal(torch.get_rng_state(), state), "dropout draws the same masks"
    assert [[part.indices for part in step] for step in dealt] == [[batch] for batch in expected]
    assert all(part.weight == 1.0 for step in dealt for part in step)


class Noisy(Dataset[tuple[Tensor, Tensor]]):
    """Samples that differ each time they are read, as augmented images do."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = data()[index]
        return x + 0.1 * torch.randn(6), y


def test_workers_read_the_same_samples() -> None:
    one, two = network(), network()
    assert numbers(run(one, epochs=2)) == numbers(run(two, epochs=2, workers=2))
    assert state_bits(one) == state_bits(two)


def test_what_workers_draw_comes_from_the_seed() -> None:
    found = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(noise)
        model = plain()
        fit(model, Noisy(), None, epochs=1, batch_size=8, workers=1, seed=seed)
        found.append(state_bits(model))
    assert found[0] == found[1] != found[2]


def test_an_incomplete_batch_is_left_out() -> None:
    seen: list[int] = []

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        seen.append(len(labels))
        return nn.functional.cross_entropy(logits, labels)

    fit(network(), data(40), None, epochs=2, batch_size=16, drop_last=True, loss=loss)
    assert seen == [16, 16] * 2
    with refused(TrainingError, "drop_last", "40"):
        fit(network(), data(40), None, epochs=2, batch_size=41, drop_last=True)


@pytest.mark.parametrize(
    ("odd", "form", "workers"),
    [
        ((torch.zeros(7), 0), "(Tensor (7,), int)", 0),
        ((torch.zeros(6), 0, 0), "(Tensor (6,), int, int)", 0),
        ((None, 0), "(NoneType, int)", 1),
        ({"x": torch.zeros(6), "label": 0}, "{x: Tensor (6,), label: int}", 0),
    ],
)
def test_a_sample_that_differs_from_the_others_is_named(odd: Any, form: str, workers: int) -> None:
    samples = [(torch.zeros(6), 0)] * 5 + [odd]
    with refused(TrainingError, "fit: val, sample 5", form, "(Tensor (6,), int)", "collate_fn"):
        fit(plain(), data(), cast("Any", samples), epochs=1, workers=workers)


@pytest.mark.parametrize("sample", [(None, 0), (object(), 1), (Path("a.png"), 0)])
def test_samples_that_form_no_batch_are_named(sample: Any) -> None:
    with refused(TrainingError, "fit: val, sample 0 does not form a batch", "ToTensor()"):
        fit(plain(), data(), cast("Any", [sample] * 3), epochs=1)
