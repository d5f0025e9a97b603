"""The folder of an adapter: what is written is read, and what is damaged is refused by name."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tensorfact import AdapterState, adapt, convert, load_adapter
from tensorfact.adapters import Adapter
from tensorfact.errors import AdaptError, CheckpointError
from tensorfact.model.origin import ModelOrigin
from tensorfact.storage.folder import AdapterInfo, write_adapter_folder
from tensorfact.storage.located import FILES
from tests.helpers import TT, Tiny, bits, draw, qkv_plan, randomise, refused

texts = st.text(st.characters(codec="utf-8"), max_size=12)
plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
origins = st.builds(
    ModelOrigin,
    name=texts,
    options=st.dictionaries(texts, plain, max_size=3),
    pretrained=st.booleans(),
    checkpoint=st.none() | texts,
    seed=st.none() | st.integers(0, 1 << 62),
    repository=texts,
    license=texts,
)
infos = st.builds(
    AdapterInfo,
    origin=origins,
    classes=st.lists(texts, max_size=5).map(tuple),
    transform=st.none() | st.dictionaries(texts, plain, max_size=3),
    metrics=st.dictionaries(texts, st.floats(allow_nan=False, allow_infinity=False), max_size=3),
    data=st.dictionaries(texts, plain, max_size=3),
)


def tiny(seed: int = 0) -> Adapter:
    return adapt(randomise(Tiny()), qkv_plan(), TT, seed=seed)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(info=infos)
def test_what_is_written_is_read(info: AdapterInfo, tmp_path: Path) -> None:
    write_adapter_folder(tiny().state, tmp_path, info)
    assert AdapterInfo.read(tmp_path) == info
    front = (tmp_path / "README.md").read_text("utf-8").split("---\n")[1]
    assert all(": " in line for line in front.splitlines())
    assert (tmp_path / "network.svg").read_text().startswith("<svg")


def test_what_is_shared_names_no_folder_of_this_machine(tmp_path: Path) -> None:
    info = AdapterInfo(ModelOrigin("nano", checkpoint=str(tmp_path / "w.safetensors")), ("a",))
    assert info.without_path() == AdapterInfo(ModelOrigin("nano", checkpoint="w.safetensors"), ("a",))
    assert AdapterInfo().without_path() == AdapterInfo()


def test_a_folder_stands_for_its_file(tmp_path: Path) -> None:
    adapter = tiny()
    draw(adapter)
    adapter.save_pretrained(tmp_path / "a", classes=list("xyz"))
    adapter.save(tmp_path / "a.safetensors")
    assert (tmp_path / "a" / "adapter.safetensors").read_bytes() == (tmp_path / "a.safetensors").read_bytes()
    for path in (tmp_path / "a", str(tmp_path / "a"), tmp_path / "a" / "adapter.safetensors"):
        loaded = AdapterState.load(path)
        assert {name: bits(t) for name, t in loaded.tensors.items()} == {
            name: bits(t) for name, t in adapter.state.tensors.items()
        }
        assert convert(path, TT).state.num_parameters == adapter.num_parameters
    assert load_adapter(randomise(Tiny()), tmp_path / "a").num_parameters == adapter.num_parameters


def test_other_files_in_the_folder_stay(tmp_path: Path) -> None:
    (tmp_path / "curve.png").write_text("mine")
    tiny().save_pretrained(tmp_path)
    assert (tmp_path / "curve.png").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == sorted([*FILES, "curve.png"])


def test_a_readme_of_another_origin_is_not_overwritten(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    for text in (
        b"# My project\n",
        b"",
        b"\xff\xfe",
        card_of(tmp_path / "other"),
    ):  # a card without an adapter beside it
        readme.write_bytes(text)
        with refused(CheckpointError, readme, "did not write", "choose another folder, or move the file: mv "):
            tiny().save_pretrained(tmp_path)
        assert readme.read_bytes() == text
        assert not (tmp_path / "adapter.safetensors").exists()


def card_of(folder: Path) -> bytes:
    tiny().save_pretrained(folder)
    return (folder / "README.md").read_bytes()


def test_an_adapter_is_saved_again_where_its_card_was_edited(tmp_path: Path) -> None:
    text = card_of(tmp_path).decode()
    for edited in (
        text,
        text.replace("# Adapter", "# Mine\n\n# Adapter"),
        "---\nlibrary_name: tensorfact\n---\nWords.\n",
    ):
        (tmp_path / "README.md").write_text(edited)
        assert card_of(tmp_path).decode() == text
    (tmp_path / "README.md").write_text("# My own page")
    with refused(CheckpointError, "did not write"):
        tiny().save_pretrained(tmp_path)


def changed(path: Path, **entries: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def without(path: Path, entry: str) -> None:
    path.write_text(json.dumps({name: value for name, value in json.loads(path.read_text()).items() if name != entry}))


DAMAGED: dict[str, Any] = {
    "no JSON": lambda path: path.write_text("{"),
    "deep": lambda path: path.write_text("[" * 100_000),
    "a list": lambda path: path.write_text("[]"),
    "bytes": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "missing": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "version": lambda path: changed(path, version=99),
    "classes": lambda path: changed(path, classes=[1, 2]),
    "no classes": lambda path: changed(path, classes=None),
    "transform": lambda path: changed(path, transform="resize"),
    "data": lambda path: changed(path, data=[1]),
    "metrics": lambda path: changed(path, metrics={"a": "good"}),
    "infinite": lambda path: changed(path, metrics={"a": float("inf")}),
    "base model": lambda path: changed(path, base_model={"nome": "vit"}),
    "options": lambda path: changed(path, base_model={"options": 3}),
    "output": lambda path: changed(path, output={"values": None, "tolerance": 0.01}),
    "digest": lambda path: changed(path, digest="0" * 64),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_description_is_refused_with_its_name(damage: str, tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path)
    DAMAGED[damage](tmp_path / "adapter.json")
    with refused(CheckpointError, str(tmp_path / "adapter.json")):
        AdapterInfo.read(tmp_path)


@pytest.mark.parametrize(
    "wrong", [{"name": 3}, {"pretrained": "yes"}, {"seed": "x"}, {"checkpoint": 1}, {"license": None}, {"more": 1}]
)
def test_fields_of_another_type_are_refused(wrong: dict[str, Any], tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path)
    path = tmp_path / "adapter.json"
    changed(path, base_model=json.loads(path.read_text())["base_model"] | wrong)
    with refused(CheckpointError, str(path)):
        AdapterInfo.read(tmp_path)


PLAIN: dict[str, Any] = {
    "no entry 'classes'": lambda path: without(path, "classes"),
    "no entry 'version'": lambda path: path.write_text("{}"),
    "version 99": lambda path: changed(path, version=99),
    "classes that are not a list of names": lambda path: changed(path, classes="abc"),
    "metrics that are not finite numbers by name": lambda path: changed(path, metrics={"a": []}),
    "an unknown entry 'nome' in base_model": lambda path: changed(path, base_model={"nome": "vit"}),
    "no entry 'tolerance' in output": lambda path: changed(path, output={"values": [1.0]}),
    "a text that is not JSON, from line 1, column 2": lambda path: path.write_text("{"),
    "JSON data that is not an object": lambda path: path.write_text("[]"),
}


@pytest.mark.parametrize("words", PLAIN)
def test_a_damaged_description_is_explained_in_plain_words(words: str, tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path)
    PLAIN[words](tmp_path / "adapter.json")
    with refused(CheckpointError, f"got {words}. Fix: "):
        AdapterInfo.read(tmp_path)


def test_a_byte_order_mark_is_no_damage(tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path, classes=list("abc"))
    about = tmp_path / "adapter.json"
    about.write_bytes(b"\xef\xbb\xbf" + about.read_bytes())
    assert AdapterInfo.read(tmp_path).classes == tuple("abc")


def test_two_adapters_are_not_mixed(tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path)
    draw(other := tiny(seed=1))
    other.save(tmp_path / "adapter.safetensors")
    with refused(CheckpointError, "belongs to another"):
        AdapterInfo.read(tmp_path)


@pytest.mark.parametrize(
    "given",
    [
        {"classes": [1, 2]},
        {"classes": "abc"},
        {"classes": ["a", "a"]},
        {"classes": 3},
        {"metrics": {"a": float("nan")}},
        {"metrics": [1]},
        {"transform": 3},
    ],
)
def test_what_is_no_description_is_refused_before_a_file_is_written(given: dict[str, Any], tmp_path: Path) -> None:
    with refused(AdaptError, "save_pretrained"):
        tiny().save_pretrained(tmp_path / "new", **given)
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with refused(CheckpointError, str(tmp_path / "file"), fix=False):
        tiny().save_pretrained(tmp_path / "file")
    assert dataclasses.is_dataclass(AdapterInfo)
