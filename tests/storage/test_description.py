"""What a file says of its adapter: what it holds, what can be drawn again, and what does not fit."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tensorfact import (
    CP,
    AdapterState,
    Group,
    MatrixBatch,
    Rule,
    TensorizationPlan,
    TensorTrain,
    Tucker,
    adapt,
    lab,
    load_adapter,
    plan_for,
)
from tensorfact.errors import CheckpointError, FingerprintError, FormatError, TensorfactError
from tensorfact.storage import description
from tensorfact.storage.description import AdapterDescription
from tensorfact.storage.files import read_header, read_tensors, write_tensors
from tests.bundled import FROZEN, VERA, X, nano, plan
from tests.helpers import Tiny, bits, draw, ids, infer, layers, layers_plan, randomise, refused, state_bits, untouched
from tests.storage.saved import PLAN, base


def rewritten(
    path: Path, words: Mapping[str, Any] | None = None, tensors: Mapping[str, Tensor] | None = None, drop: str = ""
) -> Path:
    """Write a file again, well-formed and with a right digest, but with another content: somebody else's file."""
    header, held = read_header(path), {**read_tensors(path), **(tensors or {})}
    held.pop(drop, None)
    metadata = {**header.metadata, **(words or {})}
    metadata.pop(drop, None)
    write_tensors(path, held, metadata)
    return path


# -------------------------------------------------------------------------------------------------------- what it holds


def test_a_file_describes_the_adapter_without_a_model(saved: Path) -> None:
    file = AdapterDescription.read(saved)
    assert file.plan == PLAN
    assert file.formats == {"g": TensorTrain(2)}
    assert file.scales == {"g": 0.5}
    assert file.dropout == 0.1
    assert file.shapes == {
        "factors.g.U": (4, 2), "factors.g.S1": (2, 4, 2), "factors.g.V": (2, 4),
        "head.head.weight": (3, 4), "head.head.bias": (3,),
    }  # fmt: skip
    assert {name: tuple(t.shape) for name, t in read_tensors(saved).items()} == file.shapes


def test_formats_and_scales_that_differ_by_group_are_stored_apart(tmp_path: Path) -> None:
    proj = Group("proj", "in out", (Rule("blocks.{layer}.proj.weight", "out in"),), partition="layer")
    plan = TensorizationPlan((*PLAN.groups, proj))
    formats = {"g": CP(2), "proj[0]": MatrixBatch(1), "proj[1]": Tucker((1, 2))}
    model = base()
    adapter = adapt(model, plan, formats, scale={"g": 1.0, "proj": -2.0})
    draw(adapter)
    adapter.save(tmp_path / "file")
    twin = base()
    other = load_adapter(twin, tmp_path / "file")
    assert (other.formats, other.scales) == (adapter.formats, adapter.scales)
    assert torch.equal(infer(twin, ids()), infer(model, ids()))


# ------------------------------------------------------------------------------------------------------------- refusals


def test_another_base_model_is_refused_with_both_fingerprints(saved: Path) -> None:
    mine, other = adapt(base(), PLAN, TensorTrain(2)).fingerprint, base(1)
    theirs = adapt(base(1), PLAN, TensorTrain(2)).fingerprint
    assert mine != theirs
    with untouched(other), refused(FingerprintError, str(mine), str(theirs), "check_base=False"):
        load_adapter(other, saved)
    with refused(FingerprintError, str(mine), str(theirs)):
        AdapterState.load(saved, other)
    AdapterState.load(saved, other, check_base=False)
    load_adapter(other, saved, check_base=False)


def test_a_base_that_was_merged_is_another_base(saved: Path) -> None:
    model = base()
    adapter = load_adapter(model, saved)
    adapter.merge()
    adapter.remove()
    with untouched(model), refused(FingerprintError):
        load_adapter(model, saved)


def test_a_model_of_another_size_is_refused(saved: Path) -> None:
    model = randomise(Tiny(width=6))
    with untouched(model), pytest.raises(CheckpointError):
        load_adapter(model, saved)
    with untouched(model), refused(CheckpointError, "tensor 'g'", "in=4", "in=6"):
        load_adapter(model, saved, check_base=False)


def test_a_head_of_another_size_is_refused(saved: Path) -> None:
    model = base()
    model.head = nn.Linear(4, 5)
    with untouched(model), refused(CheckpointError, "head.bias", "(5,)", "(3,)", "num_classes"):
        load_adapter(model, saved)


def test_a_model_without_the_head_is_refused(saved: Path) -> None:
    model = base()
    model.head = nn.Identity()
    with untouched(model), refused(CheckpointError, "head.bias"):
        load_adapter(model, saved)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    model = base()
    write_tensors(tmp_path / "file", {"w": torch.zeros(2)}, {"kind": "training"})
    with untouched(model), refused(CheckpointError, "'adapter'", "'training'", fix=False):
        load_adapter(model, tmp_path / "file")


