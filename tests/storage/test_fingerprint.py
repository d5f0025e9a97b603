"""Fingerprints: the same base in another dtype is accepted, another base is refused by the part that differs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import timm
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from tensorfact import TensorTrain, adapt, combine, load_adapter, plan_for
from tensorfact.errors import CheckpointError, FingerprintError
from tensorfact.storage import fingerprint
from tensorfact.storage.description import AdapterDescription
from tensorfact.storage.files import read_header, write_tensors
from tensorfact.storage.fingerprint import Fingerprint, SampledFingerprint, _simple, read_fingerprint, sampled_digest
from tests.helpers import refused, untouched

Weights = Mapping[str, Tensor]
ADAPTED, OTHERS = "the adapted weights", "the weights that the plan does not cover"


def vit(seed: int = 0, classes: int = 5) -> nn.Module:
    torch.manual_seed(seed)
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "num_heads": 3, "depth": 2, "num_classes": classes}
    model: nn.Module = timm.create_model("vit_tiny_patch16_224", **options)
    return model.eval()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model = vit()
    adapt(model, plan_for(model), TensorTrain(2), seed=0).save(tmp_path / "a")
    return tmp_path / "a"


@st.composite
def weights(draw: st.DrawFn) -> dict[str, Tensor]:
    """Draw weights of several shapes and sizes; some are constant or zero."""
    shapes = draw(st.lists(st.lists(st.integers(1, 40), max_size=3).map(tuple), min_size=2, max_size=12))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    found = {}
    for at, shape in enumerate(shapes):
        size = draw(st.sampled_from([0.0, 1e-5, 0.02, 1.0, 30.0]))
        constant = draw(st.booleans())
        found[f"w{at}"] = torch.full(shape, size) if constant else torch.randn(shape, generator=generator) * size
    return found


# ------------------------------------------------------------------------------------------------------------ the sums


@given(weights(), st.sampled_from([torch.float16, torch.bfloat16, torch.float64]), st.booleans())
def test_a_change_of_dtype_is_no_other_base(base: dict[str, Tensor], dtype: torch.dtype, back: bool) -> None:
    """A tensor of one or two values may be rounded to few binary digits by chance: nothing shows then that it was."""
    moved = {name: tensor.to(dtype) for name, tensor in base.items()}
    moved = {name: tensor.float() for name, tensor in moved.items()} if back else moved
    assume(not any(_simple(moved[name]) and not _simple(tensor) for name, tensor in base.items()))
    one, two = Fingerprint.of(base, ["w0"]), Fingerprint.of(moved, ["w0"])
    assert one.difference(two) == two.difference(one) == ""


@given(weights(), st.data())
def test_one_tensor_of_another_value_is_another_base(base: dict[str, Tensor], data: st.DataObject) -> None:
    changes: list[Callable[[Tensor], Tensor]] = [
        lambda t: t * 3 + 0.1,
        lambda t: t + torch.randn(t.shape, generator=torch.Generator().manual_seed(7)) * (t.std(correction=0) + 0.1),
        lambda t: torch.where(torch.arange(t.numel()).reshape(t.shape) % 4 > 0, 0.0, t + 0.1),
    ]
    name, change = data.draw(st.sampled_from(sorted(base))), data.draw(st.sampled_from(changes))
    one, two = Fingerprint.of(base, ["w0"]), Fingerprint.of({**base, name: change(base[name])}, ["w0"])
    assert one.difference(two) == (ADAPTED if name == "w0" else OTHERS)


@given(weights())
def test_it_reads_back_equal_and_is_the_same_again(base: dict[str, Tensor]) -> None:
    mine = Fingerprint.of(base, ["w0"])
    assert read_fingerprint(mine.plain()) == mine == mine.again(base, ["w0"])
    assert str(mine) == str(read_fingerprint(mine.plain()))


def test_names_and_places_of_values_count() -> None:
    weight = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    mine = Fingerprint.of({"w": weight}, ["w"])
    for other in ({"v": weight}, {"w": weight.flip(0)}, {"w": weight.T}, {"w": weight.reshape(6, 8)}, {"w": -weight}):
        assert mine.difference(Fingerprint.of(other, [*other])) == ADAPTED


def test_the_sums_are_the_same_on_every_machine() -> None:
    """Known values: a file that is written here must be read anywhere."""
    found = Fingerprint.of({"w": torch.arange(12.0).reshape(3, 4), "b": torch.ones(3)}, ["w"])
    assert found.adapted[:4] == KNOWN
    assert set(map(abs, found.others[8:])) == {round(math.log(1.01), 6)}


KNOWN = (-0.355097, -0.532645, 2.929546, 0.088774)


def test_a_kernel_is_summed_by_its_last_dimension() -> None:
    kernel = torch.arange(120.0).sqrt()
    found = {Fingerprint.of({"k": kernel.reshape(shape)}, ["k"]) for shape in ((2, 3, 5, 4), (6, 5, 4), (30, 4))}
    assert len(found) == 1


@pytest.mark.parametrize("shape", [(40,), (5, 20), (50, 2), (3, 4, 5)])
@pytest.mark.parametrize("chunk", [1, 7, 30])
def test_tensors_are_read_in_chunks_of_any_size(
    shape: tuple[int, ...], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = {"w": torch.randn(shape, generator=torch.Generator().manual_seed(0))}
    whole = Fingerprint.of(base, ["w"])
    monkeypatch.setattr(fingerprint, "_CHUNK", chunk)
    assert Fingerprint.of(base, ["w"]).adapted == pytest.approx(whole.adapted, abs=2e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("stored", [torch.float32, torch.float64])
def test_values_that_were_rounded_once_keep_the_precision_of_it(dtype: torch.dtype, stored: torch.dtype) -> None:
    weight = torch.randn(60, 60, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = Fingerprint.of({"w": weight.to(dtype).to(stored)}, ["w"])
    assert found.eps == float(f"{torch.finfo(dtype).eps:.3g}")
    few = {"one": torch.ones(3), "half": torch.full((3,), 0.5), "tiny": weight.bfloat16().float() * 2.0**-14}
    assert Fingerprint.of(few, []).eps == float(f"{torch.finfo(torch.float32).eps:.3g}")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mask", torch.ones(4)),
        ("index", torch.arange(4) + 1),
        ("index", torch.tensor([3, 2, 1, 0])),
        ("flags", torch.tensor([True, True])),
        ("spectrum", torch.ones(3, dtype=torch.complex64) * 1j),
        ("count", torch.tensor(6)),
    ],
)
def test_tensors_of_every_kind_count(name: str, value: Tensor) -> None:
    base = {"w": torch.randn(9, 9), "mask": torch.full((4,), -torch.inf), "index": torch.arange(4)}
    base |= {"flags": torch.tensor([True, False]), "spectrum": torch.ones(3, dtype=torch.complex64)}
    base |= {"count": torch.tensor(5)}
    mine = Fingerprint.of(base, ["w"])
    assert mine.difference(Fingerprint.of({k: t.clone() for k, t in base.items()}, ["w"])) == ""
    assert mine.difference(Fingerprint.of({**base, name: value}, ["w"])) == OTHERS


def test_one_coarse_tensor_does_not_blur_the_others() -> None:
    """A buffer of a few digits tells nothing of the precision of the weights."""
    base = {f"w{at}": torch.randn(40, 40) for at in range(40)} | {"norm": torch.rand(40) + 0.5}
    base["mean"] = torch.tensor([127.5])
    for dtype in (torch.float32, torch.bfloat16):
        other = {name: tensor.to(dtype) for name, tensor in base.items()}
        other["norm"] = (base["norm"] * 1.1).to(dtype)
        assert Fingerprint.of(base, ["w0"]).difference(Fingerprint.of(other, ["w0"])) == OTHERS


def test_a_tensor_without_values_is_refused() -> None:
    with refused(FingerprintError, "'w'", "meta device", "check_base=False"):
        Fingerprint.of({"w": torch.empty(3, device="meta")}, ["w"])


# ------------------------------------------------------------------------------------------------------- on real models


@pytest.mark.parametrize(
    "cast",
    [nn.Module.half, nn.Module.bfloat16, nn.Module.double, lambda m: m.half().float(), lambda m: m.bfloat16().float()],
    ids=["fp16", "bf16", "fp64", "fp16 and back", "bf16 and back"],
)
def test_a_base_in_another_dtype_loads(saved: Path, cast: Callable[[nn.Module], nn.Module]) -> None:
    load_adapter(cast(vit()), saved)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("names", "change", "part"),
    [
        ("norm", lambda t: t * 3, OTHERS),
        ("embed", lambda t: t * 3, OTHERS),
        ("cls_token", lambda t: t + 1, OTHERS),
        ("norm1.bias", lambda t: t + 0.5, OTHERS),
        ("mlp.fc1.weight", lambda t: torch.nn.functional.dropout(t, 0.8), ADAPTED),
        ("blocks.0.attn.proj.weight", lambda t: t * 1.1, ADAPTED),
        ("attn.qkv.weight", lambda t: t.flip(0), ADAPTED),
        ("attn.qkv.bias", lambda t: t + 0.01, OTHERS),
    ],
)
def test_another_base_is_refused_by_the_part_that_differs(
    saved: Path, names: str, change: Callable[[Tensor], Tensor], part: str, dtype: torch.dtype
) -> None:
    other = vit().to(dtype)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if names in name:
                parameter.copy_(change(parameter))
    with untouched(other), refused(FingerprintError, part, "check_base=False"):
        load_adapter(other, saved)


def test_a_head_that_the_file_stores_does_not_count(saved: Path) -> None:
    other = vit()
    nn.init.normal_(other.get_submodule("head").get_parameter("weight"))
    load_adapter(other, saved)


def test_a_frozen_head_counts(tmp_path: Path) -> None:
    model, other = vit(), vit()
    adapt(model, plan_for(model), TensorTrain(2), train_head=False).save(tmp_path / "a")
    nn.init.normal_(other.get_submodule("head").get_parameter("weight"))
    with refused(FingerprintError, OTHERS):
        load_adapter(other, tmp_path / "a")


def test_adapters_of_a_base_in_two_dtypes_are_combined(saved: Path, tmp_path: Path) -> None:
    half, other = vit().bfloat16(), vit(1)
    adapt(half, plan_for(half), TensorTrain(2)).save(tmp_path / "b")
    adapt(other, plan_for(other), TensorTrain(2)).save(tmp_path / "c")
    combine({saved: 0.5, tmp_path / "b": 0.5})
    with refused(FingerprintError, ADAPTED):
        combine({saved: 0.5, tmp_path / "c": 0.5})


# ---------------------------------------------------------------------------------------------------------- older files


def test_an_older_file_keeps_its_check(saved: Path, tmp_path: Path) -> None:
    model = vit()
    old = sampled_digest(dict(model.named_parameters()), plan_for(model).resolve(model).parameters)
    header = read_header(saved)
    write_tensors(tmp_path / "old", header.tensors(), {**header.metadata, "fingerprint": old})
    assert AdapterDescription.read(tmp_path / "old").fingerprint == SampledFingerprint(old)
    load_adapter(model, tmp_path / "old")
    with refused(FingerprintError, ADAPTED, old):
        load_adapter(vit(1), tmp_path / "old")
    with refused(FingerprintError, "older version", "check_base=False"):
        combine({saved: 0.5, tmp_path / "old": 0.5})


def test_the_digest_knows_names_shapes_and_values() -> None:
    weight = torch.randn(64, 64)
    known = sampled_digest({"w": weight}, ["w"])
    assert known == sampled_digest({"w": weight.bfloat16(), "v": weight}, ["w"])
    others = [{"w": weight.T}, {"w": weight.reshape(32, 128)}, {"w": weight + 0.1}, {"w": weight[:, :63]}]
    found = {known, sampled_digest({"v": weight}, ["v"]), *(sampled_digest(other, ["w"]) for other in others)}
    assert len(found) == 6


def test_the_digest_in_an_older_file_is_known() -> None:
    weights = {"w": torch.arange(5000.0).reshape(50, 100), "b": torch.ones(3)}
    assert sampled_digest(weights, ["w", "b"]) == "5c052117964523d9"


@pytest.mark.parametrize(
    "stored",
    [None, 5, [], {}, {"adapted": [1], "others": [], "eps": 0}, {"adapted": [{}] * 16, "others": [0] * 16, "eps": 0}],
    ids=str,
)
def test_a_damaged_fingerprint_is_refused(saved: Path, tmp_path: Path, stored: object) -> None:
    header = read_header(saved)
    write_tensors(tmp_path / "odd", header.tensors(), {**header.metadata, "fingerprint": stored})
    with refused(CheckpointError, "damaged"):
        AdapterDescription.read(tmp_path / "odd")
