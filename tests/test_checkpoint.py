"""Adapter files: what they hold, and every way in which one is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
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
    load_adapter,
)
from tensorfact.errors import AdaptError, CheckpointError, FingerprintError, FormatError, TensorfactError
from tensorfact.lab import nano
from tensorfact.storage import files
from tensorfact.storage.description import AdapterDescription, fingerprint
from tensorfact.storage.files import read_header, read_tensors, write_tensors

from .helpers import (
    TOLERANCE,
    Tiny,
    bits,
    difference,
    draw,
    ids,
    infer,
    layers,
    layers_plan,
    randomise,
    refused,
    untouched,
)

PLAN = TensorizationPlan(
    (
        Group(
            "g",
            "(layer role) in out",
            (Rule("blocks.{layer}.qkv.weight", "(role out) in", role=["q", None, "v"]),),
        ),
    )
)


def base(seed: int = 0) -> nn.Module:
    return randomise(Tiny(), seed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with one saved adapter, and room for copies of it."""
    path = tmp_path_factory.mktemp("adapters")
    adapter = adapt(base(), PLAN, TensorTrain(2), scale=0.5, dropout=0.1)
    draw(adapter)
    adapter.save(path / "saved")
    return path


@pytest.fixture
def saved(folder: Path, tmp_path: Path) -> Path:
    """Return a copy of the saved adapter."""
    return Path(shutil.copy(folder / "saved", tmp_path / "copy"))


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


def test_loading_gives_options_factors_and_head_back(saved: Path) -> None:
    model = base()
    adapter = load_adapter(model, saved)
    assert (adapter.plan, adapter.formats, adapter.scales, adapter.dropout) == (
        PLAN, {"g": TensorTrain(2)}, {"g": 0.5}, 0.1,
    )  # fmt: skip
    tensors = read_tensors(saved)
    assert all(bits(core) == bits(tensors[f"factors.{name}"]) for name, core in adapter.named_cores().items())
    assert bits(model.state_dict()["head.weight"]) == bits(tensors["head.head.weight"])
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {"head.weight", "head.bias"} < trained


def content(path: Path) -> object:
    """Return everything a file says; the order of its metadata is safetensors' own."""
    return read_header(path), {name: bits(tensor) for name, tensor in read_tensors(path).items()}


def test_saving_what_was_loaded_writes_the_same_file(saved: Path, tmp_path: Path) -> None:
    load_adapter(base(), saved).save(tmp_path / "again")
    assert content(tmp_path / "again") == content(saved)


def test_loading_leaves_the_random_state_alone(saved: Path) -> None:
    model = base()
    state = torch.get_rng_state()
    load_adapter(model, saved)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_merged_adapter_saves_the_same_file(tmp_path: Path) -> None:
    adapter = adapt(base(), PLAN, TensorTrain(2))
    draw(adapter)
    adapter.save(tmp_path / "before")
    adapter.merge()
    adapter.save(tmp_path / "merged")
    assert content(tmp_path / "before") == content(tmp_path / "merged")


