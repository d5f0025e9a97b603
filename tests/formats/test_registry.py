"""Names of formats in files and on the command line."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tensorfact import (
    CP,
    Format,
    MatrixBatch,
    TensorTrain,
    adapt,
    available_formats,
    get_format,
    load_adapter,
    plan_for,
    register_format,
)
from tensorfact.errors import FormatError, RankError, TensorfactError
from tensorfact.formats import (
    Each,
    Nested,
    Started,
    format_from_dict,
    format_label,
    format_to_dict,
    parse_format,
    registry,
)
from tensorfact.lab import nano
from tests.helpers import refused


@dataclasses.dataclass(frozen=True)
class Mine(TensorTrain):
    """Somebody else's format, with an option of its own."""

    taste: str = "plain"


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch) -> type[Mine]:
    """Register `Mine` while one test lasts."""
    monkeypatch.setattr(registry, "_formats", dict(registry._formats))
    register_format("my_Format ", Mine)
    return Mine


def test_the_built_in_names() -> None:
    assert {"cp", "matrix-batch", "tt", "tucker"} <= set(available_formats())
    assert list(available_formats()) == sorted(available_formats())


@pytest.mark.parametrize(
    ("name", "kind"),
    [("tt", TensorTrain), (" TT ", TensorTrain), ("Matrix_Batch", MatrixBatch), ("cp", CP)],
)
def test_case_and_underscores_do_not_count(name: str, kind: type[Format]) -> None:
    assert get_format(name) is kind


@pytest.mark.parametrize("name", ["tuker", "", "  ", "tt2", None, 3])
def test_an_unknown_name_is_refused(name: Any) -> None:
    with refused(FormatError, repr(name), fix=False):
        get_format(name)


def test_the_nearest_name_is_suggested() -> None:
    with refused(FormatError, "'tuker'", "did you mean 'tucker'?", "matrix-batch"):
        get_format("tuker")


def test_a_registered_format_is_found_stored_and_read(mine: type[Mine]) -> None:
    assert get_format("MY-format") is mine
    assert "my-format" in available_formats()
    format = parse_format("my-format:rank=3,taste='sweet'")
    assert format == Mine(3, taste="sweet")
    assert format_from_dict(json.loads(json.dumps(format_to_dict(format)))) == format


def test_registering_twice_is_harmless_and_taking_a_name_is_not(mine: type[Mine]) -> None:
    register_format("my-format", mine)
    with refused(FormatError, "'tt'", "TensorTrain"):
        register_format("TT", mine)


@pytest.mark.parametrize("thing", [TensorTrain(1), "tt", int, None, dataclasses.make_dataclass("D", [])])
def test_only_formats_are_registered(thing: Any) -> None:
    with refused(FormatError, "'thing'", repr(thing), fix=False):
        register_format("thing", thing)
    assert "thing" not in available_formats()


def test_an_unregistered_format_cannot_be_stored() -> None:
    with refused(FormatError, "Mine", "register_format"):
        format_to_dict(Mine(2))


@pytest.mark.parametrize("text", ["tt:rank=0", "tt:rank=1.5", "tt:rank='4'", "cp:rank=(1,2)", "tt:rank={}"])
def test_a_rank_on_the_command_line_is_held_to_the_same_rules(text: str) -> None:
    with refused(RankError):
        parse_format(text)


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        "tt",
        {},
        {"rank": 4},
        {"name": None, "rank": 4},
        {"name": "tt"},
        {"name": "tt", "rank": 4, "colour": 1},
        {"name": "tt", "rank": None},
        {"name": "tt", "rank": {"a": 1}},
        {"name": "tt", "rank": [[1]]},
        {"name": "tt", "rank": 4, "order": 5},
        {"name": "nothing", "rank": 4},
    ],
)
def test_stored_data_that_is_no_format_is_refused(data: Any) -> None:
    with pytest.raises(FormatError):
        format_from_dict(data)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=3), st.lists, max_leaves=5))
def test_any_stored_option_is_a_format_or_an_error_of_the_library(value: Any) -> None:
    for option in ("rank", "order"):
        try:
            format = format_from_dict({"name": "tt", "rank": 2, option: value})
        except TensorfactError:
            continue
        assert format_from_dict(json.loads(json.dumps(format_to_dict(format)))) == format


# --------------------------------------------------------------------------------------------------- installed packages


