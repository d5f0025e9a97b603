"""Archives are read in place, within bounds, and refused if a member is unsafe or damaged."""

from __future__ import annotations

import gc
import gzip
import io
import os
import pickle
import tarfile
import tempfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tensorfact.errors import DataError
from tensorfact.lab import image_folder, nano
from tensorfact.lab.data import archives
from tensorfact.lab.data.archives import ARCHIVES, Archive, GzippedTarArchive, ZipArchive
from tests.helpers import refused
from tests.lab.data.making import lay_out, pack

MODEL = nano(pretrained=False)
KINDS = ["a.zip", "a.tar", "a.tgz"]
SAFE = ("cat/1.png", "./cat/2.png", "dog/")


def write(path: Path, *names: str, content: bytes = b"data") -> Path:
    """Write an archive with members of these names; those that end in a slash are folders."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
            for name in names:
                zipped.writestr(name, b"" if name.endswith("/") else content)
        return path
    with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as tarred:
        for name in names:
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            info.size = 0 if name.endswith("/") else len(content)
            tarred.addfile(info, io.BytesIO(content))
    return path


def opened(path: Path) -> Archive:
    return ARCHIVES[path.suffix](path)


@pytest.mark.parametrize("kind", KINDS)
def test_members_are_read_by_their_paths(kind: str, tmp_path: Path) -> None:
    archive = opened(write(tmp_path / kind, *SAFE))
    assert archive.paths == {"cat": True, "dog": True, "cat/1.png": False, "cat/2.png": False}
    for reader in (archive, pickle.loads(pickle.dumps(archive))):  # noqa: S301, as a worker that is not forked gets it
        assert [reader.read(path) for path in ("cat/1.png", "cat/2.png")] == [b"data", b"data"]
    with refused(DataError, f"{kind}: cat/2.png is not a readable image"):
        archive.open_rgb("cat/2.png")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../1.png", "a path outside the archive"),
        ("cat/../../1.png", "a path outside the archive"),
        ("/etc/1.png", "an absolute path"),
        ("C:/1.png", "an absolute path"),
        ("cat\\1.png", "a backslash"),
        ("cat/2.png", "two files cat/2.png"),
        ("cat", "cat is both a file and a folder"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_unsafe_path_is_refused(kind: str, name: str, words: str, tmp_path: Path) -> None:
    path = write(tmp_path / kind, *SAFE, name)
    with refused(DataError, path, words):
        opened(path)


@pytest.mark.parametrize("type", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_special_files_are_refused(type: bytes, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tarred:
        info = tarfile.TarInfo("cat/1.png")
        info.type, info.linkname = type, "/etc/passwd"
        tarred.addfile(info)
    with refused(DataError, "a.tar: cat/1.png is ", "unpack the archive"):
        opened(tmp_path / "a.tar")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zipped:
        linked = zipfile.ZipInfo("cat/1.png")
        linked.external_attr = 0o120777 << 16
        zipped.writestr(linked, "/etc/passwd")
    with refused(DataError, "a.zip: cat/1.png is a link"):
        opened(tmp_path / "a.zip")


def test_a_zip_that_is_encrypted_or_not_deflated_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zip", "cat/1.png")
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with refused(DataError, "cat/1.png is encrypted"):
        opened(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as zipped:
        zipped.writestr("cat/1.png", b"data")
    with refused(DataError, "cat/1.png is compressed by another method than deflate"):
        opened(path)


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_that_was_cut_short_is_refused(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path / kind, *SAFE, content=os.urandom(2000))
    whole = path.read_bytes()
    for length in (0, 100, len(whole) // 2, 512 * 6 if kind == "a.tar" else len(whole) - 3):
        path.write_bytes(whole[:length])
        with refused(DataError, f"{path} is not a readable archive", "download it again"):
            opened(path)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    root = lay_out(tmp_path_factory.mktemp("packed") / "photos")
    found = {kind: pack(root, root.parent / kind).read_bytes() for kind in KINDS}
    return {**found, "a.tgz": gzip.decompress(found["a.tgz"])}


@settings(max_examples=40)
@given(kind=st.sampled_from(KINDS), data=st.data())
def test_a_damaged_archive_is_read_or_refused(kind: str, data: st.DataObject, packed: dict[str, bytes]) -> None:
    changed = bytearray(packed[kind])
    for place in data.draw(st.lists(st.integers(0, len(changed) - 1), min_size=1, max_size=4)):
        changed[place] = data.draw(st.integers(0, 255))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, kind)
        path.write_bytes(gzip.compress(changed) if kind == "a.tgz" else changed)
        try:
            told = str(path) if image_folder(path, MODEL).sizes["train"] else ""
        except DataError as error:
            told = str(error)
        assert str(path) in told


def test_a_file_that_is_larger_than_memory_allows_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "LARGEST", 3)
    for kind in KINDS:
        archive = opened(write(tmp_path / kind, "cat/1.png"))
        with refused(DataError, "cat/1.png is not a readable image", "more than the 3"):
            archive.open_rgb("cat/1.png")


def test_no_more_is_expanded_than_the_header_of_a_zip_says(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zip", "cat/1.png", content=bytes(1 << 24))
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x01\x02") + 24
    data[at : at + 4] = (100).to_bytes(4, "little")
    path.write_bytes(data)
    with refused(DataError, "cat/1.png is not a readable image", "CRC"):
        opened(path).open_rgb("cat/1.png")


def temporary() -> set[str]:
    return {path.name for path in Path(tempfile.gettempdir()).glob("tensorfact-*.tar")}


@pytest.fixture
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))


@pytest.mark.usefixtures("_own_folder")
def test_an_archive_that_expands_too_far_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.tgz", "cat/1.png", content=bytes(1 << 22))
    monkeypatch.setattr(archives, "EXPANDED", 1 << 20)
    with refused(DataError, f"{path} is not a readable archive", "expands to more than 1,048,576 bytes"):
        opened(path)
    gc.collect()
    assert temporary() == set()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # newer versions of Python warn if there are threads
@pytest.mark.usefixtures("_own_folder")
def test_what_was_expanded_is_removed_with_the_archive_by_the_process_that_made_it(tmp_path: Path) -> None:
    archive: Archive | None = opened(write(tmp_path / "a.tgz", *SAFE))
    assert isinstance(archive, GzippedTarArchive)
    assert len(temporary()) == 1
    child = os.fork()
    if not child:
        del archive
        gc.collect()
        os._exit(len(temporary()))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert archive.read("cat/1.png") == b"data"
    archive = None
    gc.collect()
    assert temporary() == set()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_threads_and_forks_read_a_zip_at_once(tmp_path: Path) -> None:
    names = [f"cat/{at}.png" for at in range(40)]
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as zipped:
        for name in names:
            zipped.writestr(name, name.encode() * 999)
    archive = ZipArchive(path)

    def right() -> bool:
        return all(archive.read(name) == name.encode() * 999 for name in names)

    children = []
    for _ in range(2):
        child = os.fork()
        if not child:
            os._exit(0 if right() else 1)
        children.append(child)
    assert right()
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    found: list[bool] = []
    act: Callable[[], None] = lambda: found.append(right())  # noqa: E731
    threads = [threading.Thread(target=act) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 4
