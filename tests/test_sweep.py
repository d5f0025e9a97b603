"""A sweep chooses by the validation split, reports the chosen, never trains twice, and survives being killed."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorfact.errors import DataError, SweepError, TensorfactError
from tensorfact.lab.models import model_shapes
from tensorfact.lab.sweep import (
    PRESETS,
    PROTOCOLS,
    Outcome,
    Part,
    Results,
    Row,
    Run,
    RunSpec,
    Settings,
    Sweep,
    in_process,
    known_specs,
    narrowed,
    on_models,
    parameters,
    preset,
    read_results,
    run_sweep,
    sizes,
    trained_for,
)
from tensorfact.lab.sweep.cells import collect, grid
from tensorfact.lab.sweep.counts import printed_size

from .helpers import refused
from .make_benchmarks import lay_out_vtab

TASKS = ("vtab:svhn", "vtab:eurosat")
SHORT = Settings(epochs=1, warmup_epochs=0, batch_size=4)


def tiny(*rows: Row, **changes: Any) -> Sweep:
    rows = rows or (Row("linear", ("linear",)), Row("TT", ("tt:rank=1", "tt:rank=2"), (1.0, 10.0)))
    return Sweep("tiny", (Part("nano", "nano", "nano", TASKS, rows),), (0, 1), SHORT, **changes)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks of VTAB with three images a list."""
    folder = tmp_path_factory.mktemp("vtab")
    for name in TASKS:
        lay_out_vtab(folder, name.removeprefix("vtab:"))
    return folder


@pytest.fixture(scope="module")
def done(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    """A sweep that was run."""
    folder = tmp_path_factory.mktemp("runs")
    return folder, run_sweep(tiny(), folder, root=root)


# ---------------------------------------------------------------------------------------------------- plain data

specs = st.builds(
    RunSpec,
    st.text(min_size=1),
    st.text(min_size=1),
    st.text(min_size=1),
    st.none() | st.floats(0.001, 1000),
    st.integers(0, 2**31),
    st.sampled_from(["select", "final", "released"]),
    st.builds(Settings, st.integers(1, 999), lr=st.floats(1e-6, 1)),
    st.booleans(),
    st.none() | st.text(),
)


@given(specs, specs)
def test_a_spec_reads_back_equal_and_has_an_id_of_its_own(one: RunSpec, other: RunSpec) -> None:
    assert RunSpec.from_json(one.to_json()) == one
    assert (one.id == other.id) == (one == other)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_sweep_reads_back_equal(name: str, protocol: str) -> None:
    sweep = PROTOCOLS[protocol](preset(name))
    assert Sweep.from_json(sweep.to_json()) == sweep


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"model": "nano"}', '{"modell": 1}'])
def test_what_is_no_spec_is_refused(text: str) -> None:
    with pytest.raises(SweepError):
        RunSpec.from_json(text)


def test_an_unknown_setting_or_stage_is_refused() -> None:
    data = RunSpec("nano", "digits", "bitfit", None, 0, "final").to_dict()
    with refused(SweepError, "Settings"):
        RunSpec.from_dict({**data, "settings": {"epoch": 3}})
    with refused(SweepError, "stage"):
        RunSpec.from_dict({**data, "stage": "test"})


# ---------------------------------------------------------------------------------------------------- the paper


shapes = functools.cache(model_shapes)


def published() -> Iterator[Any]:
    for part in preset("paper").parts:
        for row in part.rows:
            if row.parameters is not None:
                yield pytest.param(part, row, id=f"{part.name}-{row.label}")


@pytest.mark.parametrize(("part", "row"), list(published()))
def test_sizes_are_the_published_ones(part: Part, row: Row) -> None:
    counts = parameters(preset("paper"), part, row, shapes(part.model))
    printed = float(printed_size({task: float(each[0]) for task, each in counts.items()}))
    assert row.parameters is not None
    digits = 3 if row.parameters < 1e6 else 1  # of millions, as the paper prints them
    assert round(printed, digits) == round(row.parameters / 1e6, digits)


def test_the_papers_ranks_have_the_published_sizes() -> None:
    sweep = preset("paper")
    part = sweep.parts[0]
    rows = {row.label: row for row in part.rows}
    found = (parameters(sweep, part, rows[label], shapes(part.model)) for label in ("FacT-TT≤16", "FacT-TK≤32"))
    tt, tk = (counts["vtab:cifar"] for counts in found)
    assert tt == (1_680, 3_648, 8_448, 21_504, 61_440)
    assert tk == (3_368, 6_784, 13_952, 30_976, 86_528)


