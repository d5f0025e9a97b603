"""A changed file in a folder of runs gives a typed error or a valid result, whatever was changed and whoever reads."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import random
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pytest

from tensorfact.errors import SweepError, TensorfactError
from tensorfact.lab.report import summarize, terminal_tables
from tensorfact.lab.report.html import page
from tensorfact.lab.report.tables import latex, markdown, table_csv
from tensorfact.lab.sweep import Outcome, Results, RunSpec, read_results, run_sweep
from tensorfact.lab.sweep.store import Store
from tensorfact.lab.sweep.stored import build, read_json, typed
from tests.helpers import refused
from tests.lab.sweep.tiny import tiny

VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**60, 10**400, -0.5, 1e308, 1e999, float("nan"), "", "x", "\ud800", "\0"),
    *("=1", "tt:rank=" + "(" * 300, "vtab:", [], {}, [1], [[]], {"x": 1}, [None], "select", ["a", "a"]),
    *("tt:rank=1000000", "nano(x=", "few-shot:a:b", "folder:/dev/null", 10**5, "tt"),
]
TEXTS = [b"", b"\xff\xfe\0", b"null", b"[]", b"3", b'"', b"[" * 100_000, b'{"a":' * 900 + b"1" + b"}" * 900, b"{" * 9]


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value in JSON data."""
    if path:
        yield path
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


def mutant(contents: bytes, chance: random.Random) -> bytes:
    """Return a file with one thing changed."""
    kind = chance.choice(["drop", "value", "value", "value", "value", "key", "nest", "text", "cut", "swap"])
    if kind == "text":
        return chance.choice(TEXTS)
    if kind == "cut":
        return contents[: chance.randrange(len(contents))]
    data = json.loads(contents)
    *above, last = chance.choice(list(places(data)))
    holder = data
    for key in above:
        holder = holder[key]
    if kind == "drop":
        del holder[last]
    elif kind == "key" and isinstance(holder, dict):
        holder[chance.choice(["", "x", last + " ", "\ud800"])] = holder.pop(last)
    elif kind == "nest":
        holder[last] = chance.choice([[holder[last]], {"x": holder[last]}, {last: holder[last]}])
    elif kind == "swap":
        other = chance.choice(list(places(data)))
        source = data
        for key in other:
            source = source[key]
        holder[last] = copy.deepcopy(source)
    else:
        holder[last] = chance.choice(VALUES)
    return json.dumps(data).encode("utf-8", "surrogatepass")


def shown(results: Results) -> None:
    """Write every text of the report."""
    summary = summarize(results)
    for text in (page(summary), markdown(summary), latex(summary), table_csv(summary), results.to_json()):
        text.encode()
    for _, table in terminal_tables(summary):
        str(table).encode()


def read_all(folder: Path) -> None:
    """Read a folder of runs in every way; only errors of the library may come out."""
    store, known = Store(folder), RunSpec("nano", "vtab:svhn", "linear", None, 0, "final", tiny().settings)
    specs = [lambda path=path: RunSpec.from_dict(read_json(path)) for path in folder.glob("runs/*/spec.json")]
    reads: list[Callable[[], object]] = [store.sweep, store.inputs, store.results, lambda: store.read(known), *specs]
    for read in reads:
        with contextlib.suppress(TensorfactError):
            read()
    with contextlib.suppress(TensorfactError):
        shown(read_results(folder))


