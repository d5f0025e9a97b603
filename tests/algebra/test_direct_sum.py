"""Direct sums are exact, and their bond sizes add."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tensorfact.algebra import Term
from tensorfact.algebra.direct_sum import direct_sum
from tensorfact.network import Core, Network
from tests.algebra.terms import dense, term
from tests.helpers import difference
from tests.strategies import FORMATS, formats, modes


@pytest.mark.parametrize("kind", FORMATS)
@given(data=st.data())
def test_a_direct_sum_is_the_sum_and_its_bonds_add(kind: Any, data: st.DataObject) -> None:
    drawn = data.draw(modes())
    terms = [term(data.draw(formats(drawn, [kind])), drawn, seed, weight) for seed, weight in ((0, 2.0), (1, -0.5))]
    orders = {str(each.network.cores) for each in terms}
    cores = direct_sum(terms)
    if len(orders) > 1:  # two trains along different orders
        assert cores is None
        return
    assert cores is not None
    sizes = {
        leg: n if leg in terms[0].network.output else n + terms[1].network.sizes[leg]
        for leg, n in terms[0].network.sizes.items()
    }
    whole = Term(Network(terms[0].network.cores, terms[0].network.output, sizes), cores)
    assert difference(whole.dense(), dense(terms)) < 1e-10


def test_no_direct_sum_of_cores_without_a_common_bond() -> None:
    network = Network((Core("a", ("i",)), Core("b", ("j",), "zero")), ("i", "j"), {"i": 2, "j": 3})
    cores = {"a": torch.ones(2), "b": torch.ones(3)}
    assert direct_sum([Term(network, cores), Term(network, cores)]) is None