def test_the_paper_has_the_papers_protocol() -> None:
    sweep = preset("paper")
    settings = sweep.settings
    assert (settings.lr, settings.weight_decay, settings.batch_size) == (1e-3, 1e-4, 64)
    assert (settings.epochs, settings.warmup_epochs) == (100, 10)
    assert {scale for row in sweep.parts[0].rows for scale in row.scales} == {None, 0.01, 0.1, 1.0, 10.0, 100.0}
    assert [len(part.tasks) for part in sweep.parts] == [19, 75, 19]
    released = PROTOCOLS["as-released"](sweep)
    assert (released.settings.dropout, released.settings.drop_path, released.seeds) == (0.1, 0.1, (0,))
    assert {spec.stage for spec in known_specs(released)} == {"released"}
    assert "test split" in released.protocol


def test_a_run_that_two_rows_share_is_one_run() -> None:
    part = preset("paper").parts[0]
    sweep = narrowed(preset("paper"), parts=["vtab"], rows=["FacT-TT4", "FacT-TT≤16"])
    assert len(known_specs(sweep)) == len(part.tasks) * 5 * 5


def test_the_list_says_sizes_and_runs() -> None:
    table = sizes(preset("paper"), preset("paper").parts[2])
    assert (
        "FacT-TT16",
        "fact-tt:rank=16",
        "0.01, 0.1, 1, 10, 100",
        "135,168",
        "0.135",
        "0.135",
        "95",
        "57",
    ) in table.rows


# ---------------------------------------------------------------------------------------------------- choosing


def outcome(accuracy: float | None, parameters: int = 1) -> Outcome:
    failure = "" if accuracy is not None else "the loss is nan"
    return Outcome(parameters, 1, accuracy, None, 0, (), {"train": 1}, "tt:rank=1", failure)


@given(st.lists(st.none() | st.sampled_from([0.1, 0.5, 0.9]), min_size=4, max_size=4))
def test_the_best_on_the_validation_split_is_reported(accuracies: list[float | None]) -> None:
    sweep = tiny(Row("TT", ("tt:rank=1", "tt:rank=2"), (1.0, 10.0)))
    tried = [spec for spec in known_specs(sweep) if spec.task == TASKS[0]]
    runs = {spec.id: Run(spec, outcome(value)) for spec, value in zip(tried, accuracies, strict=True)}
    _, needed = collect(sweep, runs, grid(sweep))
    final = [spec for spec in needed if spec.stage == "final"]
    best = max((value for value in accuracies if value is not None), default=None)
    assert {spec.task for spec in final} == ({TASKS[0]} if best is not None else set())
    assert [spec.seed for spec in final] == ([0, 1] if best is not None else [])
    if best is not None:
        assert {spec.scale for spec in final} == {tried[accuracies.index(best)].scale}


def test_of_equal_candidates_the_smallest_is_taken() -> None:
    sweep = tiny(Row("TT", ("tt:rank=2", "tt:rank=1")))
    tried = [spec for spec in known_specs(sweep) if spec.task == TASKS[0]]
    found = {"tt:rank=2": 20, "tt:rank=1": 10}
    runs = {
        spec.id: Run(spec, dataclasses.replace(outcome(0.5, found[spec.method]), method=spec.method)) for spec in tried
    }
    _, needed = collect(sweep, runs, grid(sweep))
    assert {spec.method for spec in needed if spec.stage == "final"} == {"tt:rank=1"}


def test_one_candidate_is_not_tried_first() -> None:
    assert {spec.stage for spec in known_specs(tiny(Row("linear", ("linear",))))} == {"final"}
    assert {spec.stage for spec in known_specs(tiny(Row("NOAH", ("noah:budget=100",))))} == {"select"}


# ---------------------------------------------------------------------------------------------------- running


def test_a_sweep_fills_its_table(done: tuple[Path, Results]) -> None:
    _, results = done
    assert [(cell.row, cell.task) for cell in results.cells] == list(itertools.product(["linear", "TT"], TASKS))
    for cell in results.cells:
        runs = [results.runs[id] for id in cell.runs]
        assert [run.spec.seed for run in runs] == [0, 1]
        for run in runs:
            assert run.outcome.test_accuracy is not None
            assert run.outcome.val_accuracy is None
            assert run.outcome.sizes == {"train": 3, "val": 3, "test": 3}
        for tried in (results.runs[id].outcome for id in cell.candidates):
            assert tried.test_accuracy is None