def test_a_loaded_adapter_may_go_another_route(saved: Path) -> None:
    models = [base() for _ in range(2)]
    for model, route in zip(models, ("activation", "weight"), strict=True):
        adapter = load_adapter(model, saved, route=route)  # type: ignore[arg-type]
        assert {choice.route for choice in adapter.explain().choices} == {route}
    assert torch.allclose(infer(models[0], ids()), infer(models[1], ids()), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_file_loads_onto_the_same_base_in_another_precision(saved: Path, dtype: torch.dtype) -> None:
    model, twin = base(), base().to(dtype)
    load_adapter(model, saved)
    adapter = load_adapter(twin, saved)
    assert {p.dtype for p in adapter.parameters()} == {torch.promote_types(dtype, torch.float32)}
    coarser = torch.bfloat16 if dtype == torch.bfloat16 else torch.float32
    assert difference(infer(twin, ids()), infer(model, ids())) < TOLERANCE[coarser]


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


def test_the_fingerprint_knows_names_shapes_and_values() -> None:
    weight = torch.randn(64, 64)
    names = ["w"]
    known = fingerprint({"w": weight}, names)
    assert fingerprint({"w": weight.clone()}, names) == known
    assert fingerprint({"w": weight.to(torch.bfloat16)}, names) == known
    assert fingerprint({"w": weight, "v": weight}, names) == known
    others = [{"w": weight.T}, {"w": weight.reshape(32, 128)}, {"w": weight + 0.1}, {"w": weight[:, :63]}]
    assert len({known, fingerprint({"v": weight}, ["v"]), *(fingerprint(other, names) for other in others)}) == 6


# ----------------------------------------------------------------------------------------------------------- refusals


def test_another_base_model_is_refused_with_both_fingerprints(saved: Path) -> None:
    mine, other = adapt(base(), PLAN, TensorTrain(2)).fingerprint, base(1)
    theirs = adapt(base(1), PLAN, TensorTrain(2)).fingerprint
    assert mine != theirs
    with untouched(other), refused(FingerprintError, mine, theirs, "check_base=False"):
        load_adapter(other, saved)
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


def test_an_adapted_model_is_refused(saved: Path) -> None:
    model = base()
    load_adapter(model, saved)
    with untouched(model), refused(AdaptError, "adapted already"):
        load_adapter(model, saved)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    model = base()
    write_tensors(tmp_path / "file", {"w": torch.zeros(2)}, {"kind": "training"})
    with untouched(model), refused(CheckpointError, "'adapter'", "'training'", fix=False):
        load_adapter(model, tmp_path / "file")


@pytest.mark.parametrize("name", ["missing", "."])
def test_a_path_that_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    model = base()
    with untouched(model), refused(CheckpointError, str(tmp_path / name)):
        load_adapter(model, tmp_path / name)


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


def test_a_model_whose_head_was_taken_off_says_so_when_saving(tmp_path: Path) -> None:
    """timm's `reset_classifier(0)` replaces the head by nothing."""
    model = base()
    adapter = adapt(model, PLAN, TensorTrain(1))
    model.head = nn.Identity()
    with pytest.raises(TensorfactError):
        adapter.save(tmp_path / "file")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("where", ["missing/file", "."])
def test_a_failed_save_leaves_adapter_and_folder_as_they_were(tmp_path: Path, where: str) -> None:
    model = base()
    adapter = adapt(model, PLAN, TensorTrain(1))
    with untouched(model), refused(CheckpointError, str(tmp_path / where)):
        adapter.save(tmp_path / where)
    assert not list(tmp_path.iterdir())


# -------------------------------------------------------------------------------------------------------------- damage


@settings(max_examples=250)
@given(data=st.data())
def test_a_flipped_bit_is_never_loaded(folder: Path, data: st.DataObject) -> None:
    whole = bytearray((folder / "saved").read_bytes())
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    (folder / "flipped").write_bytes(whole)
    model = base()
    with untouched(model), pytest.raises(CheckpointError):
        load_adapter(model, folder / "flipped")


def test_a_flipped_bit_in_the_plan_is_a_damaged_file(saved: Path) -> None:
    """The plan is read before the digest is; a damaged one must not be taken for a plan of another model."""
    whole = saved.read_bytes()
    model = base()
    for old, new in ((b"qkv", b"qkw"), (b'rank\\":2', b'rank\\":6'), (b"(role out)", b"(role oqt)")):
        assert old in whole
        saved.write_bytes(whole.replace(old, new))
        with untouched(model), pytest.raises(CheckpointError):
            load_adapter(model, saved)


@settings(max_examples=60)
@given(data=st.data())
def test_a_truncated_file_is_never_loaded(folder: Path, data: st.DataObject) -> None:
    whole = (folder / "saved").read_bytes()
    (folder / "cut").write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    model = base()
    with untouched(model), refused(CheckpointError, str(folder / "cut")):
        load_adapter(model, folder / "cut")


def test_layers_of_a_sequential_are_saved_and_loaded_by_their_numbers(tmp_path: Path) -> None:
    model = randomise(layers(3))
    adapter = adapt(model, layers_plan(), TensorTrain(2))
    draw(adapter)
    adapter.save(tmp_path / "file")
    twin = randomise(layers(3))
    load_adapter(twin, tmp_path / "file")
    x = torch.randn(2, 6)
    assert torch.equal(infer(twin, x), infer(model, x))


def test_the_running_statistics_of_a_head_are_saved(tmp_path: Path) -> None:
    def build() -> nn.Module:
        torch.manual_seed(0)
        head = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 2))
        return nn.Sequential(OrderedDict(body=nn.Linear(6, 6), head=head))

    plan = TensorizationPlan((Group("g", "in out", (Rule("body.weight", "out in"),)),))
    model, twin, x = build(), build(), torch.randn(32, 6) * 3 + 1
    adapter = adapt(model, plan, TensorTrain(2), train_head="head", seed=0)
    model.train()(x)
    adapter.save(tmp_path / "file")
    load_adapter(twin, tmp_path / "file")
    assert torch.equal(infer(twin.eval(), x), infer(model.eval(), x))


def test_a_file_of_version_0_1_loads_bit_for_bit(tmp_path: Path) -> None:
    """The fixture was written by 0.1.0: a trained TT of the bundled model at rank 4, with its head."""
    fixture = Path(__file__).parent / "fixtures" / "adapter.safetensors"
    stored = load_file(fixture)
    adapter = load_adapter(nano(), fixture)
    loaded = adapter.state.tensors
    assert loaded.keys() == stored.keys()
    assert all(torch.equal(loaded[name], stored[name]) for name in stored)
    adapter.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == fixture.read_bytes()


def test_a_file_is_opened_for_its_header_and_for_its_tensors_and_never_again(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []
    opening = files._opened

    def counted(path: Path) -> object:
        opened.append(path)
        return opening(path)

    monkeypatch.setattr(files, "_opened", counted)
    load_adapter(base(), saved)
    assert len(opened) == 2
    AdapterState.load(saved)
    assert len(opened) == 4
    AdapterDescription.read(saved)
    assert len(opened) == 5


def test_a_file_that_does_not_fit_is_refused_before_a_tensor_is_read(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files.Header, "tensors", lambda header: pytest.fail("read"))
    model = randomise(Tiny(width=6))
    for check_base in (True, False):
        with untouched(model), pytest.raises(CheckpointError):
            load_adapter(model, saved, check_base=check_base)


def test_a_state_in_memory_is_held_against_the_model_as_a_file_is(saved: Path) -> None:
    state, model = AdapterState.load(saved), base(1)
    with untouched(model), refused(FingerprintError, "the adapter", "check_base=False"):
        load_adapter(model, state)
    first, second = (load_adapter(base(), source) for source in (saved, state))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    third = load_adapter(base(), first)  # and so may be the adapter of another model
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), third.parameters(), strict=True))
