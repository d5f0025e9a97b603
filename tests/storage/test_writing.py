"""Files and folders are written whole or not at all, whoever else writes, reads or is killed meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tensorfact.errors import CheckpointError
from tensorfact.storage.files import read_tensors, write_tensors
from tensorfact.storage.writing import _locked, _temporary, make_folder, write_bytes, write_folder, write_text
from tests.helpers import refused

OLD, NEW = b"old", b"new contents"
FOLDER = {"config.json": b"{}", "weights.safetensors": NEW}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("writers", [2, 3, 4])
def test_threads_that_save_to_one_path_and_read_it_never_see_a_part(writers: int, tmp_path: Path) -> None:
    """The tensors have different sizes, so that a header of one file with the bytes of another would be found."""
    path, errors = tmp_path / "file", []
    write_tensors(path, {"w": torch.zeros(1)}, {})

    def whole(number: int) -> None:
        tensors = {"w": torch.full((50 * number,), float(number))}
        try:
            for _ in range(240 // writers):
                write_tensors(path, tensors, {"number": number})
                found = read_tensors(path)["w"]
                assert bool((found == found[0]).all())
                assert found.numel() in (1, 50 * float(found[0]))
        except Exception as error:  # a thread's own traceback is lost
            errors.append(error)

    threads = [threading.Thread(target=whole, args=(number,)) for number in range(1, writers + 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert os.listdir(tmp_path) == ["file"]


# --------------------------------------------------------------------------------------------------- what a target is


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755, 0o444])
def test_an_existing_file_keeps_its_mode_bits(mode: int, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(OLD)
    (tmp_path / "file").chmod(mode)
    write_bytes(tmp_path / "file", NEW)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode
    assert (tmp_path / "file").read_bytes() == NEW


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o027])
def test_a_new_file_gets_the_bits_that_the_umask_leaves(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        write_bytes(tmp_path / "file", NEW)
        write_folder(tmp_path / "folder", FOLDER)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~umask
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o777 & ~umask
    assert stat.S_IMODE((tmp_path / "folder" / "config.json").stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("target", ["file", "below/file", "missing", "link"])
def test_a_symbolic_link_stays_one_and_its_target_is_replaced(target: str, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    for name in ("file", "below/file"):
        (tmp_path / name).write_bytes(OLD)
    (tmp_path / "link").symlink_to("below/file")
    (tmp_path / "first").symlink_to(target)
    write_bytes(tmp_path / "first", NEW)
    assert os.readlink(tmp_path / "first") == target
    assert (tmp_path / "first").read_bytes() == (tmp_path / target).read_bytes() == NEW
    assert os.readlink(tmp_path / "link") == "below/file"


@pytest.mark.parametrize("name", ["a" * 255, "ü" * 127, "日" * 85])
def test_names_of_the_greatest_length_are_written(name: str, tmp_path: Path) -> None:
    for text in ("first", "second"):
        write_text(tmp_path / name, text)
    write_folder(tmp_path / "folder" / name, FOLDER)
    assert (tmp_path / name).read_text() == "second"
    assert contents(tmp_path / "folder" / name) == FOLDER


def special(path: Path, kind: str) -> Path:
    """Make what is not a file."""
    if kind == "a folder":
        path.mkdir()
    elif kind == "a FIFO":
        os.mkfifo(path)
    elif kind == "a device":
        path.symlink_to("/dev/null")
    elif kind == "Too many levels":
        path.symlink_to(path.name)
    else:
        return path.parent / ("x" * 300)
    return path


@pytest.mark.parametrize("kind", ["a folder", "a FIFO", "a device", "Too many levels", "name too long"])
def test_what_is_not_a_file_is_neither_replaced_nor_waited_for(kind: str, tmp_path: Path) -> None:
    path = special(tmp_path / "target", kind)
    before = os.listdir(tmp_path)
    uses: list[Callable[[], object]] = [
        lambda: write_bytes(path, NEW),
        lambda: write_tensors(path, {}, {}),
        lambda: read_tensors(path),
    ]
    for use in uses:
        with refused(CheckpointError, str(path)[:99], kind):
            use()
    if kind != "a folder":
        with refused(CheckpointError, str(path)[:99], kind):
            write_folder(path, FOLDER)
    assert os.listdir(tmp_path) == before
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


# --------------------------------------------------------------------------------------------------------- folders


def test_a_folder_is_made_with_its_parents_and_another_s_files_stay(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b" / "c"
    write_folder(folder, FOLDER)
    assert contents(folder) == FOLDER
    (folder / "README.md").write_bytes(OLD)
    write_folder(folder, {**FOLDER, "config.json": NEW})
    assert contents(folder) == {**FOLDER, "config.json": NEW, "README.md": OLD}
    assert os.listdir(tmp_path) == ["a"]
    assert os.listdir(tmp_path / "a" / "b") == ["c"]


@pytest.mark.parametrize("path", [".", "/", "./"])
def test_a_path_without_a_name_is_no_file(path: str) -> None:
    with refused(CheckpointError, "cannot write", "adapter.safetensors"):
        write_text(path, "text")


@pytest.mark.parametrize("blocking", ["file", "file/below", "/proc/none"])
def test_a_folder_that_cannot_be_made_is_refused(blocking: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with refused(CheckpointError, "cannot create the folder", blocking):
        make_folder(tmp_path / blocking)
    make_folder(tmp_path / "new" / "below")
    make_folder(tmp_path / "new" / "below")
    assert (tmp_path / "new" / "below").is_dir()


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator may write into every folder")
def test_a_folder_that_may_not_be_written_into_is_refused_before_there_is_something_to_write(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir(mode=0o555)
    with refused(CheckpointError, tmp_path / "folder", "is read-only", "chmod u+wx"):
        make_folder(tmp_path / "folder")


@pytest.mark.parametrize("existing", [{}, {"config.json": OLD}, dict.fromkeys(FOLDER, OLD), {"other": OLD}])
@pytest.mark.parametrize("failing", [1, 2])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_in_the_middle_leaves_the_folder_as_it_was(
    existing: dict[str, bytes],
    failing: int,
    error: BaseException,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, old in existing.items():
        (folder / name).write_bytes(old)
    replace, calls = os.replace, []

    def fail(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == failing:
            raise error
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(CheckpointError if isinstance(error, OSError) else KeyboardInterrupt):
        write_folder(folder, FOLDER)
    assert contents(folder) == existing


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()])
def test_a_new_folder_that_fails_is_not_there(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(CheckpointError if isinstance(error, OSError) else type(error)):
        write_folder(tmp_path / "folder", FOLDER)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("kind", ["a folder", "a FIFO", "a device"])
def test_a_name_in_the_folder_that_is_taken_changes_nothing(kind: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(OLD)
    special(tmp_path / "weights.safetensors", kind)
    with refused(CheckpointError, str(tmp_path), kind):
        write_folder(tmp_path, FOLDER)
    assert (tmp_path / "config.json").read_bytes() == OLD


# ------------------------------------------------------------------------------------------------------- leftovers

KILLED = """
import os, signal, sys
from pathlib import Path
from tensorfact.storage.writing import write_bytes, write_folder