def test_what_is_done_is_not_done_again(done: tuple[Path, Results], root: Path) -> None:
    folder, results = done
    written = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/*")}
    again = run_sweep(tiny(), folder, root=root)
    assert again.to_json() == results.to_json()
    assert {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/*")} == written
    assert {path.name for path in written} == {"spec.json", "result.json", "measured.json"}


def test_results_read_back_and_a_part_of_them_too(done: tuple[Path, Results], tmp_path: Path) -> None:
    folder, results = done
    assert Results.from_json(results.to_json()).to_json() == results.to_json()
    read = read_results(folder)
    assert read.to_json() == results.to_json()
    assert all(run.measured is not None for run in read.runs.values())
    (tmp_path / "sweep.json").write_text((folder / "sweep.json").read_text())
    for path in sorted(folder.glob("runs/*"))[::2]:
        (tmp_path / "runs").mkdir(exist_ok=True)
        (tmp_path / "runs" / path.name).symlink_to(path)
    some = read_results(tmp_path)
    assert {*some.runs} < {*results.runs}
    assert len(some.cells) == len(results.cells)


def test_a_run_that_diverges_is_never_chosen(root: Path, tmp_path: Path) -> None:
    sweep = narrowed(tiny(Row("TT", ("tt:rank=1",), (1.0, 3e38))), tasks=["vtab:svhn"])
    sweep = dataclasses.replace(sweep, settings=dataclasses.replace(SHORT, epochs=3, batch_size=2, lr=1.0), seeds=(0,))
    results = run_sweep(sweep, tmp_path, root=root)
    failed = {run.spec.scale: run.outcome.failure for run in results.runs.values() if run.spec.stage == "select"}
    assert failed[1.0] == ""
    assert "loss" in failed[3e38]
    assert {results.runs[id].spec.scale for cell in results.cells for id in cell.runs} == {1.0}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"methods": ["tt:rank=1000000"]}, "RankError"),
        ({"methods": ["bitfitt"]}, "SweepError"),
        ({"methods": ["lora:rnk=1"]}, "SweepError"),
        ({"tasks": ["vtab:cifar"]}, "DataError"),
        ({"tasks": ["nothing"]}, "DataError"),
    ],
)
def test_a_mistake_shows_before_anything_is_written(change: Any, error: str, root: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r".") as caught:
        run_sweep(narrowed(tiny(), **change), tmp_path / "runs", root=root)
    assert caught.type.__name__ == error
    assert not list(tmp_path.glob("runs/*.json"))


def test_damaged_images_are_found_before_anything_trains(tmp_path: Path) -> None:
    for name in TASKS:
        lay_out_vtab(tmp_path / "data", name.removeprefix("vtab:"))
    broken = next((tmp_path / "data" / "eurosat" / "images").rglob("*.jpg"))
    broken.write_bytes(b"no image")
    with refused(DataError, broken.name):
        run_sweep(tiny(), tmp_path / "runs", root=tmp_path / "data")
    assert not (tmp_path / "runs" / "runs").exists()


def test_a_folder_in_use_is_refused(root: Path, tmp_path: Path) -> None:
    def engine(job: Any, specs: Any) -> Iterator[RunSpec]:
        with refused(SweepError, "in use"):
            run_sweep(tiny(), tmp_path, root=root)
        yield from in_process(job, specs)

    run_sweep(tiny(Row("linear", ("linear",))), tmp_path, root=root, engine=engine)


def test_a_damaged_result_is_named(root: Path, tmp_path: Path) -> None:
    sweep = tiny(Row("linear", ("linear",)))
    run_sweep(sweep, tmp_path, root=root)
    path = next(tmp_path.glob("runs/*/result.json"))
    path.write_text(path.read_text()[:40])
    with refused(SweepError, path.parent.name):
        run_sweep(sweep, tmp_path, root=root)


# ---------------------------------------------------------------------------------------------------- changing


def test_a_sweep_is_narrowed_and_put_on_other_models() -> None:
    sweep = narrowed(preset("paper"), parts=["vtab"], rows=["BitFit", "FacT-TT4"], tasks=["digits"], scales=[1, 2])
    assert [(row.label, row.scales) for row in sweep.parts[0].rows] == [("BitFit", (None,)), ("FacT-TT4", (1, 2))]
    assert sweep.parts[0].tasks == ("digits",)
    own = narrowed(preset("small"), methods=["bitfit", "tt:rank=2"], scales=[3.0])
    assert [(row.label, row.scales) for row in own.parts[0].rows] == [("bitfit", (None,)), ("tt:rank=2", (3.0,))]
    models = [part.model for part in on_models(preset("paper"), ["nano", "swin=a(b=1)"], pretrained=False).parts]
    assert models == ["nano", "nano", "a(b=1)"]
    short = trained_for(preset("paper"), epochs=20, seeds=1)
    assert (short.settings.epochs, short.settings.warmup_epochs, short.seeds) == (20, 2, (0,))


