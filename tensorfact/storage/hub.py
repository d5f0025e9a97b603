"""Folders on the Hugging Face Hub: download one, upload one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import CheckpointError

_REPOSITORY = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w./-]+))?")


def is_repository(text: str) -> bool:
    """Return whether a text has the form of a repository on the Hub: `OWNER/NAME` or `OWNER/NAME@REVISION`."""
    return _REPOSITORY.fullmatch(text) is not None


def download(repository: str, files: Sequence[str]) -> Path:
    """Download files of a repository, or find them in the Hub's cache.

    Args:
        repository: `OWNER/NAME`, or `OWNER/NAME@REVISION` with a branch, a tag or a commit.
        files: Names of the files; those that the repository does not have are left out.

    Returns:
        The folder that holds them.

    Raises:
        CheckpointError: The repository cannot be reached.
    """
    from huggingface_hub import snapshot_download

    match = _REPOSITORY.fullmatch(repository)
    assert match is not None
    try:
        return Path(snapshot_download(match["repo"], revision=match["revision"], allow_patterns=list(files)))
    except Exception as error:  # whatever the client, the network and the server raise
        raise CheckpointError(
            f"cannot load {repository!r}",
            expected="a file, a folder, or a repository on the Hub",
            got=_reason(error),
            cause="no such path, no network, or a repository that does not exist or is private",
            fix="check the name; for a private repository, run: hf auth login",
        ) from error


def upload(folder: Path, repository: str, files: Sequence[str], *, private: bool, token: str | None) -> str:
    """Upload files of a folder to a repository, which is created if it does not exist.

    Args:
        folder: The folder.
        repository: `OWNER/NAME`, or `NAME` for one of the user.
        files: Names of the files.
        private: Whether a new repository is private.
        token: The user's token; default: that of `hf auth login` or the variable `HF_TOKEN`.

    Returns:
        The address of the commit.

    Raises:
        CheckpointError: The repository cannot be written.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi(token=token)
        made = api.create_repo(repository, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=made.repo_id,
            folder_path=folder,
            allow_patterns=list(files),
            commit_message="Upload a tensorfact adapter",
        )
    except Exception as error:  # as above
        raise CheckpointError(
            f"cannot write to {repository!r} on the Hub",
            got=_reason(error),
            cause="no network, or a token that is missing or may not write",
            fix="run: hf auth login",
        ) from error
    return str(commit.commit_url)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
