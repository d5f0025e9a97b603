"""Where an adapter is looked for: files, folders, and names on the Hub."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tensorfact import AdapterState
from tensorfact.errors import CheckpointError
from tensorfact.storage.located import adapter_file, adapter_folder
from tests.helpers import refused


def test_files_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs/mine").mkdir(parents=True)
    Path("runs/mine/adapter.safetensors").write_text("")
    assert adapter_folder("runs/mine") == Path("runs/mine")  # and not a repository on the Hub
    assert adapter_file("runs/mine") == Path("runs/mine/adapter.safetensors")
    assert adapter_file("runs/other.safetensors") == Path("runs/other.safetensors")
    assert adapter_file("other") == Path("other")


@pytest.mark.parametrize("load", [AdapterState.load, adapter_folder])
def test_a_folder_without_an_adapter_is_refused(load: object, tmp_path: Path) -> None:
    assert callable(load)
    with refused(CheckpointError, str(tmp_path), "an empty folder"):
        load(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with refused(CheckpointError, "a folder of peft", "from_lora"):
        load(str(tmp_path))


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with refused(CheckpointError, "no such folder"):
        adapter_folder(tmp_path / "nothing")


def test_a_file_in_place_of_a_folder_is_named(tmp_path: Path) -> None:
    file = tmp_path / "adapter.safetensors"
    file.write_text("")
    with refused(CheckpointError, "is a file", "save_pretrained"):
        adapter_folder(file)
    (tmp_path / "adapter.json").write_text("")
    with refused(CheckpointError, "is a file", f"give the folder: {tmp_path}"):
        adapter_folder(file)