def killed(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)

os.replace = os.rename = killed
root = Path(sys.argv[1])
files = {"config.json": b"{}", "weights.safetensors": b"new"}
for write in (
    lambda: write_bytes(root / "file", b"new"),
    lambda: write_folder(root / "folder", files),
    lambda: write_folder(root / "old", files),
):
    if not os.fork():
        write()
    os.wait()
"""


def test_what_a_killed_process_left_is_removed_by_the_next_write(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").write_bytes(OLD)
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=True, timeout=300)
    assert contents(tmp_path / "old")["config.json"] == OLD
    assert len(list(tmp_path.rglob("*.tmp"))) == 4
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".tmp") == ["old"]
    write_bytes(tmp_path / "file", NEW)
    assert len(list(tmp_path.rglob("*.tmp"))) == 3  # another target's are not touched
    write_folder(tmp_path / "folder", FOLDER)
    write_folder(tmp_path / "old", FOLDER)
    assert not list(tmp_path.rglob("*.tmp"))
    assert contents(tmp_path / "folder") == contents(tmp_path / "old") == FOLDER


AT_EACH_STEP = """
import json, os, signal, sys
from pathlib import Path
from tensorfact.storage.writing import write_folder

cases = json.loads(sys.argv[2])
moves = os.rename, os.replace

