"""A bank on disk: one file of what its tasks share, and one file for each task."""

from __future__ import annotations

import dataclasses
import os
import shutil
import urllib.parse
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from ..common.checks import AnyPath, file_path, quoted
from ..errors import CheckpointError, FingerprintError, nearest
from .bank_rows import flat, named_rows, rows_of
from .description import FACTORS, HEAD, AdapterDescription
from .files import read_header, write_tensors
from .left_out import LeftOutCores
from .located import BANK_FILE
from .state import AdapterState
from .writing import make_folder

BANK, TASK = "bank", "task of a bank"
TASKS, SUFFIX = "tasks", ".safetensors"

Cores = Mapping[str, Tensor]
"""Cores by `TENSOR.CORE`, or parameters of a head by name."""


@dataclasses.dataclass(frozen=True, eq=False)
class BankFolder:
    """A folder with the shared cores of a bank in `bank.safetensors`, and each task in `tasks/NAME.safetensors`.

    Names are read from the folder, and a task from its file, when they are asked for. Files are written atomically, so
    that other processes may read meanwhile.

    Args:
        path: The folder.
        description: The adapter of one task, without its head.
        shared: Names of the trained cores that the tasks share.
        head: Names of the head's parameters.
        cores: The cores that all tasks have in common by `TENSOR.CORE`, also those that are not trained.
        identity: What the files of the bank have in common.
    """

    path: Path
    description: AdapterDescription
    shared: tuple[str, ...]
    head: tuple[str, ...]
    cores: Cores
    identity: str

    def write(self, tasks: Iterable[tuple[str, Cores, Cores]]) -> None:
        """Write the bank in the place of one that is in the folder, which stays if a file cannot be written.

        Args:
            tasks: Every task: its name, its own cores, and the parameters of its head by name.

        Raises:
            CheckpointError: A file cannot be written.
        """
        staged = self.path / f".{self.identity}"
        make_folder(staged / TASKS)
        try:
            for task, cores, head in tasks:
                self._write_task(staged / TASKS / self.file(task).name, task, cores, head)
            self._write_shared(staged / BANK_FILE)
            self._replace_by(staged)
        except OSError as error:
            raise CheckpointError(f"cannot write the bank {self.path}", got=str(error), fix="free space") from error
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def _replace_by(self, staged: Path) -> None:
        """Rename the files of another folder to those of this one; on an error, rename the old ones back."""
        own, old = self.path / TASKS, staged / "old"
        if own.is_dir():
            os.replace(own, old)
        try:
            os.replace(staged / TASKS, own)
            os.replace(staged / BANK_FILE, self.path / BANK_FILE)
        except BaseException:
            if own.is_dir():
                os.replace(own, staged / TASKS)
            if old.is_dir():
                os.replace(old, own)
            raise

    def _write_shared(self, path: Path) -> None:
        body = self.description.metadata(LeftOutCores.of({}))
        own = {"kind": BANK, "shared": list(self.shared), "head": list(self.head), "identity": self.identity}
        tensors = {f"{FACTORS}{name}": core for name, core in self.cores.items()}
        write_tensors(path, tensors, {**body, **own})

    @classmethod
    def open(cls, folder: AnyPath) -> BankFolder:
        """Read what the tasks of a bank share.

        Args:
            folder: The folder.

        Raises:
            CheckpointError: It holds no bank, or the file is damaged.
        """
        path = file_path(folder, "open_bank: folder", CheckpointError).absolute()  # also after os.chdir
        header = read_header(path / BANK_FILE)
        if header.metadata.get("kind") != BANK:
            raise CheckpointError(f"{header.path} is not the file of a bank", fix="pass a folder that bank.save wrote")
        description, _ = AdapterDescription.parsed(header.path, header.metadata, {})
        try:
            shared, head = (tuple(map(str, header.metadata[key])) for key in ("shared", "head"))
            identity = str(header.metadata["identity"])
        except (LookupError, TypeError) as error:
            raise CheckpointError(f"{header.path} is damaged: {error!r} is missing", fix="restore it") from error
        known, found = description.shapes, dict(header.shapes)
        common = {name for name in known if name.rpartition(".")[2] in shared}
        if any(known.get(name) != shape for name, shape in found.items()) or not common <= found.keys():
            raise CheckpointError(
                f"{header.path} is damaged: its tensors are not the shared cores", fix="restore it from a copy"
            )
        cores = {name.removeprefix(FACTORS): core for name, core in header.tensors().items()}
        return cls(path, description, shared, head, cores, identity)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tasks, sorted."""
        try:
            with os.scandir(self.path / TASKS) as entries:
                stems = [entry.name.removesuffix(SUFFIX) for entry in entries if entry.name.endswith(SUFFIX)]
        except OSError as error:
            raise CheckpointError(f"cannot read the tasks of {self.path}", got=str(error), fix="restore it") from error
        return tuple(sorted(urllib.parse.unquote(stem) for stem in stems if not stem.startswith(".")))

    def file(self, task: str) -> Path:
        """Return the path of a task's file.

        Args:
            task: The name of the task.
        """
        stem = urllib.parse.quote(task, safe=" ")
        return self.path / TASKS / f"{'%2E' + stem[1:] if stem.startswith('.') else stem}{SUFFIX}"

    def write_task(self, task: str, cores: Cores, head: Cores) -> None:
        """Write a task; no other file is touched.

        Args:
            task: Its name.
            cores: Its own cores.
            head: The parameters of its head by name.

        Raises:
            CheckpointError: The file cannot be written.
        """
        self._write_task(self.file(task), task, cores, head)

    def _write_task(self, path: Path, task: str, cores: Cores, head: Cores) -> None:
        tensors = {**{FACTORS + name: core for name, core in cores.items()}, **{HEAD + n: v for n, v in head.items()}}
        write_tensors(path, tensors, {"kind": TASK, "task": task, "identity": self.identity})

    def read_task(self, task: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the own cores of a task, and its head.

        Args:
            task: Its name.

        Raises:
            CheckpointError: There is no such task, or its file is damaged or of another bank.
        """
        path = self.file(task)
        if not path.is_file():
            names = self.names
            raise CheckpointError(
                f"the bank {self.path} has no task {task!r}",
                expected=f"one of {len(names)}" if len(names) > 8 else f"one of {list(names)}",
                got=f"{task!r}{nearest(task, names)}",
                fix="bank.tasks lists them",
            )
        header = read_header(path)
        if header.metadata.get("kind") != TASK or header.metadata.get("identity") != self.identity:
            raise CheckpointError(
                f"{path} is not a task of this bank",
                cause="the bank was written anew after it was opened, or the file is another bank's",
                fix="open the bank again, or bank.add(task, adapter)",
            )
        if header.metadata.get("task") != task:
            raise CheckpointError(
                f"{path} is the file of another task",
                expected=repr(task),
                got=quoted(header.metadata.get("task")),
                fix="restore it, or bank.add(task, adapter)",
            )
        expected = {name: shape for name, shape in self.description.shapes.items() if not self._is_shared(name)}
        found = {name: shape for name, shape in header.shapes.items() if name.startswith(FACTORS)}
        heads = {name.removeprefix(HEAD) for name in header.shapes if name.startswith(HEAD)}
        if found != expected or heads != set(self.head):
            raise CheckpointError(f"{path} is damaged: it has other tensors than a task of this bank", fix="restore it")
        tensors = header.tensors()
        return (
            {name.removeprefix(FACTORS): tensors[name] for name in expected},
            {name: tensors[HEAD + name] for name in self.head},
        )

    def add(self, task: str, state: AdapterState) -> None:
        """Write an adapter as a task.

        Args:
            task: Its name.
            state: The adapter.

        Raises:
            AdaptError: It has another plan or head, other formats or shared cores.
            FingerprintError: It was made for another base model.
            CheckpointError: The file cannot be written.
        """
        self.write_task(task, *self.fitting(task, state))

    def fitting(self, task: str, state: AdapterState) -> tuple[Cores, Cores]:
        """Return the own cores of an adapter, and its head by name, once it is known to fit the bank.

        Args:
            task: The name of the task that it will be, for messages.
            state: The adapter.

        Raises:
            AdaptError: It has another plan or head, other formats or shared cores.
            FingerprintError: It was made for another base model.
        """
        require_one_base([self.description, state.description], ["the bank", f"task {task!r}"])
        rows, head = rows_of(state, self.description, self.cores, self.head)
        return flat(rows), head

    def state(self, task: str) -> AdapterState:
        """Return a task as an adapter of its own.

        Args:
            task: Its name.

        Raises:
            CheckpointError: There is no such task, or its file is damaged.
        """
        cores, head = self.read_task(task)
        rows = named_rows({**self.cores, **cores})
        return AdapterState(self.description, {}).replaced(self.description.formats, rows, head)

    def remove_task(self, task: str) -> None:
        """Delete a task.

        Args:
            task: Its name.

        Raises:
            CheckpointError: It cannot be deleted.
        """
        try:
            self.file(task).unlink()
        except OSError as error:
            raise CheckpointError(
                f"cannot delete the task {task!r}", got=str(error), fix="bank.tasks lists them"
            ) from error

    def _is_shared(self, name: str) -> bool:
        return name.removeprefix(FACTORS) in self.cores


def require_one_base(descriptions: Sequence[AdapterDescription], names: Sequence[str]) -> None:
    """Check that adapters were made for one base model.

    Args:
        descriptions: The adapters.
        names: What to call them in the message.

    Raises:
        FingerprintError: One was made for another.
    """
    first = descriptions[0].fingerprint
    for description, name in zip(descriptions[1:], names[1:], strict=True):
        if differing := first.difference(description.fingerprint):
            raise FingerprintError(
                f"{name} was made for another base model than {names[0]}: {differing} differ",
                fix="join adapters of one base model",
            )


def new_identity() -> str:
    """Return an identity for the files of a new bank."""
    return uuid.uuid4().hex
