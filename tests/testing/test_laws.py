"""Laws as a test: messages of laws that are broken, do not apply, or cannot be checked."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from tensorfact import CP, TensorTrain
from tensorfact.errors import AdaptError, FormatError
from tensorfact.formats import Diagonals
from tensorfact.network import Mode, Network
from tensorfact.testing import Law, LawError, check_format, check_plan
from tests import faulty
from tests.helpers import refused
from tests.testing.outcomes import X


def test_every_law_has_a_fault_that_breaks_it() -> None:
    assert [law.name for law in check_format(CP(2))] == list(faulty.FORMATS)
    assert [law.name for law in check_plan(*faulty.case(), X)] == list(faulty.PLANS)


test_laws = check_format(TensorTrain(2)).as_test()


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
    """A format without a decomposition."""

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
    """A format whose network raises."""

    def network(self, modes: Any) -> Network:
        if modes[0].side != "stack":
            raise KeyError("in")
        return super().network(modes)


def test_whatever_the_code_raises_is_the_law_s() -> None:
    for modes in (None, [Mode("in", 4, "in"), Mode("out", 5, "out")]):
        laws = {law.name: law for law in check_format(Crashing(2), modes)}
        with pytest.raises(LawError, match=r"equal arguments, equal network: .* KeyError: 'in'"):
            laws["equal arguments, equal network"]()


def test_what_cannot_be_checked_is_refused() -> None:
    with refused(FormatError, "TensorTrain"):
        check_format(TensorTrain)  # type: ignore[arg-type]
    with refused(FormatError, "none of the test modes", "modes="):
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