@pytest.mark.parametrize(
    "change",
    [
        lambda: preset("papper"),
        lambda: narrowed(preset("paper"), parts=["vtap"]),
        lambda: narrowed(preset("paper"), rows=["FacT"]),
        lambda: on_models(preset("paper"), ["vitt=nano"]),
        lambda: sizes(*(lambda s: (s, s.parts[0]))(narrowed(preset("paper"), parts=["vtab"], tasks=["digits"]))),
    ],
)
def test_what_a_sweep_has_not_is_refused(change: Any) -> None:
    with pytest.raises(SweepError):
        change()


def test_results_say_nothing_of_the_machine(done: tuple[Path, Results]) -> None:
    text = json.dumps(json.loads(done[1].to_json()))
    assert "seconds" not in text
    assert str(done[0]) not in text


def test_other_data_or_weights_need_another_folder(root: Path, tmp_path: Path) -> None:
    sweep = narrowed(tiny(Row("linear", ("linear",))), tasks=["vtab:svhn"])
    run_sweep(sweep, tmp_path / "runs", root=root)
    lay_out_vtab(tmp_path / "more", "svhn", images=5)
    with refused(SweepError, "vtab:svhn", "choose another folder"):
        run_sweep(sweep, tmp_path / "runs", root=tmp_path / "more")


def test_a_report_is_not_of_the_sweep_before(root: Path, tmp_path: Path) -> None:
    def stopped(job: Any, specs: Any) -> Iterator[RunSpec]:
        job(specs[0])
        yield specs[0]
        raise KeyboardInterrupt

    run_sweep(tiny(Row("linear", ("linear",))), tmp_path, root=root)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(tiny(Row("BitFit", ("bitfit",))), tmp_path, root=root, engine=stopped)
    found = read_results(tmp_path)
    assert {cell.row for cell in found.cells} == {"BitFit"}
    assert not any(cell.runs for cell in found.cells)
    with refused(SweepError, "undone"):
        run_sweep(tiny(Row("BitFit", ("bitfit",))), tmp_path, root=root, engine=lambda job, specs: iter(()))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("seed", "a"), ("seed", None), ("seed", 2**70), ("scale", 0), ("scale", float("nan")), ("scale", -1.0)),
        *(("model", None), ("task", 3), ("method", []), ("checkpoint", 5), ("settings", None), ("pretrained", "x")),
    ],
)
def test_a_spec_of_wrong_types_is_refused(field: str, value: Any) -> None:
    with pytest.raises(SweepError):
        RunSpec.from_dict({**RunSpec("nano", "digits", "tt:rank=1", 1.0, 0, "final").to_dict(), field: value})


def test_equal_specs_have_equal_ids() -> None:
    one, other = (
        RunSpec("nano", "digits", "tt:rank=1", s, 0, "final", Settings(lr=n)) for s, n in ((1, 1), (1.0, 1.0))
    )
    assert one == other
    assert one.id == other.id


@pytest.mark.parametrize(
    "text", ["adapter:hidden=0", "vpt-deep:length='x'", "noah:budget=1", "noah:bogus=1", "lora:rnk=1"]
)
def test_options_are_checked_before_anything_trains(text: str, root: Path, tmp_path: Path) -> None:
    with pytest.raises(TensorfactError):
        run_sweep(narrowed(tiny(), methods=["linear", text]), tmp_path, root=root)
    assert not (tmp_path / "runs").exists()


def test_nothing_is_there_twice() -> None:
    for change in ({"tasks": ["digits", "digits"]}, {"methods": ["bitfit", "bitfit"]}):
        with refused(SweepError, "none twice"):
            narrowed(preset("small"), **change)  # type: ignore[arg-type]
    with refused(SweepError, "none twice"):
        dataclasses.replace(preset("small"), seeds=(0, 0))
    assert narrowed(preset("small"), rows=["LoRA"], scales=[1, 1.0]).parts[0].rows[0].scales == (1.0,)


def test_another_model_has_a_title_of_its_own_and_nothing_published() -> None:
    sweep = on_models(preset("paper"), ["vtab=a(b=1)", "nano"])
    assert [(part.model, part.title) for part in sweep.parts][:2] == [
        ("a(b=1)", "vtab on a(b=1)"),
        ("nano", "few-shot on nano"),
    ]
    assert not any(row.parameters or row.accuracy for part in sweep.parts for row in part.rows)