MODULE = """
import dataclasses
from tensorfact import TensorTrain

@dataclasses.dataclass(frozen=True)
class Installed(TensorTrain):
    pass
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a distribution on the path that names two formats, one of which cannot be loaded."""
    (tmp_path / "somebodys_format.py").write_text(MODULE)
    metadata = tmp_path / "somebodys-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: somebodys\nVersion: 1.0\n")
    entries = {"Some_Bodys": "somebodys_format:Installed", "broken": "nowhere_at_all:Broken"}
    lines = [f"[{registry.GROUP}]", *(f"{name} = {value}" for name, value in entries.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.setattr(registry, "_formats", dict(registry._formats))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "somebodys_format", raising=False)
    return tmp_path


def test_the_name_of_an_installed_format_is_known_before_it_is_loaded(installed: Path) -> None:
    assert {"some-bodys", "broken", "tt"} <= set(available_formats())
    assert "somebodys_format" not in sys.modules
    assert get_format("SOME_bodys").__name__ == "Installed"
    assert "somebodys_format" in sys.modules


def test_an_installed_format_is_read_from_text_and_files(installed: Path) -> None:
    format = parse_format("some-bodys:rank=3")
    assert type(format) is get_format("some-bodys")
    assert format_to_dict(format) == {"name": "some-bodys", "rank": 3}
    model = nano()
    adapt(model, plan_for(model), format).save(installed / "file")
    assert load_adapter(nano(), installed / "file").formats == {"encoder": format}


def test_an_installed_format_that_was_imported_first_has_its_name(installed: Path) -> None:
    theirs = importlib.import_module("somebodys_format")
    assert format_to_dict(theirs.Installed(2)) == {"name": "some-bodys", "rank": 2}


def test_an_entry_that_cannot_be_loaded_names_its_package(installed: Path) -> None:
    for use in (get_format, parse_format):
        with refused(FormatError, "'broken'", "somebodys", "nowhere_at_all:Broken"):
            use("broken")
    assert get_format("tt") is TensorTrain
    with refused(FormatError, "did you mean"):
        get_format("tucke")


@pytest.mark.parametrize(
    ("text", "format"),
    [
        ("each:format=matrix-batch(rank=4)", Each(MatrixBatch(4))),
        ("nested:format=tt(rank=4),cores={'U': tt(rank=2)}", Nested(TensorTrain(4), {"U": TensorTrain(2)})),
        (
            "started:format=tt(rank=4),starts=(('U','zero'),),frozen=('V',)",
            Started(TensorTrain(4), {"U": "zero"}, ["V"]),
        ),
    ],
)
def test_a_format_within_a_format_is_written_as_a_call(text: str, format: Format) -> None:
    assert parse_format(text) == format
    assert format_from_dict(json.loads(json.dumps(format_to_dict(format)))) == format


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("each:format=nope(rank=2)", "nope"),
        ("nested:format=tt(rank=4),cores=5", "from core names to formats"),
        ("each:format=tt(5)", "tt"),
        ("gates:rank=3", "no options"),
    ],
)
def test_a_mistake_within_a_format_is_named(text: str, word: str) -> None:
    with refused(FormatError, word, fix=False):
        parse_format(text)


def nested(depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {"name": "tt", "rank": 1}
    for _ in range(depth):
        found = {"name": "each", "format": found}
    return found


@pytest.mark.parametrize(
    "data",
    [nested(10_000), {"name": "tt", "rank": [1] * 1_000_000}, {"name": "tt", **dict.fromkeys(map(str, range(50_000)))}],
)
def test_stored_formats_beyond_any_format_are_refused(data: dict[str, Any]) -> None:
    with refused(FormatError, "at most 10,000 values in 32 levels"):
        format_from_dict(data)
    assert format_from_dict(nested(20)) == format_from_dict(nested(20))


@pytest.mark.parametrize(
    "text",
    ["tt:" + "rank=1," * 200_000, "tt:rank=" + "(" * 10_000, "x" * 1_000_000],
    ids=["options", "levels", "name"],
)
def test_texts_beyond_any_format_are_refused(text: str) -> None:
    with refused(FormatError, "at most 10,000 characters"):
        parse_format(text)


@pytest.mark.parametrize("frozen", [5, None, "U", {"U": 1}])
def test_frozen_names_are_a_list(frozen: Any) -> None:
    with refused(FormatError, "Started: frozen"):
        format_from_dict({"name": "started", "format": {"name": "tt", "rank": 1}, "frozen": frozen})


@pytest.mark.parametrize("text", [None, 5, b"tt:rank=4", ["tt"], TensorTrain(rank=4)])
def test_a_format_to_parse_is_a_str(text: Any) -> None:
    with refused(FormatError, "NAME:option=value"):
        parse_format(text)


@pytest.mark.parametrize("format", [None, "tt", TensorTrain, {"name": "tt"}, torch.ones(2)])
def test_only_a_format_has_a_label(format: Any) -> None:
    with refused(FormatError, "a Format"):
        format_label(format)


@pytest.mark.parametrize("text", ["tt:rank=" + "9" * 5000, "tt:rank=" + "-" * 3000, "tt:rank=" + "(" * 3000])
def test_a_long_format_is_quoted_in_part(text: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse_format(text)
    assert len(str(caught.value)) < 400
