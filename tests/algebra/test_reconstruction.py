"""Formats ranked by how well they approximate an increment."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from tensorfact import CP, MatrixBatch, TensorTrain, Tucker, extract
from tensorfact.algebra import reconstruct
from tensorfact.errors import FormatError, RankError, TrainingError
from tensorfact.storage.files import StoredTensors
from tests.algebra.tuned import pair
from tests.helpers import layers, layers_plan, randomise, refused


def test_no_more_of_a_file_is_read_than_is_needed(
    sources: dict[str, tuple[Any, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    own = StoredTensors.__getitem__

    def watched(self: Any, name: str) -> Tensor:
        read.append(name)
        return own(self, name)

    monkeypatch.setattr(StoredTensors, "__getitem__", watched)
    reconstruct(*sources["files"], [CP(1)], plan=layers_plan(), model=sources["models"][0])
    assert sorted(set(read)) == ["0.weight", "1.weight", "2.weight"]
    assert len(read) == 6


def test_formats_are_ranked_by_what_they_lose() -> None:
    base, tuned = randomise(layers(3, 6)), randomise(layers(3, 6), seed=1)
    formats = [TensorTrain(1), TensorTrain(3), Tucker((3, 6, 6)), MatrixBatch(1)]
    found = reconstruct(base, tuned, formats, plan=layers_plan())
    assert [row.label for row in found.rows] == [
        "tt rank=1",
        "tt rank=3",
        "tucker rank=(3, 6, 6)",
        "matrix-batch rank=1",
    ]
    exact = found.rows[2]
    assert exact.error < 1e-6
    assert found.is_best(exact)
    for row, format in zip(found.rows, formats, strict=True):
        assert row.error == pytest.approx(extract(base, tuned, layers_plan(), format).changes[0].error, abs=1e-6)
        assert row.parameters == format.num_parameters(layers_plan().resolve(base).tensors[0].modes)
    assert found.numbers == 108
    assert str(found).splitlines()[2].startswith("| tt rank=1")


def test_formats_that_cannot_be_ranked_are_refused() -> None:
    base, tuned = pair()
    with refused(TrainingError, "formats", fix=False):
        reconstruct(base, tuned, [], plan=layers_plan())
    with refused(FormatError, "formats", "cp rank=1"):
        reconstruct(base, tuned, [CP(1), "cp:rank=1"], plan=layers_plan())
    with refused(RankError, "stack"):
        reconstruct(base, tuned, [Tucker(99)], plan=layers_plan())


@pytest.mark.parametrize("wrong", [None, 5, "progress"])
def test_a_callback_can_be_called(wrong: Any) -> None:
    with refused(TrainingError, "reconstruct: progress"):
        reconstruct(layers(), randomise(layers()), [TensorTrain(2)], plan=layers_plan(), progress=wrong)