def until(step, after):
    calls = []
    def counted(move):
        def move_or_end(*paths):
            calls.append(paths)
            if after:
                move(*paths)
            if len(calls) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            if not after:
                move(*paths)
        return move_or_end
    return counted

for case, (old, new) in cases.items():
    for step in range(1, 8):
        for after in (False, True):
            folder = Path(sys.argv[1], case, f"{step} {after}")
            folder.mkdir(parents=True)
            for name, text in old.items():
                (folder / name).write_text(text)
            if not os.fork():
                os.rename, os.replace = map(until(step, after), moves)
                write_folder(folder, {name: text.encode() for name, text in new.items()})
                os._exit(0)
            os.wait()
"""


@pytest.mark.slow
def test_a_folder_of_a_killed_process_never_mixes_old_and_new(tmp_path: Path) -> None:
    two, three = ({name: f"new {name}" for name in names} for names in (("config", "a"), ("config", "a", "b")))
    cases = {
        "all": (dict.fromkeys(two, "old"), two),
        "all of three": (dict.fromkeys(three, "old"), three),
        "the first is the same": ({**three, "a": "old", "b": "old"}, three),
        "the first alone": ({"config": "old"}, two),
        "the last alone": ({"a": "old"}, two),
        "another": ({"README.md": "old"}, two),
    }
    arguments = [str(tmp_path), json.dumps(cases)]
    subprocess.run([sys.executable, "-c", AT_EACH_STEP, *arguments], check=True, timeout=300)
    for case, (old, new) in cases.items():
        seen = []
        for folder in (tmp_path / case).iterdir():
            found = {path.name: path.read_text() for path in folder.iterdir() if path.suffix != ".tmp"}
            assert found in (old, {**old, **new}) or "config" not in found, found
            seen.append(found)
            write_folder(folder, {name: text.encode() for name, text in new.items()})
            assert {name: text.decode() for name, text in contents(folder).items()} == {**old, **new}
        assert old in seen
        assert {**old, **new} in seen


@pytest.mark.parametrize("writers", [2, 3, 4])
def test_threads_that_write_one_folder_leave_the_files_of_one(writers: int, tmp_path: Path) -> None:
    def write(number: int) -> None:
        for _ in range(40):
            write_folder(tmp_path, dict.fromkeys(FOLDER, f"{number}".encode()))
            time.sleep(0)

    write(0)
    threads = [threading.Thread(target=write, args=(number,)) for number in range(1, writers + 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = contents(tmp_path)
    assert found.keys() == FOLDER.keys()
    assert len(set(found.values())) == 1


@pytest.mark.parametrize("kind", ["of a living writer", "of another target", "of another program", "a link"])
def test_what_may_be_in_use_stays(kind: str, tmp_path: Path) -> None:
    left = _temporary(tmp_path / ("other" if kind == "of another target" else "file"))
    if kind == "of another program":
        left = tmp_path / ".file.123.tmp"
    if kind == "a link":
        (tmp_path / "precious").write_bytes(OLD)
        left.symlink_to("precious")
    else:
        left.write_bytes(OLD)
    with open(left, "rb") as file:
        if kind == "of a living writer":
            assert _locked(file.fileno(), left)
        write_bytes(tmp_path / "file", NEW)
    assert left.read_bytes() == OLD


def test_a_leftover_that_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(_temporary(tmp_path / "file"))
    write_bytes(tmp_path / "file", NEW)
    assert contents(tmp_path) == {"file": NEW}


@pytest.mark.parametrize("gone", [True, False])
def test_a_writer_whose_new_file_was_removed_before_it_was_locked_knows(gone: bool, tmp_path: Path) -> None:
    path = tmp_path / "new"
    with open(path, "wb") as file:
        if gone:
            path.unlink()
        assert _locked(file.fileno(), path) is not gone


def test_a_folder_that_cannot_be_listed_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "drop").mkdir(mode=0o300)
    try:
        write_bytes(tmp_path / "drop" / "file", NEW)
        assert (tmp_path / "drop" / "file").read_bytes() == NEW
    finally:
        (tmp_path / "drop").chmod(0o700)
        shutil.rmtree(tmp_path / "drop")
