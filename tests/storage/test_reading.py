"""What is read is one file, even if another one is saved to its path meanwhile; a wrong file is told by its cause."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tensorfact.errors import CheckpointError
from tensorfact.storage import reading
from tensorfact.storage.files import StoredTensors, read_header, read_plain, read_tensors, write_tensors
from tensorfact.storage.reading import OpenFile, read_text
from tests.helpers import refused

FIRST, SECOND = {"w": torch.zeros(3)}, {"w": torch.ones(5), "b": torch.ones(2)}


def test_a_header_s_tensors_are_those_of_its_own_file(tmp_path: Path) -> None:
    for replace in (
        lambda path: write_tensors(path, SECOND, {}),
        lambda path: path.unlink(),
        lambda path: path.rename(tmp_path / "elsewhere"),
    ):
        write_tensors(tmp_path / "file", FIRST, {})
        header = read_header(tmp_path / "file")
        replace(tmp_path / "file")
        assert torch.equal(header.tensors()["w"], FIRST["w"])


@pytest.mark.parametrize("damage", [b"\xff\xff\xff\x7f", b"\0\0\0\x01", b"\x01\0\0\0"])
def test_a_file_that_is_changed_in_place_is_damaged_and_what_was_read_stays(damage: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_tensors(path, FIRST, {})
    header, tensors = read_header(path), read_tensors(path)
    with open(path, "r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(damage)
    with refused(CheckpointError, "is damaged"):
        header.tensors()
    assert torch.equal(tensors["w"], FIRST["w"])
    with open(path, "r+b") as file:
        file.truncate(20)
    with refused(CheckpointError, str(path)):
        header.tensors()


def test_stored_tensors_are_of_one_file(tmp_path: Path) -> None:
    for second in (FIRST, SECOND, {"v": torch.ones(1)}):
        save_file(FIRST, tmp_path / "file")
        stored = StoredTensors(tmp_path / "file")
        kept = stored["w"]
        write_tensors(tmp_path / "file", second, {})
        with refused(CheckpointError, "was replaced", "read it again"):
            stored["w"]
        assert torch.equal(kept, FIRST["w"])


@pytest.mark.parametrize("times", [1, 2, 50])
def test_a_file_that_is_replaced_while_it_is_opened_is_opened_again(
    times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, opened = tmp_path / "file", []
    write_tensors(path, FIRST, {})

    class Replaced(OpenFile):
        def __init__(self, path: Path) -> None:
            super().__init__(path)
            opened.append(path)
            if len(opened) <= times:
                write_tensors(path, SECOND if len(opened) % 2 else FIRST, {})

    monkeypatch.setattr("tensorfact.storage.files.OpenFile", Replaced)
    assert read_tensors(path).keys() == (SECOND if times % 2 else FIRST).keys()
    assert len(opened) == times + 1


def test_an_open_file_is_read_from_its_start_each_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"contents")
    file = OpenFile(tmp_path / "file")
    (tmp_path / "file").unlink()
    assert [file.read(), file.read(3), file.read(0), file.read()] == [b"contents", b"con", b"", b"contents"]
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="a FIFO, not a file"):  # at once
        OpenFile(tmp_path / "fifo")


def test_descriptors_are_closed(tmp_path: Path) -> None:
    write_tensors(tmp_path / "file", FIRST, {})
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        read_header(tmp_path / "file")
        read_tensors(tmp_path / "file")
        StoredTensors(tmp_path / "file")["w"]
        with pytest.raises(OSError, match="folder"):
            OpenFile(tmp_path)
    assert len(os.listdir("/proc/self/fd")) <= before  # others may be closed meanwhile


def zipped(path: Path) -> None:
    torch.save(FIRST, path)


def legacy(path: Path) -> None:
    torch.save(FIRST, path, _use_new_zipfile_serialization=False)


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps({"w": [1.0]}))


def latest(path: Path) -> None:
    path.write_bytes(pickle.dumps({"w": [1.0]}, protocol=5))


def pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n")


def beside(path: Path) -> None:
    zipped(path.parent / "adapter_model.bin")


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("pytorch_model.bin", zipped, ("pickle", "torch.load('pytorch_model.bin', weights_only=True)")),
        ("adapter.pt", legacy, ("pickle", "'adapter.safetensors'")),
        ("adapter.pkl", pickled, ("pickle", "'adapter.safetensors'")),
        ("adapter.pkl", latest, ("pickle", "'adapter.safetensors'")),
        ("adapter.safetensors", pointer, ("Git LFS", "git lfs pull")),
        ("adapter_model.safetensors", beside, ("adapter_model.bin", "safe_serialization=True")),
    ],
)
def test_a_file_of_another_kind_is_told_by_its_cause(
    name: str, make: Callable[[Path], None], words: tuple[str, ...], tmp_path: Path
) -> None:
    make(tmp_path / name)
    reads: tuple[Callable[[Path], Any], ...] = (read_header, read_plain, StoredTensors)
    for read in reads:
        with refused(CheckpointError, str(tmp_path / name), *words):
            read(tmp_path / name)


@pytest.mark.parametrize("start", [640, 1152, 640 + 256, 0x80 + (6 << 8) + (1 << 16), 0x80 + (0x99 << 8) + (1 << 24)])
def test_a_truncated_file_is_no_pickle(start: int, tmp_path: Path) -> None:
    """The length of a header may begin with the bytes of a pickle, and the protocols of pickle end with 5."""
    (tmp_path / "file").write_bytes(start.to_bytes(8, "little") + b'{"w":')
    with pytest.raises(CheckpointError, match="truncated or damaged") as caught:
        read_tensors(tmp_path / "file")
    assert "replaced" not in str(caught.value)


def test_a_file_that_is_replaced_all_the_time_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tensors(tmp_path / "file", FIRST, {})
    monkeypatch.setattr(OpenFile, "is_at", lambda *_: False)
    with refused(CheckpointError, str(tmp_path / "file"), "replaced all the time"):
        read_tensors(tmp_path / "file")


@pytest.mark.parametrize("contents", [b"\xff", b"\xed\xa0\x80", b"a" * 100])
def test_what_is_no_text_is_refused(contents: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LARGEST_TEXT", 99)
    (tmp_path / "file").write_bytes(contents)
    with refused(CheckpointError, str(tmp_path / "file")):
        read_text(tmp_path / "file")
    (tmp_path / "file").write_bytes(b"a" * 99)
    assert read_text(tmp_path / "file") == "a" * 99
