"""Adapters saved and loaded: the same bits come back, damage is found, a failure leaves all as it was."""

from __future__ import annotations

import dataclasses
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from tensorfact import (
    CP,
    Adapter,
    AdapterState,
    Format,
    Group,
    MatrixBatch,
    Rule,
    TensorizationPlan,
    TensorTrain,
    adapt,
    load_adapter,
)
from tensorfact.errors import AdaptError, CheckpointError, FingerprintError, TensorfactError
from tensorfact.lab import nano
from tensorfact.storage import files
from tensorfact.storage.description import AdapterDescription
from tensorfact.storage.files import read_header, read_tensors, write_tensors
from tests.helpers import (
    TOLERANCE,
    TT,
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
    stacked,
    untouched,
)
from tests.storage.saved import PLAN, base

# -------------------------------------------------------------------------------------------------------- what it holds


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


@pytest.mark.parametrize("head", [None, {"head.bias": torch.ones(5)}, {}], ids=["its own", "another", "none"])
def test_replaced_factors_describe_themselves(saved: Path, tmp_path: Path, head: dict[str, Tensor] | None) -> None:
    state, format = AdapterState.load(saved), MatrixBatch(1)
    shapes = format.network(state.description.modes["g"]).shapes()
    cores = {name: torch.randn(shape) for name, shape in shapes.items()}
    found = state.replaced({"g": format}, {"g": cores}, head)
    found.check()
    assert found.num_parameters == sum(core.numel() for core in cores.values())
    assert not found.start("g")
    found.save(tmp_path / "a")
    again = AdapterState.load(tmp_path / "a")
    for each in (found, again):
        assert {name: bits(core) for name, core in each.cores("g").items()} == {n: bits(c) for n, c in cores.items()}
        expected = state.head if head is None else head
        assert {name: bits(value) for name, value in each.head.items()} == {n: bits(v) for n, v in expected.items()}
    assert again.description == found.description


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


# ------------------------------------------------------------------------------------------------------------- refusals


def test_an_adapted_model_is_refused(saved: Path) -> None:
    model = base()
    load_adapter(model, saved)
    with untouched(model), refused(AdaptError, "adapted already"):
        load_adapter(model, saved)


@pytest.mark.parametrize("name", ["missing", "."])
def test_a_path_that_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    model = base()
    with untouched(model), refused(CheckpointError, str(tmp_path / name)):
        load_adapter(model, tmp_path / name)


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


# --------------------------------------------------------------------------------------------------------------- damage


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
    fixture = Path(__file__).parents[1] / "fixtures" / "adapter.safetensors"
    stored = load_file(fixture)
    adapter = load_adapter(nano(), fixture)
    loaded = adapter.state.tensors
    assert loaded.keys() == stored.keys()
    assert all(torch.equal(loaded[name], stored[name]) for name in stored)
    adapter.save(tmp_path / "again.safetensors")
    again, before = read_header(tmp_path / "again.safetensors").metadata, read_header(fixture).metadata
    assert again.pop("fingerprint") != before.pop("fingerprint")  # the kind of later versions
    assert before.pop("extents") == {"all": {"(layer role)": 1, "in": 96, "out": 96}}
    assert again.pop("extents") == {"all": {"(layer role)": 1}}  # later versions leave out the sizes of whole modes
    assert again == before
    assert AdapterDescription.read(tmp_path / "again.safetensors").extents == adapter.state.description.extents
    again_loaded = load_file(tmp_path / "again.safetensors")
    assert all(torch.equal(again_loaded[name], stored[name]) for name in stored)


def test_a_file_of_version_0_1_is_refused_for_another_base_as_it_was_then() -> None:
    fixture = Path(__file__).parents[1] / "fixtures" / "adapter.safetensors"
    other = nano()
    with torch.no_grad():
        other.get_parameter("blocks.0.attn.qkv.weight").mul_(1.5)
    with refused(FingerprintError, "the adapted weights", "check_base=False"):
        load_adapter(other, fixture)


