"""Tensors of a resolved plan: gathering and scattering, and formats for tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from torch import nn

from tensorfact import Format, Group, Rule, TensorizationPlan, TensorTrain, Tucker, get_format, plan_by_shape
from tensorfact.errors import FormatError, RankError
from tensorfact.formats import Kronecker
from tests.helpers import Tiny, bits, refused
from tests.strategies import Case, cases

TWO = TensorizationPlan(
    (
        Group("proj", "in out", (Rule("blocks.{layer}.proj.weight", "out in"),), partition="layer"),
        Group("fc", "(layer role) in out", (Rule("blocks.{layer}.fc1.weight", "(role out) in", role=["a", "b"]),)),
    )
)


@given(cases())
def test_scatter_undoes_gather_on_everything_but_frozen_slots(case: Case) -> None:
    parameters = {name: p.detach() for name, p in case.build().named_parameters()}
    for tensor in case.resolve().tensors:
        whole = tensor.gather(parameters)
        for name, part in tensor.scatter(whole).items():
            assert tensor.tied or bits(part[part != 0]) == bits(parameters[name][part != 0])
        assert bits(tensor.gather(tensor.scatter(whole))) == bits(whole)


def test_a_shared_slice_is_the_mean() -> None:
    model = Tiny(width=4, depth=3)
    rule = Rule("blocks.{layer}.proj.weight", "out in")
    (tensor,) = TensorizationPlan((Group("g", "out in", (rule,), tied="layer"),)).resolve(model).tensors
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    weights = [parameters[f"blocks.{layer}.proj.weight"] for layer in range(3)]
    torch.testing.assert_close(tensor.gather(parameters), torch.stack(weights).mean(0))
    assert tensor.shape == (4, 4)
    assert all(
        torch.equal(part, tensor.gather(parameters)) for part in tensor.scatter(tensor.gather(parameters)).values()
    )


@pytest.mark.parametrize(
    ("format", "count"),
    [
        (TensorTrain(1), 2 * 8 + 12),
        ({"proj": TensorTrain(2), "fc": TensorTrain(1)}, 2 * 16 + 12),
        ({"proj[0]": TensorTrain(2), "proj": TensorTrain(1), "fc": Tucker(1)}, 16 + 8 + 13),
    ],
)
def test_one_format_for_all_or_one_for_each_name(format: Any, count: int) -> None:
    resolved = TWO.resolve(Tiny(width=4, ratio=2, depth=2))
    assert [tensor.name for tensor in resolved.tensors] == ["proj[0]", "proj[1]", "fc"]
    assert resolved.num_parameters(format) == count


@pytest.mark.parametrize(
    ("format", "words"),
    [
        ("tt", ["'tt'", "tt:rank=4"]),
        (get_format("tt"), ["TensorTrain"]),
        (None, ["None"]),
        ({"proj": TensorTrain(1)}, ["'fc'"]),
        ({"proj": TensorTrain(1), "fc": "tt"}, ["'fc'", "'tt'"]),
        ({"proj": TensorTrain(1), "fc": TensorTrain(1), "fcc": TensorTrain(1)}, ["'fcc'"]),
        ({"proj[0]": TensorTrain(1), "fc": TensorTrain(1)}, ["'proj[1]'"]),
        ({}, ["'proj[0]'"]),
        ({3: TensorTrain(1)}, ["'3'"]),
    ],
)
def test_what_gives_a_tensor_no_format_is_refused(format: Any, words: list[str]) -> None:
    with refused(FormatError, *words):
        TWO.resolve(Tiny(width=4, ratio=2, depth=2)).formats(format)


AB = "role=a,b (4 rows each)"


def test_tables_list_every_tensor_and_what_is_left_out() -> None:
    model = Tiny(width=4, ratio=2, depth=2)
    model.register_parameter("temperature", nn.Parameter(torch.zeros(())))
    resolved = TWO.resolve(model)
    table = resolved.table()
    assert table.headers == ("tensor", "modes", "parameters", "shapes", "dimensions", "slices")
    assert table.rows == (
        ("proj[0]", "in=4 out=4", "blocks.{layer}.proj.weight", "1 x 4x4", "out in", ""),
        ("proj[1]", "in=4 out=4", "blocks.{layer}.proj.weight", "1 x 4x4", "out in", ""),
        ("fc", "(layer role)=4 in=4 out=4", "blocks.{layer}.fc1.weight", "2 x 8x4", "(role out) in", AB),
    )
    left = {row[0]: row[1] for row in resolved.left_out_table().rows}
    assert left["blocks.*.fc2.weight"] == "2 x 4x8"
    assert left["embed.weight"] == "1 x 6x4"
    assert left["head.bias"] == "1 x 3"
    assert left["biases, norms, scales"] == "21 vectors", "ten for each block, and the scalar"


def test_a_slice_has_one_coordinate_of_each_stack_axis_and_all_of_the_others() -> None:
    rule = Rule("blocks.{layer}.proj.weight", "(head dim) in")
    group = Group("g", "(layer head) dim in", (rule,), axis_sizes={"head": 2})
    (tensor,) = TensorizationPlan((group,)).resolve(Tiny(width=4, depth=3)).tensors
    assert tensor.extents == {"(layer head)": 2, "dim": 2, "in": 4}
    proj, _, fc = TWO.resolve(Tiny(width=4, ratio=2, depth=2)).tensors
    assert proj.extents == {"in": 4, "out": 4}
    assert fc.extents == {"(layer role)": 1, "in": 4, "out": 4}


@pytest.mark.parametrize(("width", "share"), [(2, 192 / 208), (8, 1.0), (5, 192 / 232)])
def test_the_share_is_that_of_all_matrices(width: int, share: float) -> None:
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(3)), nn.Linear(8, width), nn.Embedding(9, 8))
    assert plan_by_shape(model).resolve(model).share == pytest.approx(share)


@pytest.mark.parametrize("format", [TensorTrain(5), Tucker(5), Kronecker(1)], ids=str)
def test_a_format_that_does_not_suit_a_tensor_is_refused_with_its_name(format: Format) -> None:
    tensor = TWO.resolve(Tiny(width=4, ratio=2, depth=2))["fc"]
    with pytest.raises(FormatError, match=r"tensor 'fc' \(4, 4, 4\)") as caught:
        tensor.network(format)
    assert isinstance(caught.value, RankError) == ("fitted(format)" in str(caught.value))
