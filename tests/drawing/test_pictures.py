"""`draw` accepts networks, formats and plans."""

from __future__ import annotations

from typing import Any

import pytest

from tensorfact import Rule, TensorTrain, plan_for
from tensorfact.drawing import draw
from tensorfact.drawing.networks import network_diagram
from tensorfact.drawing.plans import plan_diagram
from tensorfact.errors import FormatError, NetworkError
from tensorfact.lab import nano
from tensorfact.network import Mode

MODES = (Mode("layer", 12, "stack"), Mode("in", 64, "in"), Mode("out", 64, "out"))


def test_a_network_a_format_and_a_plan_have_pictures() -> None:
    format, network = TensorTrain(rank=4), TensorTrain(rank=4).network(MODES)
    assert draw(network, MODES, "TT") == draw(format, MODES, "TT") == network_diagram(network, MODES, "TT")
    assert draw(network) == network_diagram(network, ())
    resolved = plan_for(nano(pretrained=False)).resolve(nano(pretrained=False))
    assert draw(resolved) == plan_diagram(resolved)


def test_a_format_needs_modes() -> None:
    with pytest.raises(FormatError, match=r"draw\(format, "):
        draw(TensorTrain(rank=4))


@pytest.mark.parametrize("subject", [None, "tt", TensorTrain, Rule("a", "b")])
def test_nothing_else_has_a_picture(subject: object) -> None:
    with pytest.raises(NetworkError, match="expected a Network, a Format with modes, or a ResolvedPlan"):
        draw(subject)  # type: ignore[arg-type]


@pytest.mark.parametrize("modes", [None, Mode("in", 3, "in"), (3, 4), "in out"])
def test_modes_are_modes(modes: Any) -> None:
    with pytest.raises(NetworkError, match="draw: modes: expected a tuple of Mode objects"):
        draw(TensorTrain(rank=4), modes)