def test_a_file_is_opened_for_its_header_and_never_again(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []
    opening = files._opened

    def counted(path: Path) -> object:
        opened.append(path)
        return opening(path)

    monkeypatch.setattr(files, "_opened", counted)
    load_adapter(base(), saved)
    assert len(opened) == 1
    AdapterState.load(saved)
    assert len(opened) == 2
    AdapterDescription.read(saved)
    assert len(opened) == 3


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


def test_a_file_whose_cores_are_not_its_format_s_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = stacked()[1].state
    other = dataclasses.replace(state.description, formats={"stack": TensorTrain(2)})
    with refused(CheckpointError, "'factors.stack.", "does not match the description"):
        AdapterState(other, state.tensors).save(tmp_path / "a.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr(AdapterState, "check", lambda *_: None)
        AdapterState(other, state.tensors).save(tmp_path / "a.safetensors")
    with refused(CheckpointError, "does not match its description", "'factors.stack."):
        AdapterState.load(tmp_path / "a.safetensors")


def _without(state: AdapterState, name: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in state.tensors.items() if key != name}


WRONG: dict[str, Callable[[AdapterState], dict[str, Tensor]]] = {
    "a core of another shape": lambda s: {**s.tensors, "factors.g.V": torch.zeros(2, 9)},
    "a core that would be broadcast": lambda s: {**s.tensors, "factors.g.V": torch.zeros(4)},
    "a core is missing": lambda s: _without(s, "factors.g.V"),
    "a core too many": lambda s: {**s.tensors, "factors.g.W": torch.zeros(1)},
    "a core of complex numbers": lambda s: {**s.tensors, "factors.g.V": torch.zeros(2, 4, dtype=torch.complex64)},
    "a core of integers": lambda s: {**s.tensors, "factors.g.V": torch.zeros(2, 4, dtype=torch.int64)},
    "a core without numbers": lambda s: {**s.tensors, "factors.g.V": torch.zeros(2, 4, device="meta")},
    "a head is missing": lambda s: _without(s, "head.head.bias"),
    "a head of another shape": lambda s: {**s.tensors, "head.head.bias": torch.zeros(5)},
}


@pytest.mark.parametrize("name", WRONG)
def test_a_state_whose_tensors_are_not_those_that_it_describes_is_refused(saved: Path, name: str) -> None:
    state, model = AdapterState.load(saved), base()
    with untouched(model), refused(CheckpointError):
        load_adapter(model, AdapterState(state.description, WRONG[name](state)))


def test_a_file_of_complex_numbers_is_refused(saved: Path) -> None:
    header, tensors = read_header(saved), read_tensors(saved)
    tensors["factors.g.V"] = tensors["factors.g.V"].to(torch.complex64)
    write_tensors(saved, tensors, header.metadata)
    model = base()
    with untouched(model), refused(CheckpointError, "complex64", "factors.g.V"):
        load_adapter(model, saved)


class Elsewhere:
    """A path that is neither a str nor a `Path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


def test_any_path_will_do(saved: Path) -> None:
    first, *others = (load_adapter(base(), path) for path in (saved, str(saved), Elsewhere(saved)))
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int32, torch.complex64])
def test_a_core_of_another_dtype_is_refused(saved: Path, dtype: torch.dtype) -> None:
    state = AdapterState.load(saved)
    name = next(name for name in state.tensors if name.startswith("factors."))
    odd = AdapterState(state.description, {**state.tensors, name: state.tensors[name].to(dtype)})
    with refused(CheckpointError, name, "floating-point"):
        load_adapter(base(), odd)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_file_with_nan_or_infinity_is_refused_by_name(saved: Path, tmp_path: Path, value: str) -> None:
    state = AdapterState.load(saved)
    name = next(name for name in state.tensors if name.startswith("factors."))
    tensors = {**state.tensors, name: torch.full_like(state.tensors[name], float(value))}
    write_tensors(tmp_path / "nan", tensors, read_header(saved).metadata)
    model = base()
    with untouched(model), refused(CheckpointError, name, "NaN or infinity"):
        load_adapter(model, tmp_path / "nan")


@pytest.mark.parametrize(
    "formats", [(TensorTrain(1),) * 2, (TensorTrain(1), TensorTrain(2)), (TT, CP(3), MatrixBatch(1))]
)
def test_threads_that_save_adapters_to_one_path_leave_one_of_them_whole(
    tmp_path: Path, formats: tuple[Format, ...]
) -> None:
    path, errors = tmp_path / "file", list[Exception]()
    adapters = [adapt(base(), PLAN, format, seed=at) for at, format in enumerate(formats)]
    whole = [{name: bits(tensor) for name, tensor in adapter.state.tensors.items()} for adapter in adapters]

    def write(adapter: Adapter) -> None:
        try:
            for _ in range(5):
                adapter.save(path)
                assert {name: bits(tensor) for name, tensor in AdapterState.load(path).tensors.items()} in whole
        except Exception as error:  # a thread's own traceback is lost
            errors.append(error)

    threads = [threading.Thread(target=write, args=(adapter,)) for adapter in adapters]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