@pytest.fixture(scope="module")
def copies(done: tuple[Path, Results], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A finished sweep, and one without `results.json`."""
    folders = [tmp_path_factory.mktemp("mutants") / name for name in ("finished", "unfinished")]
    for folder in folders:
        shutil.copytree(done[0], folder)
    (folders[1] / "results.json").unlink()
    return folders


def changed(folder: Path, seeds: range) -> None:
    for seed in seeds:
        chance = random.Random(seed)
        name = chance.choice(["sweep.json", "results.json", "inputs.json", "spec.json", "result.json", "measured.json"])
        path = chance.choice(sorted(folder.rglob(name)) or [folder / "sweep.json"])
        before = path.read_bytes()
        path.write_bytes(mutant(before, chance))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                read_all(folder)
        except Exception as error:
            raise AssertionError(f"seed {seed}, {path.name}: {path.read_bytes()[:3000]!r}") from error
        finally:
            path.write_bytes(before)


@pytest.mark.parametrize("number", [0, 1])
def test_a_changed_file_gives_a_typed_error_or_a_valid_result(number: int, copies: list[Path]) -> None:
    changed(copies[number], range(number * 1000, number * 1000 + 30))


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_many_changed_files_give_typed_errors_or_valid_results(number: int, copies: list[Path]) -> None:
    changed(copies[number], range(10_000 * (number + 1), 10_000 * (number + 1) + 500))


@pytest.mark.parametrize("text", ["[]", "3", "null", '{"task x": []}', '{"task x": {"train": "y"}}', "{", '{"a": NaN}'])
def test_damaged_inputs_are_refused_before_anything_is_trained(text: str, root: Path, tmp_path: Path) -> None:
    (tmp_path / "inputs.json").write_text(text)
    with refused(SweepError, "inputs.json"):
        run_sweep(tiny(), tmp_path, root=root)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["sweep.json", "results.json"])
def test_a_fifo_in_place_of_a_file_is_not_waited_for(name: str, copies: list[Path], tmp_path: Path) -> None:
    shutil.copytree(copies[0], tmp_path / "runs")
    (tmp_path / "runs" / name).unlink()
    os.mkfifo(tmp_path / "runs" / name)
    with refused(SweepError, name, "FIFO"):
        read_results(tmp_path / "runs")


@pytest.mark.parametrize("folder", [None, 3, "", "a\0b"])
def test_what_is_no_folder_is_refused(folder: Any) -> None:
    with refused(SweepError, "folder"):
        read_results(folder)


def test_a_run_under_the_id_of_another_is_refused(done: tuple[Path, Results]) -> None:
    data = json.loads(done[1].to_json())
    one, other = list(data["runs"])[:2]
    for first, second in ((one, other), (other, one), ("x", one)):
        with refused(SweepError, "another run"):
            Results.from_data({**data, "runs": {first: data["runs"][second]}})


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (int, [0, -3, 2**53 - 1], [True, 1.0, "1", None, 2**53, []]),
        (float, [0, 1.5, -2], [False, float("nan"), float("inf"), 10**400, "1", None]),
        (str, ["", "a", "日"], ["\ud800", 1, None, ["a"]]),
        (bool, [True, False], [0, 1, "true", None]),
        (float | None, [None, 1, 2.5], ["x", True, []]),
        (tuple[int, ...], [[], [1, 2]], [[1.5], "12", {}, None, [None]]),
        (Mapping[str, int], [{}, {"a": 1}], [[], {"a": "b"}, {"a": None}, "a"]),
        (str | Mapping[str, int], ["a", {"a": 1}], [1, [], {"a": "b"}, None]),
        (Literal["a", "b"], ["a", "b"], ["c", 1, None, ["a"]]),
    ],
    ids=str,
)
def test_the_type_of_a_field_is_checked(kind: Any, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        found = typed(kind, value, "field")
        assert found == (tuple(value) if isinstance(value, list) else value)
    for value in bad:
        with refused(SweepError, "field"):
            typed(kind, value, "field")


@pytest.mark.parametrize("accuracy", [-0.1, 1.5, float("nan"), 100])
def test_an_accuracy_that_is_none_is_refused(accuracy: float) -> None:
    data = {"parameters": 1, "bytes": 1, "best_epoch": 0, "epochs": [], "sizes": {}, "method": "linear"}
    for name, other in (("val_accuracy", "test_accuracy"), ("test_accuracy", "val_accuracy")):
        with refused(SweepError, name):
            build(Outcome, {**data, name: accuracy, other: None})