def body(**changes: Any) -> dict[str, Any]:
    """Return values of the saved adapter's description, to replace its own."""
    return changes


def each(value: Any) -> dict[str, Any]:
    return {"each": {"g": value}}


def plan_json(old: str, new: str) -> dict[str, Any]:
    text = PLAN.to_json()
    assert old in text
    return {"plan": json.loads(text.replace(old, new))}


FOREIGN: dict[str, Callable[[Path], Path]] = {
    "no plan": lambda p: rewritten(p, drop="plan"),
    "no formats": lambda p: rewritten(p, drop="formats"),
    "no scales": lambda p: rewritten(p, drop="scales"),
    "no fingerprint": lambda p: rewritten(p, drop="fingerprint"),
    "formats is a list": lambda p: rewritten(p, {"formats": []}),
    "formats is a number": lambda p: rewritten(p, body(formats=3)),
    "formats is empty": lambda p: rewritten(p, body(formats={})),
    "format of no name": lambda p: rewritten(p, body(formats={"all": {"rank": 2}})),
    "format unknown": lambda p: rewritten(p, body(formats={"all": {"name": "ttt", "rank": 2}})),
    "format with an unknown option": lambda p: rewritten(p, body(formats=each({"name": "tt", "rank": 2, "x": 1}))),
    "format of another tensor": lambda p: rewritten(p, body(formats={"each": {"h": {"name": "tt", "rank": 2}}})),
    "rank too high": lambda p: rewritten(p, body(formats=each({"name": "tt", "rank": 5}))),
    "rank enormous": lambda p: rewritten(p, body(formats=each({"name": "cp", "rank": 10**12}))),
    "rank of another file": lambda p: rewritten(p, body(formats=each({"name": "tt", "rank": 3}))),
    "rank is zero": lambda p: rewritten(p, body(formats=each({"name": "tt", "rank": 0}))),
    "order is a number": lambda p: rewritten(p, body(formats=each({"name": "tt", "rank": 2, "order": 5}))),
    "scale is text": lambda p: rewritten(p, body(scales={"all": "x"})),
    "scale is NaN": lambda p: rewritten(p, body(scales={"all": float("nan")})),
    "scale is infinite": lambda p: rewritten(p, body(scales=each(float("inf")))),
    "scale of another tensor": lambda p: rewritten(p, body(scales={"each": {"h": 1.0}})),
    "dropout is 1": lambda p: rewritten(p, body(dropout=1)),
    "dropout is a list": lambda p: rewritten(p, body(dropout=[])),
    "plan is no JSON": lambda p: rewritten(p, {"plan": "plan"}),
    "plan with an unknown key": lambda p: rewritten(p, plan_json('"name":"g"', '"name":"g","key":1')),
    "plan of another model": lambda p: rewritten(p, plan_json("qkv", "kqv")),
    "plan that contradicts itself": lambda p: rewritten(p, plan_json("(layer role) in out", "layer role in")),
    "plan that does not divide": lambda p: rewritten(p, plan_json('"q",null,"v"', '"q",null,"v","w","x"')),
    "a core is missing": lambda p: rewritten(p, drop="factors.g.V"),
    "a core has another shape": lambda p: rewritten(p, tensors={"factors.g.V": torch.zeros(4, 2)}),
    "a core too many": lambda p: rewritten(p, tensors={"factors.g.W": torch.zeros(1)}),
    "a tensor too many": lambda p: rewritten(p, tensors={"surprise": torch.zeros(1)}),
    "a nameless core": lambda p: rewritten(p, tensors={"factors.": torch.zeros(1)}),
    "a head too many": lambda p: rewritten(p, tensors={"head.blocks.0.nothing": torch.zeros(1)}),
    "a head in the plan": lambda p: rewritten(p, tensors={"head.blocks.0.qkv.weight": torch.zeros(12, 4)}),
}


def test_a_mode_of_size_one_is_read(tmp_path: Path) -> None:
    model, twin = layers(1), layers(1)
    twin.load_state_dict(model.state_dict())
    adapter = adapt(model, layers_plan(), TensorTrain(1))
    adapter.save(tmp_path / "a")
    assert [mode.size for mode in AdapterDescription.read(tmp_path / "a").modes["stack"]] == [1, 6, 6]
    assert state_bits(load_adapter(twin, tmp_path / "a")) == state_bits(adapter)


@pytest.mark.parametrize("last", [["out", 0, "out"], ["out", -4, "out"], ["out", 4, "right"], None])
def test_modes_without_a_size_or_a_side_are_not_read(saved: Path, last: list[Any] | None) -> None:
    modes = [["(layer role)", 4, "stack"], ["in", 4, "in"], last] if last else []
    with refused(CheckpointError, "its description cannot be read", "modes"):
        AdapterDescription.read(rewritten(saved, body(modes=each(modes))))


