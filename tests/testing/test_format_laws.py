"""Laws of formats: correct formats pass, and for every law there is a fault that breaks it and no other."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tensorfact import CP, Format, MatrixBatch, TensorTrain, Tucker, available_formats, get_format
from tensorfact.adapters.increments import Kind, adapted
from tensorfact.adapters.increments.effective import Sums
from tensorfact.formats import (
    BlockTerm,
    Diagonals,
    Each,
    Gates,
    Hadamard,
    KhatriRao,
    Kronecker,
    Monarch,
    Nested,
    PartialTucker,
    ReshapedTucker,
    Started,
    TensorRing,
    TTMatrix,
    parse_format,
)
from tensorfact.network import Mode, Network
from tensorfact.testing import LawError, check_format
from tests import faulty
from tests.planted import PLANTED, Two
from tests.testing.outcomes import failing

GOOD: dict[str, Format] = {
    "tt": TensorTrain(2),
    "tucker": Tucker(2),
    "cp": CP(2),
    "matrix-batch": MatrixBatch(2),
    "tensor-ring": TensorRing(2),
    "partial-tucker": PartialTucker(2),
    "reshaped-tucker": ReshapedTucker(2, whole=0),
    "block-term": BlockTerm(2),
    "tt-matrix": TTMatrix(2),
    "kronecker": Kronecker(2),
    "hadamard": Hadamard(2),
    "monarch": Monarch(2),
    "khatri-rao": KhatriRao(),
    "gates": Gates(),
    "diagonals": Diagonals(TensorTrain(2)),
    "each": Each(TensorTrain(2)),
    "nested": Nested(MatrixBatch(2), {"A": TensorTrain(2), "B": Each(TensorTrain(2))}),
    "started": Started(TensorTrain(2), {"V": "zero"}),
}
"""One format for every name that the library registers."""


# -------------------------------------------------------------------------------------------------------- what is right


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "name", [name for name in available_formats() if get_format(name).__module__.startswith("tensorfact.")]
)
def test_every_registered_format_keeps_the_laws(name: str) -> None:
    format = GOOD[name]
    assert failing(check_format(format, subtract_start=isinstance(format, Gates))) == {}


def test_a_format_without_a_zero_core_is_meant_to_be_one() -> None:
    broken = failing(check_format(Gates()))
    assert list(broken) == ["zero start"]
    assert "check_format(..., subtract_start=True)" in broken["zero start"]


@pytest.mark.parametrize(
    "format", [TensorTrain(16), TensorTrain("full"), CP(2, weights=True), faulty.Middle(), Two(2)], ids=str
)
def test_other_options_keep_the_laws(format: Format) -> None:
    assert failing(check_format(format)) == {}


# -------------------------------------------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize("law", faulty.FORMATS)
def test_a_faulty_format_breaks_its_law_and_no_other(law: str) -> None:
    broken = failing(check_format(faulty.FORMATS[law]))
    assert list(broken) == [law], broken


@pytest.mark.parametrize(("law", "fault"), PLANTED)
def test_a_planted_fault_is_found(law: str, fault: str) -> None:
    laws = {each.name: each for each in check_format(PLANTED[law, fault])}
    with pytest.raises(LawError, match=f"{law}: expected "):
        laws[law]()


# ---------------------------------------------------------------------------------------------------- how it is written


def test_given_modes_are_the_only_ones() -> None:
    seen = set()

    class Watching(TensorTrain):
        def network(self, modes: Any) -> Network:
            seen.add(tuple(modes))
            return super().network(modes)

    modes = (Mode("(layer role)", 6, "stack"), Mode("in", 4, "in"), Mode("out", 5, "out"))
    laws = check_format(Watching(2), modes)
    assert [name for name in failing(laws) if name != "immutable"] == []
    assert seen == {modes}


def test_a_format_is_checked_by_its_own_options_where_it_has_no_name() -> None:
    laws = {law.name: law for law in check_format(faulty.Middle())}
    assert laws["options survive JSON"]() is None
    assert parse_format("tt:rank=2") == copy.deepcopy(TensorTrain(2))


@pytest.mark.parametrize("fault", ["output", "gradients"])
def test_a_fault_of_the_formed_route_is_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The law sees the effective weights of the route, and the gradients that pass through them."""
    form, pass_back = Sums.of, adapted._to_input
    if fault == "output":
        monkeypatch.setattr(Kind, "at_once", lambda *_: True)  # as on a GPU
        monkeypatch.setattr(Sums, "of", lambda *of: None if (found := form(*of)) is None else found * 1.01)
    else:
        monkeypatch.setattr(adapted, "_to_input", lambda *of: pass_back(*of) * (1 if of[5] is None else 1.01))
    [law] = (law for law in check_format(TensorTrain(2)) if law.name == "routes agree")
    with pytest.raises(LawError, match="'formed'"):
        law()
