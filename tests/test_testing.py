"""The conformance kit: what is right passes, and for every law there is a fault that breaks it and no other."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tensorfact import (
    CP,
    Format,
    MatrixBatch,
    TensorTrain,
    Tucker,
    available_formats,
    get_format,
    plan_by_shape,
    plan_for,
)
from tensorfact.errors import AdaptError, FormatError
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
    Started,
    TensorRing,
    TTMatrix,
    parse_format,
)
from tensorfact.lab import nano
from tensorfact.network import Mode, Network
from tensorfact.testing import Law, LawError, check_format, check_plan, plain_kinds
from tensorfact.testing import formats as any_formats
from tensorfact.testing import modes as any_modes
from tensorfact.testing import plans as any_plans

from . import faulty
from .helpers import refused, snapshot, state_bits

GOOD: dict[str, Format] = {
    "tt": TensorTrain(2),
    "tucker": Tucker(2),
    "cp": CP(2),
    "matrix-batch": MatrixBatch(2),
    "tensor-ring": TensorRing(2),
    "partial-tucker": PartialTucker(2),
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
"""One of every name that the library registers."""

X = torch.linspace(-1, 1, 18).reshape(3, 6)


def failing(laws: Any) -> dict[str, str]:
    """Return the laws that do not hold, and what they say."""
    return {name: message for name, holds, message in laws.report().rows if holds == "no"}


# ------------------------------------------------------------------------------------------------------ what is right


@pytest.mark.parametrize(
    "name", [name for name in available_formats() if get_format(name).__module__.startswith("tensorfact.")]
)
def test_every_registered_format_keeps_the_laws(name: str) -> None:
    assert failing(check_format(GOOD[name])) == {}


@pytest.mark.parametrize(
    "format", [TensorTrain(16), TensorTrain("full"), CP(2, weights=True), faulty.Middle()], ids=str
)
def test_other_options_keep_the_laws(format: Format) -> None:
    assert failing(check_format(format)) == {}


@pytest.mark.parametrize("format", [None, CP(2), {"encoder": Tucker(2)}], ids=str)
def test_a_plan_on_the_bundled_model_keeps_the_laws(format: Any) -> None:
    model = nano()
    before = snapshot(model)
    assert failing(check_plan(plan_for(model), model, format=format)) == {}
    assert snapshot(model) == before


def test_a_plan_by_shape_keeps_the_laws() -> None:
    model = faulty.Layers(3)
    assert failing(check_plan(plan_by_shape(model), model, X)) == {}


@settings(max_examples=5)
@given(st.data())
def test_any_plan_over_a_model_keeps_the_laws(data: st.DataObject) -> None:
    model = faulty.Layers(3)
    assert failing(check_plan(data.draw(any_plans(model)), model, X)) == {}


# ------------------------------------------------------------------------------------------------------ what is wrong


@pytest.mark.parametrize("law", faulty.FORMATS)
def test_a_faulty_format_breaks_its_law_and_no_other(law: str) -> None:
    broken = failing(check_format(faulty.FORMATS[law]))
    assert list(broken) == [law], broken


@pytest.mark.parametrize("law", faulty.PLANS)
def test_a_faulty_plan_or_model_breaks_its_law_and_no_other(law: str) -> None:
    plan, model = faulty.PLANS[law]
    before = state_bits(model)
    broken = failing(check_plan(plan, model, X))
    assert list(broken) == [law], broken
    assert state_bits(model) == before


def test_every_law_has_a_fault_that_breaks_it() -> None:
    assert [law.name for law in check_format(CP(2))] == list(faulty.FORMATS)
    assert [law.name for law in check_plan(*faulty.case(), X)] == list(faulty.PLANS)


# -------------------------------------------------------------------------------------------------- how it is written

test_laws = check_format(TensorTrain(2)).as_test()
test_plan_laws = check_plan(*faulty.case(), X).as_test()


def test_a_test_has_one_case_a_law() -> None:
    (mark,) = test_laws.pytestmark  # type: ignore[attr-defined]
    assert [case.id for case in mark.args[1]] == list(faulty.FORMATS)


@pytest.mark.parametrize("law", ["count", "cores in shape", "sign and size"])
def test_a_law_says_its_name_and_what_was_expected(law: str) -> None:
    laws = {each.name: each for each in check_format(faulty.FORMATS[law])}
    for _ in range(2):
        with pytest.raises(LawError) as caught:
            laws[law]()
        message = str(caught.value)
        assert message.startswith(f"{law}: expected ")
        assert ", got " in message
        assert "Usual cause: " in message


def test_a_property_names_the_example_that_breaks_it() -> None:
    laws = {law.name: law for law in check_format(faulty.FORMATS["count"])}
    with pytest.raises(LawError) as caught:
        laws["count"]()
    assert any("Mode(name=" in note for note in caught.value.__notes__)


@dataclasses.dataclass(frozen=True)
class Closed(TensorTrain):
    """It does not decompose."""

    def factorize(self, tensor: Tensor, modes: Any) -> Any:
        raise FormatError("no way back")


def test_what_does_not_apply_says_why() -> None:
    laws = {law.name: law for law in check_format(Closed(2))}
    assert "no decomposition: no way back" in (laws["sign and size"]() or "")
    with pytest.raises(pytest.skip.Exception, match="no decomposition"):
        check_format(Closed(2)).as_test()(laws["sign and size"])
    laws = {law.name: law for law in check_format(Diagonals(TensorTrain(2)))}
    assert "'constant:0.1'" in (laws["scale of the start"]() or "")


def test_a_law_without_ground_is_not_checked() -> None:
    laws = {law.name: law for law in check_format(faulty.FORMATS["cores in shape"])}
    assert laws["sign and size"]() == "not checked while 'cores in shape' does not hold"


class Crashing(TensorTrain):
    """Its network cannot be stated."""

    def network(self, modes: Any) -> Network:
        if modes[0].side != "stack":
            raise KeyError("in")
        return super().network(modes)


def test_whatever_the_code_raises_is_the_law_s() -> None:
    for modes in (None, [Mode("in", 4, "in"), Mode("out", 5, "out")]):
        laws = {law.name: law for law in check_format(Crashing(2), modes)}
        with pytest.raises(LawError, match=r"equal arguments, equal network: .* KeyError: 'in'"):
            laws["equal arguments, equal network"]()


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


def test_what_cannot_be_checked_is_refused() -> None:
    with refused(FormatError, "TensorTrain"):
        check_format(TensorTrain)  # type: ignore[arg-type]
    with refused(FormatError, "allows none", "modes="):
        check_format(TensorTrain(2, order=("a", "b")))
    with refused(AdaptError, "Layers", "example_input"):
        check_plan(*faulty.case())
    with refused(AdaptError, "TensorizationPlan"):
        check_plan(faulty.Layers(), faulty.Layers())  # type: ignore[arg-type]


def test_laws_are_a_sequence_that_prints() -> None:
    laws = check_format(CP(2))
    assert len(laws) == len(laws[:]) == len(laws.table().rows)
    assert isinstance(laws[-1], Law)
    assert laws.subject == str(CP(2))


def test_a_check_leaves_torch_s_random_state() -> None:
    plan, model = faulty.case()
    state = torch.get_rng_state()
    check_format(TensorTrain(2)).report()
    check_plan(plan, model, X).report()
    assert torch.equal(torch.get_rng_state(), state)


def test_a_format_is_checked_by_its_own_options_where_it_has_no_name() -> None:
    laws = {law.name: law for law in check_format(faulty.Middle())}
    assert laws["options survive JSON"]() is None
    assert parse_format("tt:rank=2") == copy.deepcopy(TensorTrain(2))


# -------------------------------------------------------------------------------------------------------- strategies


@given(st.data())
def test_a_drawn_format_has_a_network_on_its_modes(data: st.DataObject) -> None:
    drawn = data.draw(any_modes())
    format = data.draw(any_formats(drawn))
    assert format.network(drawn).output == tuple(mode.name for mode in drawn)
    assert type(format) in plain_kinds()


@given(st.data())
def test_a_drawn_plan_resolves(data: st.DataObject) -> None:
    model = faulty.Layers(3)
    resolved = data.draw(any_plans(model)).resolve(model)
    assert len(resolved.parameters) == 3


def test_every_plain_kind_is_one_of_the_registered() -> None:
    assert {TensorTrain, Gates, KhatriRao} <= set(plain_kinds())
    assert not {Nested, Started} & set(plain_kinds())