@pytest.mark.parametrize("name", FOREIGN)
def test_a_well_formed_file_of_nonsense_is_refused(saved: Path, name: str) -> None:
    """Its digest is right, so the error says what is wrong with it: by the plan, the format, the sizes."""
    model = base()
    with untouched(model), pytest.raises(TensorfactError):
        load_adapter(model, FOREIGN[name](saved))


@dataclasses.dataclass(frozen=True)
class Nameless(CP):
    """A format that was not registered."""


def test_a_format_without_a_name_is_not_saved(tmp_path: Path) -> None:
    adapter = adapt(base(), PLAN, Nameless(1))
    with refused(FormatError, "Nameless", "register_format"):
        adapter.save(tmp_path / "file")
    assert not list(tmp_path.iterdir())


# --------------------------------------------------------------------------------------------------------------- frozen


@pytest.mark.sampled(4)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", FROZEN)
def test_a_file_leaves_out_what_can_be_drawn_again(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = nano(dtype)
    adapter = adapt(model, plan(), FROZEN[kind], train_head=False)  # no seed: it is drawn, and stored
    draw(adapter)
    adapter.save(tmp_path / "a.safetensors")
    stored = read_tensors(tmp_path / "a.safetensors")
    assert sum(t.numel() for t in stored.values()) == adapter.num_parameters
    size = 8 if dtype == torch.float64 else 4
    assert (tmp_path / "a.safetensors").stat().st_size <= adapter.num_parameters * size + 4096
    loaded = nano(dtype)
    again = load_adapter(loaded, tmp_path / "a.safetensors")
    assert state_bits(again) == state_bits(adapter)
    assert bits(infer(loaded, X.to(dtype))) == bits(infer(model, X.to(dtype)))
    assert {n: p.requires_grad for n, p in again.named_parameters()} == {
        n: p.requires_grad for n, p in adapter.named_parameters()
    }


def test_a_frozen_core_that_was_changed_is_stored(tmp_path: Path) -> None:
    adapter = adapt(nano(), plan(), FROZEN["frozen"], seed=0)
    with torch.no_grad():
        adapter.named_cores()["encoder.U"].mul_(2)
    adapter.save(tmp_path / "a.safetensors")
    assert "factors.encoder.U" in read_tensors(tmp_path / "a.safetensors")
    assert state_bits(load_adapter(nano(), tmp_path / "a.safetensors")) == state_bits(adapter)


def test_several_tensors_are_drawn_in_their_order(tmp_path: Path) -> None:
    whole = plan_for(lab.nano(), mlp="whole")
    adapter = adapt(nano(), whole, {"encoder_mlp": VERA, "encoder": TensorTrain(3)}, seed=7)
    adapter.save(tmp_path / "a.safetensors")
    assert state_bits(load_adapter(nano(), tmp_path / "a.safetensors")) == state_bits(adapter)


def _edited(path: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    metadata = dict(read_header(path).metadata)
    metadata = json.loads(json.dumps(metadata))
    edit(metadata)
    write_tensors(path, read_tensors(path), metadata)
    return path


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    "edit",
    [
        lambda m: m.update(seed=1),
        lambda m: m["drawn"].update(digest="0" * 16),
        lambda m: m["drawn"].update(names=[]),
        lambda m: m["drawn"].update(names=["factors.encoder.D1"]),
        lambda m: m["drawn"].update(names=["nothing"]),
        lambda m: m.pop("drawn"),
        lambda m: m["drawn"].pop("digest"),
        lambda m: m.update(seed=None),
        lambda m: m.update(seed="x"),
        lambda m: m.update(seed=-(1 << 80)),
        lambda m: m.update(extents={"all": {"in": 0}}),
        lambda m: m.update(subtracts_start=True),
    ],
)
def test_a_file_that_says_otherwise_is_refused(edit: Callable[[dict[str, Any]], object], tmp_path: Path) -> None:
    adapt(nano(), plan(), VERA, seed=0).save(tmp_path / "a.safetensors")
    path, model = _edited(tmp_path / "a.safetensors", edit), nano()
    with untouched(model), refused(CheckpointError, fix=False):
        load_adapter(model, path)


def test_a_file_cannot_ask_for_more_than_it_may(tmp_path: Path) -> None:
    adapt(nano(), plan(), VERA, seed=0).save(tmp_path / "a.safetensors")
    for size in ((1 << 24) + 1, 1 << 40):  # of the 16 components, which are more than 1 GiB in fp32
        huge = [["(layer role)", 24, "stack"], ["in", size, "in"], ["out", 96, "out"]]
        path = _edited(tmp_path / "a.safetensors", functools.partial(dict.update, modes={"all": huge}))
        with refused(CheckpointError, "damaged", fix=False):
            AdapterDescription.read(path)


def test_a_description_is_read_without_drawing_what_the_file_leaves_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapt(nano(), plan(), VERA, seed=0).save(tmp_path / "a.safetensors")
    monkeypatch.setattr(description, "fresh", lambda *_: pytest.fail("drawn"))
    assert AdapterDescription.read(tmp_path / "a.safetensors").seed == 0
