"""Folders on the Hub: fresh processes that upload to and download from a server on this machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tensorfact.storage.hub import is_repository
from tests.hub import python, serving

PUSH = """
import torch, tensorfact
from tensorfact import adapt
from tensorfact.lab import nano
model = nano()
adapter = adapt(model, seed=0)
for core in adapter.named_cores().values():
    torch.nn.init.normal_(core, std=0.1)
print(adapter.push_to_hub("me/digits", classes=list("0123456789"), metrics={"val_accuracy": 0.9}))
print(model.eval()(torch.ones(1, 1, 28, 28))[0].tolist())
for call in (
    lambda: adapter.push_to_hub("me/digits", token="wrong"),
    lambda: tensorfact.load("me/nothing"),
    lambda: tensorfact.load("me/empty"),
):
    try:
        call()
    except tensorfact.errors.CheckpointError as error:
        print(error)
"""

LOAD = """
import torch, tensorfact
from tensorfact.lab import nano
model, transform, classes = tensorfact.load("me/digits")
print(model(torch.ones(1, 1, 28, 28))[0].tolist(), classes[3])
print(tensorfact.load_adapter(nano(), "me/digits").num_parameters)
"""

OFFLINE = (
    LOAD
    + """
try:
    tensorfact.load("me/other")
except tensorfact.errors.CheckpointError as error:
    print(error)
"""
)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        *(("me/digits", True), ("me/digits@main", True), ("me/digits@refs/pr/1", True), ("A1/b.c-d_e", True)),
        *(("digits", False), ("me/digits/more", False), ("../digits", False), ("/tmp/digits", False), ("me/", False)),
    ],
)
def test_names_of_repositories(text: str, found: bool) -> None:
    assert is_repository(text) == found


@pytest.mark.slow
def test_an_adapter_goes_to_the_hub_and_back(tmp_path: Path) -> None:
    with serving() as hub:
        hub.repositories["me/empty"] = {"README.md": b"nothing here"}
        address, before, *refused = python(PUSH, tmp_path / "one", hub, HF_TOKEN="secret").splitlines()
        assert address.startswith(f"{hub.address}/me/digits/commit/")
        files = hub.repositories["me/digits"]
        assert set(files) == {"adapter.safetensors", "adapter.json", "README.md", "network.svg"}
        assert "load('me/digits')" in files["README.md"].decode()
        after, count = python(LOAD, tmp_path / "two", hub).splitlines()
    logits, label = after.rsplit(" ", 1)
    assert json.loads(logits) == json.loads(before)
    assert (label, count) == ("3", "6144")
    *again, unreachable = python(OFFLINE, tmp_path / "two").splitlines()  # from the cache
    assert again == [after, count]
    messages = [*refused, unreachable]
    says = ["write to 'me/digits'", "load 'me/nothing'", "me/empty holds no adapter", "load 'me/other'"]
    assert all(words in message for message, words in zip(messages, says, strict=True)), messages
    assert all("Fix: " in message for message in messages)
