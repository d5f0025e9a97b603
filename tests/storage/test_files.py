"""Files of tensors: what is written reads back, what is damaged is refused, what fails leaves the old file whole."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from tensorfact.errors import CheckpointError
from tensorfact.storage.files import (
    ENTRY,
    StoredTensors,
    _seal,
    read_header,
    read_plain,
    read_tensors,
    write_tensors,
)
from tensorfact.storage.writing import write_text
from tests.helpers import bits, refused

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool]
SOME = {"w": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2], dtype=torch.int64)}
WORDS: dict[str, Any] = {"kind": "test", "note": 'quotes " and ünïcode', "numbers": [1, 2.5, None, {"deep": True}]}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for examples that each overwrite the last one's file."""
    return tmp_path_factory.mktemp("files")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Return a small file."""
    write_tensors(tmp_path / "file", SOME, WORDS)
    return tmp_path / "file"


@given(
    st.dictionaries(
        st.text("ab._-/ü", min_size=1, max_size=5),
        st.tuples(st.lists(st.integers(0, 3), max_size=3), st.sampled_from(DTYPES)),
        max_size=4,
    ),
    st.dictionaries(st.text(max_size=5), JSON, max_size=3),
)
def test_what_is_written_reads_back_bit_for_bit(folder: Path, spec: dict[str, Any], words: dict[str, Any]) -> None:
    words.pop("sha256", None)
    tensors = {name: (torch.randn(shape) * 9).to(dtype) for name, (shape, dtype) in spec.items()}
    write_tensors(folder / "file", tensors, words)
    header, found = read_header(folder / "file"), read_tensors(folder / "file")
    assert header.metadata == words
    assert header.shapes == {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    assert {n: (bits(t), t.dtype, t.shape) for n, t in found.items()} == {
        n: (bits(t), t.dtype, t.shape) for n, t in tensors.items()
    }


def test_special_numbers_and_views_are_written_as_they_are(tmp_path: Path) -> None:
    base = torch.tensor([[0.0, -0.0, float("nan")], [float("inf"), 1e-45, 3.0]])
    tensors = {"whole": base, "view": base.T, "row": base[1], "parameter": torch.nn.Parameter(base)}
    write_tensors(tmp_path / "file", tensors, {})
    assert {n: bits(t) for n, t in read_tensors(tmp_path / "file").items()} == {n: bits(t) for n, t in tensors.items()}


def test_equal_contents_make_equal_files(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a", SOME, WORDS)
    write_tensors(tmp_path / "b", dict(reversed(list(SOME.items()))), dict(reversed(list(WORDS.items()))))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_stored_tensors_are_a_mapping_that_is_read_on_access(saved: Path) -> None:
    stored = StoredTensors(saved)
    assert {name: bits(tensor) for name, tensor in stored.items()} == {name: bits(t) for name, t in SOME.items()}
    assert stored.shapes == {"w": (2, 3), "b": (2,)}
    assert (len(stored), sorted(stored), list(stored.metadata)) == (2, ["b", "w"], [ENTRY])
    assert [name in stored for name in ("w", "b", "v")] == [True, True, False]
    with pytest.raises(KeyError, match="v"):
        stored["v"]
    saved.unlink()
    assert "w" in stored


def test_a_path_may_be_a_string(tmp_path: Path) -> None:
    write_tensors(str(tmp_path / "file"), SOME, WORDS)
    assert read_tensors(str(tmp_path / "file")).keys() == read_header(tmp_path / "file").shapes.keys()


# -------------------------------------------------------------------------------------------------------------- damage


def corrupted(whole: bytes, path: Path, read: Callable[[Path], object]) -> bool:
    """Return whether reading these bytes is refused as a damaged file."""
    path.write_bytes(whole)
    try:
        read(path)
    except CheckpointError:
        return True
    return False


def test_every_truncation_is_refused(saved: Path, tmp_path: Path) -> None:
    whole = saved.read_bytes()
    assert all(corrupted(whole[:length], tmp_path / "cut", read_tensors) for length in range(len(whole)))


def test_added_bytes_are_refused(saved: Path, tmp_path: Path) -> None:
    whole = saved.read_bytes()
    assert all(corrupted(whole + more, tmp_path / "long", read_tensors) for more in (b"\0", b"xyz", whole))


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_every_flipped_bit_is_refused(saved: Path, tmp_path: Path, every: bool) -> None:
    """By default one bit in each byte."""
    whole = bytearray(saved.read_bytes())
    silent = []
    for at in range(len(whole)):
        for bit in range(8) if every else (at % 8,):
            whole[at] ^= 1 << bit
            silent += [] if corrupted(bytes(whole), tmp_path / "flipped", read_tensors) else [(at, bit)]
            whole[at] ^= 1 << bit
    assert not silent


@settings(max_examples=300)
@given(st.binary(max_size=200), st.booleans())
def test_random_bytes_are_refused(folder: Path, noise: bytes, headed: bool) -> None:
    whole = len(noise).to_bytes(8, "little") + noise if headed else noise
    assert corrupted(whole, folder / "noise", read_tensors)
    assert corrupted(whole, folder / "noise", read_header)


def test_a_header_that_promises_more_than_the_file_holds_is_refused_before_it_costs_memory(tmp_path: Path) -> None:
    text = b'{"w":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'
    path = tmp_path / "huge"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    for read in (read_header, read_tensors):
        with refused(CheckpointError, str(path)):
            read(path)


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(2)}, tmp_path / "plain")
    with refused(CheckpointError, str(tmp_path / "plain"), "is not a tensorfact file"):
        read_header(tmp_path / "plain")


def test_any_safetensors_file_is_read_where_any_is_welcome(tmp_path: Path, saved: Path) -> None:
    save_file({"w": torch.zeros(2)}, tmp_path / "plain")
    assert torch.equal(read_plain(tmp_path / "plain")["w"], torch.zeros(2))
    assert {name: bits(tensor) for name, tensor in read_plain(saved).items()} == {n: bits(t) for n, t in SOME.items()}
    whole = saved.read_bytes()
    saved.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with refused(CheckpointError, str(saved), "damaged"):
        read_plain(saved)


@pytest.mark.parametrize("body", ["", "{", "[]", "3", "null", "{}", '{"sha256": 3}', '{"sha256": ""}', "[" * 100_000])
def test_a_seal_over_nonsense_makes_no_file(tmp_path: Path, body: str) -> None:
    """The seal finds damage, not malice: anybody can seal anything."""
    shapes = {name: tuple(tensor.shape) for name, tensor in SOME.items()}
    save_file(SOME, tmp_path / "forged", {ENTRY: _seal(body, shapes) + body})
    with pytest.raises(CheckpointError):
        read_tensors(tmp_path / "forged")


@pytest.mark.parametrize("name", ["missing", "missing/file", "", "."])
def test_a_path_that_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    for read in (read_header, read_tensors):
        with refused(CheckpointError, str(tmp_path / name)):
            read(tmp_path / name)


# ------------------------------------------------------------------------------------------------------ failed writing


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with refused(CheckpointError, str(tmp_path / "no" / "file"), "No such file", "create the folder"):
        write_tensors(tmp_path / "no" / "file", SOME, {})
    assert not list(tmp_path.iterdir())


def test_a_folder_in_the_file_s_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with refused(CheckpointError, str(tmp_path / "file")):
        write_tensors(tmp_path / "file", SOME, {})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("call", ["replace", "fsync"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    saved: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: BaseException
) -> None:
    before = saved.read_bytes()

    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(os, call, fail)
    expected = CheckpointError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected):
        write_tensors(saved, {"w": torch.ones(3)}, {})
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_an_unwritable_value_leaves_the_old_file_and_nothing_else(saved: Path) -> None:
    before = saved.read_bytes()
    sparse: Tensor = torch.eye(3).to_sparse()
    for tensors, words in (({"w": sparse}, {}), (SOME, {"number": object()})):
        with pytest.raises((CheckpointError, TypeError, NotImplementedError, RuntimeError)):
            write_tensors(saved, tensors, words)
        assert saved.read_bytes() == before
        assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_writing_over_a_file_replaces_it_whole(saved: Path) -> None:
    write_tensors(saved, {"other": torch.ones(3)}, {"a": "b"})
    assert list(read_tensors(saved)) == ["other"]
    assert read_header(saved).metadata == {"a": "b"}
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


@pytest.mark.parametrize("path", [None, 3, b"a.safetensors", "", "a\0b"])
def test_what_is_no_path_is_refused(path: Any) -> None:
    uses = (read_header, StoredTensors, lambda path: write_tensors(path, {}, {}), lambda path: write_text(path, ""))
    for use in uses:
        with refused(CheckpointError):
            use(path)
