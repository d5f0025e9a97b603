"""Where an adapter is: a file, a folder, or a repository on the Hub."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ..common.checks import AnyPath, file_path
from ..errors import CheckpointError
from .hub import download, is_repository
from .reading import read_text

FILE, ABOUT, CARD, PICTURE = "adapter.safetensors", "adapter.json", "README.md", "network.svg"
FILES = (FILE, ABOUT, CARD, PICTURE)
"""The files of an adapter's folder."""

BANK_FILE = "bank.safetensors"
"""The file with what the tasks of a bank share, in the bank's folder."""

_OTHERS = {
    "adapter_config.json": ("a folder of peft", "from_lora(model, folder)"),
    BANK_FILE: ("a bank of tasks", "open_bank(model, folder), or tensorfact bank extract FOLDER TASK --out FILE"),
}
"""What else a folder may be, and what opens it, by the name of a file in it."""


def adapter_file(source: AnyPath) -> Path:
    """Return the file of an adapter: a file as it is, and that of a folder or of a repository on the Hub.

    Args:
        source: A file, a folder, or `OWNER/NAME` on the Hub.

    Raises:
        CheckpointError: As `adapter_folder`.
    """
    path = file_path(source, "adapter", CheckpointError)
    return adapter_folder(source) / FILE if path.is_dir() or _is_remote(source, path) else path


def adapter_folder(source: AnyPath) -> Path:
    """Return the folder of an adapter, downloaded if it is the name of a repository.

    Args:
        source: A folder, or `OWNER/NAME` on the Hub.

    Raises:
        CheckpointError: There is no such folder, the Hub cannot be reached, or the folder holds no adapter.
    """
    path = file_path(source, "adapter", CheckpointError, example="digits")
    folder = download(str(source), FILES) if _is_remote(source, path) else path
    if folder.is_file():
        own = folder.name == FILE and (folder.parent / ABOUT).exists()
        raise CheckpointError(
            f"{source} is a file",
            expected=f"a folder with {FILE} and {ABOUT}",
            fix=f"give the folder: {folder.parent}" if own else "adapter.save_pretrained(folder) writes such a folder",
        )
    if not (folder / FILE).exists():
        other = next((told for name, told in _OTHERS.items() if (folder / name).exists()), None)
        what, fix = other or (_contents(folder), "adapter.save_pretrained(folder) writes one")
        raise CheckpointError(
            f"{source} holds no adapter",
            expected=f"a folder with {FILE}, or a repository on the Hub",
            got=what,
            fix=fix,
        )
    return folder


def stated_name(folder: Path) -> str:
    """Return the name of the base model that the description in an adapter's folder states; empty if there is none.

    Args:
        folder: The folder.
    """
    try:
        name = json.loads(read_text(folder / ABOUT))["base_model"]["name"]
    except (CheckpointError, LookupError, TypeError, ValueError, RecursionError):
        return ""
    return name if isinstance(name, str) else ""


def _is_remote(source: AnyPath, path: Path) -> bool:
    """Return whether a text names a repository, and neither a path nor something in an existing folder."""
    return isinstance(source, str) and is_repository(source) and not path.exists() and not path.parent.exists()


def _contents(folder: Path) -> str:
    return (", ".join(sorted(os.listdir(folder))[:5]) or "an empty folder") if folder.is_dir() else "no such folder"
