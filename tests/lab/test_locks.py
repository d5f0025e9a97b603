"""One process at a time holds a folder."""

from __future__ import annotations

from pathlib import Path

from tensorfact.errors import SweepError
from tensorfact.lab.locks import locked
from tests.helpers import refused


def test_a_folder_is_held_once_at_a_time(tmp_path: Path) -> None:
    again = locked(tmp_path, SweepError, user="sweep", fix="--out other")
    with (
        locked(tmp_path, SweepError, user="sweep", fix="--out other"),
        refused(SweepError, "is in use by another sweep", "--out other"),
    ):
        again.__enter__()
    with locked(tmp_path, SweepError, user="sweep", fix="--out other"):
        pass


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()
    with refused(SweepError, "cannot write"), locked(tmp_path, SweepError, user="sweep", fix="--out other"):
        raise AssertionError
