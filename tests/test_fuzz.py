"""The fuzzer: a few cases of each kind, and that it counts what is wrong."""

from __future__ import annotations

import gc
import os
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch import nn

from tensorfact.errors import CheckpointError
from tests.fuzz import judge
from tests.fuzz.case import Case, Kind, Verdict, numbers
from tests.fuzz.containers import damaged, taken_apart
from tests.fuzz.kinds import KINDS, schedule
from tests.fuzz.report import counts, failure
from tests.fuzz.values import garbled, mutated
from tests.fuzz.workers import run_cases
from tests.memory import MEASURED

CASES = {kind: 8 if kind in ("command", "sweep") else 40 for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_cases_of_each_kind_have_no_problem(kind: str, tmp_path: Path) -> None:
    if not MEASURED:
        pytest.skip("the fuzzer measures memory as Linux reports it")
    KINDS[kind](numbers(SEED, kind, 0), tmp_path)  # the inputs that all cases share
    found = [judge.run_case(kind, KINDS[kind], SEED, number, tmp_path / str(number)) for number in range(CASES[kind])]
    assert [failure(verdict, SEED) for verdict in found if verdict.problems] == []
    assert {"refused"} <= {verdict.outcome for verdict in found} <= {"valid", "refused"}


SEED = 0


def judged(case: Case, folder: Path) -> Verdict:
    return judge.judge("planted", 0, case, folder)


@pytest.mark.parametrize("error", [ValueError("x"), RuntimeError(), KeyError("a"), MemoryError(), AssertionError()])
def test_a_bare_error_is_counted(error: Exception, tmp_path: Path) -> None:
    def act() -> None:
        raise error

    found = judged(Case("planted", act), tmp_path)
    assert (found.outcome, found.problems) == ("failed", ("bare",))
    assert type(error).__name__ in failure(found, 3)
    assert failure(found, 3).endswith("python -m tests.fuzz --seed 3 --kind planted --case 0")


def test_a_result_that_cannot_be_used_is_a_bare_error(tmp_path: Path) -> None:
    assert judged(Case("planted", lambda: 0, use=lambda found: 1 / found), tmp_path).problems == ("bare",)


def freeze(model: nn.Module) -> None:
    model.requires_grad_(False)


def fill(model: nn.Module) -> None:
    with torch.no_grad():
        next(model.parameters()).fill_(0)


def hook(model: nn.Module) -> None:
    model.register_forward_hook(lambda *_: None)


def attribute(model: nn.Module) -> None:
    model.__dict__["left"] = 1


@pytest.mark.parametrize("change", [freeze, fill, hook, attribute, nn.Module.eval])
def test_a_half_changed_model_is_counted(change: Any, tmp_path: Path) -> None:
    model = nn.Linear(2, 2)

    def act() -> None:
        change(model)
        raise CheckpointError("refused")

    assert judged(Case("planted", act, models=(model,)), tmp_path).problems == ("half-changed",)


@pytest.mark.parametrize("change", ["other", None, "new", ".a.tmp"])
def test_a_half_changed_folder_is_counted(change: str | None, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("content")

    def act() -> None:
        (tmp_path / "a").unlink()
        if change is not None:
            (tmp_path / (change if change != "other" else "a")).write_text("other")
        raise CheckpointError("refused")

    assert judged(Case("planted", act), tmp_path).problems == ("half-changed",)


def spin() -> None:
    while True:
        try:
            pass
        except Exception:
            return


def swallow() -> None:
    try:
        spin()
    except BaseException:
        return


@pytest.mark.parametrize("act", [spin, swallow])
def test_a_hang_is_counted(act: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "SECONDS", 0.2)
    assert judged(Case("planted", act), tmp_path).problems == ("hangs",)


@pytest.mark.parametrize("message", ["a\tb", "", "file: a"])
def test_an_error_that_does_not_name_the_file_is_counted(message: str, tmp_path: Path) -> None:
    def act() -> None:
        raise CheckpointError(message)

    assert judged(Case("planted", act, tmp_path / "file"), tmp_path).problems == ("message",)


@pytest.mark.skipif(not MEASURED, reason="memory is measured as Linux reports it")
def test_memory_is_counted(tmp_path: Path) -> None:
    def act() -> None:
        torch.ones(25_000_000)

    gc.collect()  # what other tests left would be freed meanwhile
    torch.ones(8_000_000)  # from now on the C library keeps blocks of 32 MB when they are freed
    kept = [torch.ones(7_000_000) for _ in range(5)]
    above = torch.ones(1000)
    kept.clear()  # a hole below `above`, large enough for the case
    assert judged(Case("planted", act), tmp_path).problems == ("memory",), above.shape


def test_what_is_right_is_no_problem(tmp_path: Path) -> None:
    def act() -> None:
        raise CheckpointError(f"{tmp_path}: refused")

    refused = judged(Case("planted", act, tmp_path), tmp_path)
    valid = judged(Case("planted", lambda: (tmp_path / "new").write_text("a"), tmp_path), tmp_path)
    assert [(each.outcome, each.problems) for each in (refused, valid)] == [("refused", ()), ("valid", ())]
    assert counts([refused, valid]).rows[-1] == ("all", "2", "1", "1", "0", "0", "0", "0", "0")


def test_a_process_that_hangs_or_ends_is_a_failure_of_its_case() -> None:
    acts = {"sleeps": lambda: time.sleep(60), "ends": lambda: os._exit(3), "works": lambda: 1}
    kinds: dict[str, Kind] = {name: lambda rng, folder, act=act: Case("", act) for name, act in acts.items()}  # type: ignore[misc]
    cases = [("works", 0), ("sleeps", 1), ("works", 2), ("ends", 3), ("works", 4)]
    found = list(run_cases(kinds, 0, cases, processes=1, patience=1.0))
    assert [each.number for each in found] == [0, 1, 2, 3, 4]
    assert [each.problems for each in found] == [(), ("hangs",), (), ("bare",), ()]


def test_a_case_depends_on_its_seed_kind_and_number_only(tmp_path: Path) -> None:
    for kind in ("adapter", "spec"):
        made = []
        for name in ("a", "b"):
            (folder := tmp_path / f"{kind} {name}").mkdir()
            made.append((KINDS[kind](numbers(1, kind, 5), folder).what, judge.contents(folder)))
        assert made[0] == made[1]
    assert [kind for kind, _ in schedule(21)].count("adapter") == 4
    assert schedule(40)[:20] == schedule(20)


def test_what_is_changed_is_changed_and_the_original_is_not() -> None:
    data = {"a": [1, {"b": "c"}], "d": 0.5}
    assert sum(mutated(Random(seed), data) != data for seed in range(50)) > 40
    assert data == {"a": [1, {"b": "c"}], "d": 0.5}
    assert sum(garbled(Random(seed), b"0123456789") != b"0123456789" for seed in range(50)) > 40


def test_a_damaged_file_passes_its_seal() -> None:
    """Most files must be damaged behind the seal: otherwise nothing but the seal is tested."""
    from tests.fuzz.adapters import files

    passed = 0
    for seed in range(60):
        try:
            taken_apart(damaged(Random(seed), files()[0]))
        except Exception:
            continue
        passed += 1
    assert passed > 30
