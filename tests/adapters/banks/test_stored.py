"""Banks on disk: tasks are read when they are used, a few are in memory, and one that is damaged stops no other."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tensorfact import Bank, Group, Rule, Tasks, TensorizationPlan, adapt, load_adapter, open_bank, plan_for
from tensorfact.adapters.banks.heads import TaskHeads
from tensorfact.adapters.banks.stored import StoredBank
from tensorfact.errors import AdaptError, CheckpointError, FingerprintError
from tensorfact.lab import nano
from tensorfact.storage import bank_folder
from tensorfact.storage.files import read_header, write_tensors
from tests.adapters.banks.test_bank import drawn, images
from tests.helpers import difference, infer, randomise, refused, untouched

NAMES = ("flowers", "pets/../x", "cars", "a b")


def saved(folder: Path, shared: tuple[str, ...] = ("U", "V")) -> tuple[Bank, dict[str, Tensor]]:
    """Return a bank that was saved, and what each of its tasks computes."""
    model = nano()
    model.eval()
    tasks = Tasks(NAMES, shared, [10, 3, 12, 10])
    bank = drawn(adapt(model, plan_for(model), "tt:rank=4", tasks=tasks, seed=0))
    bank.save(folder)
    found = {}
    for name in NAMES:
        bank.use(name)
        found[name] = infer(model, images())
    return bank, found


def opened(folder: Path, slots: int = 64) -> tuple[nn.Module, StoredBank]:
    model = nano()
    model.eval()
    return model, open_bank(model, folder, slots=slots)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("shared", [(), ("U", "V")], ids=str)
@pytest.mark.parametrize("slots", [1, 2, 64])
def test_every_task_computes_what_it_did(tmp_path: Path, slots: int, shared: tuple[str, ...]) -> None:
    _, expected = saved(tmp_path / "bank", shared)
    model, bank = opened(tmp_path / "bank", slots)
    assert bank.tasks == tuple(sorted(NAMES))
    assert bank.task is None
    assert torch.equal(infer(model, images()), infer(nano(), images()))
    for name in (*NAMES, *reversed(NAMES), "cars"):
        bank.use(name)
        assert torch.equal(infer(model, images()), expected[name])
        assert bank.task == name
    assert {name: bank.classes(name) for name in NAMES} == dict(zip(NAMES, [10, 3, 12, 10], strict=True))
    if slots > 1:
        with bank.batch(["flowers", "a b", "flowers", "a b"]):
            mixed = infer(model, images())
        for row, name in enumerate(("flowers", "a b", "flowers", "a b")):
            assert difference(mixed[row, :10], expected[name][row]) < 1e-4
        assert torch.equal(infer(model, images()), expected["cars"])
        with bank.batch(["pets/../x", "flowers", "pets/../x", "pets/../x"]):
            assert infer(model, images())[:, 3:].isinf().sum(1).tolist()[0] >= 7
    bank.use(None)
    mapped = bank.map(images(), ["cars"] * 4)  # the tasks run, though the base model is in use
    assert difference(mapped.detach(), expected["cars"]) < 1e-4
    assert torch.equal(infer(model, images()), infer(nano(), images()))
    bank.use("cars")
    assert str(bank.task) == "cars"
    assert not any(p.requires_grad for p in bank.parameters())
    with bank.disabled():
        assert torch.equal(infer(model, images()), infer(nano(), images()))
    bank.remove()
    assert torch.equal(infer(model, images()), infer(nano(), images()))


def test_a_task_leaves_as_an_adapter_and_enters_as_one(tmp_path: Path) -> None:
    bank, expected = saved(tmp_path / "bank")
    model, stored = opened(tmp_path / "bank", 2)
    other = nano()
    load_adapter(other, stored.state("flowers"))
    assert torch.equal(infer(other, images()), expected["flowers"])
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "bank" / "tasks").iterdir()}
    stored.add("new", bank.state("a b"))
    stored.use("new")
    assert torch.equal(infer(model, images()), expected["a b"])
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "bank" / "tasks").iterdir()}
    assert {name: after[name] for name in before} == before
    stored.add("new", bank.state("flowers"))
    stored.use("new")
    assert torch.equal(infer(model, images()), expected["flowers"])
    with refused(AdaptError, "in use", "bank.use(None)"):
        stored.drop("new")
    stored.use(None)
    stored.drop("new")
    assert stored.tasks == tuple(sorted(NAMES))


def test_a_damaged_task_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    _, expected = saved(tmp_path / "bank")
    model, stored = opened(tmp_path / "bank", 1)
    stored.use("flowers")
    file = tmp_path / "bank" / "tasks" / "cars.safetensors"
    file.write_bytes(file.read_bytes()[:-5] + b"wrong")
    with refused(CheckpointError, "cars"):
        stored.use("cars")
    file.unlink()
    with refused(CheckpointError, "has no task 'cars'"):
        stored.use("cars")
    stored.use("a b")
    assert torch.equal(infer(model, images()), expected["a b"])
    saved(tmp_path / "other")
    (tmp_path / "other" / "tasks" / "flowers.safetensors").rename(tmp_path / "bank" / "tasks" / "strange.safetensors")
    with refused(CheckpointError, "is not a task of this bank"):
        stored.use("strange")


def test_a_read_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, expected = saved(tmp_path / "bank")
    model, stored = opened(tmp_path / "bank", 1)
    stored.use("flowers")
    file = tmp_path / "bank" / "tasks" / "cars.safetensors"
    header = read_header(file)
    tensors = {n: t[:, :5] if n.endswith("head.weight") else t for n, t in header.tensors().items()}
    write_tensors(file, tensors, {k: v for k, v in header.metadata.items() if k in ("kind", "task", "identity")})
    with refused(AdaptError, "task 'cars'", "the head of the task does not fit the model"):
        stored.use("cars")
    assert torch.equal(infer(model, images()), expected["flowers"])

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TaskHeads, "fill", interrupted)
        with pytest.raises(KeyboardInterrupt):
            stored.use("a b")
    assert stored.task is None
    assert torch.equal(infer(model, images()), infer(nano(), images()))
    for name in ("flowers", "a b"):
        stored.use(name)
        assert torch.equal(infer(model, images()), expected[name])
    fill, counts = TaskHeads.fill, itertools.count()

    def interrupted_once(*arguments: Any) -> None:
        if not next(counts):
            raise KeyboardInterrupt
        fill(*arguments)

    monkeypatch.setattr(TaskHeads, "fill", interrupted_once)
    with pytest.raises(KeyboardInterrupt), stored.batch(["flowers"]):
        pass  # the slot of the task in use is taken for the batch
    assert str(stored.task) == "a b"
    assert torch.equal(infer(model, images()), expected["a b"])


def test_batches_may_be_nested_and_read_other_tasks(tmp_path: Path) -> None:
    _, expected = saved(tmp_path / "bank")
    model, stored = opened(tmp_path / "bank", 2)
    x = images(2)
    with stored.batch(["flowers", "a b"]):
        before = infer(model, x)
        with stored.batch(["cars", "pets/../x"]):
            infer(model, x)
        stored.map(x, ["pets/../x", "cars"])
        assert difference(infer(model, x)[:, :10], before[:, :10]) < 1e-5
        with refused(AdaptError, "add() inside"):
            stored.add("flowers", stored.state("cars"))
    assert difference(before[0, :10], expected["flowers"][0]) < 1e-4


def test_the_task_in_use_is_replaced_at_once(tmp_path: Path) -> None:
    _, expected = saved(tmp_path / "bank")
    model, stored = opened(tmp_path / "bank", 2)
    stored.use("flowers")
    stored.add("flowers", stored.state("a b"))
    assert stored.task == "flowers"
    assert torch.equal(infer(model, images()), expected["a b"])
    stored.use(None)
    for call in (stored.merge, lambda: stored.delta("blocks.0.attn.qkv.weight")):
        with refused(AdaptError, "no task is in use"):
            call()


def test_names_that_begin_with_a_dot_and_folders_that_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nano()
    bank = drawn(adapt(model, tasks=["..", ".hidden", "x"], seed=0))
    bank.save(tmp_path / "bank")
    monkeypatch.chdir(tmp_path)
    _, stored = opened(Path("bank"))
    monkeypatch.chdir("/")
    assert stored.tasks == ("..", ".hidden", "x")
    stored.use(".hidden")
    files = tmp_path / "bank" / "tasks"
    (files / "x.safetensors").write_bytes((files / "%2Ehidden.safetensors").read_bytes())
    with refused(CheckpointError, "the file of another task", "'x'", "'.hidden'"):
        stored.use("x")
    files.rename(tmp_path / "elsewhere")
    with refused(CheckpointError, "cannot read the tasks"):
        assert stored.tasks


def test_a_core_may_train_in_one_tensor_and_not_in_another(tmp_path: Path) -> None:
    rules = {name: Rule(f"blocks.{at}.attn.proj.weight", "out in") for at, name in enumerate("ab")}
    plan = TensorizationPlan(tuple(Group(name, "in out", (rule,)) for name, rule in rules.items()))
    model, other = nano(), nano()
    formats = {"a": "diagonals:format=tt(rank=2)", "b": "tt:rank=2"}
    bank = drawn(adapt(model, plan, formats, tasks=["one", "two"], seed=0))
    bank.save(tmp_path)
    stored = open_bank(other, tmp_path)
    for each in (bank, stored):
        each.use("two")
    assert torch.equal(infer(other, images()), infer(model, images()))


def test_a_bank_that_cannot_be_written_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bank, expected = saved(tmp_path / "bank")
    for last in ("a%20b", "cars", "bank"):  # a task, another one, and the file of what they share

        def full(path: Path, *arguments: Any, last: str = last) -> None:
            if path.name.startswith(last.replace("%20", " ")):
                raise CheckpointError("no space left", fix="free space")
            write_tensors(path, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(bank_folder, "write_tensors", full)
            with pytest.raises(CheckpointError):
                bank.save(tmp_path / "bank")
    replace = os.replace
    for fails in (1, 2, 3):
        calls = itertools.count(1)

        def broken(source: Path, target: Path, fails: int = fails, calls: Any = calls) -> None:
            if "bank" in str(target) and next(calls) == fails:
                raise OSError("the disk is gone")
            replace(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", broken)
            patch.setattr(bank_folder, "write_tensors", lambda path, *_: path.touch())
            with refused(CheckpointError, "cannot write the bank", "the disk is gone"):
                bank.save(tmp_path / "bank")
    model, stored = opened(tmp_path / "bank")
    for name in NAMES:
        stored.use(name)
        assert torch.equal(infer(model, images()), expected[name])
    assert sorted(path.name for path in (tmp_path / "bank").iterdir()) == ["bank.safetensors", "tasks"]
    bank.rename("cars", "trains")
    bank.save(tmp_path / "bank")
    assert "cars" not in stored.tasks
    with refused(CheckpointError, "is not a task of this bank", "written anew", "open the bank again"):
        stored.state("trains")


def test_what_is_no_bank_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "bank")
    model, other = nano(), randomise(nano(), 1)
    with untouched(model, other):
        with refused(CheckpointError, "bank.safetensors"):
            open_bank(model, tmp_path)
        with refused(CheckpointError, "a bank of tasks", "open_bank", "tensorfact bank extract"):
            load_adapter(model, tmp_path / "bank")
        with refused(AdaptError, "open_bank: slots"):
            open_bank(model, tmp_path / "bank", slots=0)
    wrong = open_bank(other, tmp_path / "bank")
    for _ in range(2):
        with refused(FingerprintError, "the bank", fix=False):
            wrong.use("cars")
    assert wrong.task is None
    stored = open_bank(model, tmp_path / "bank", slots=1)
    with refused(AdaptError, "2 tasks for 1 slots", "slots=2"), stored.batch(["flowers", "cars"]):
        pass
    with refused(AdaptError, "names of tasks"), stored.batch(torch.tensor([0])):
        pass
    with refused(AdaptError, "a stored bank does not train"):
        stored.train_only("cars")
    with refused(AdaptError, "a stored bank keeps its names"):
        stored.rename("cars", "x")
    with refused(AdaptError, "a stored bank is on disk already"):
        stored.save(tmp_path)
    with refused(AdaptError, "takes adapters"):
        stored.add("new")


@pytest.mark.slow
def test_a_process_that_is_killed_while_it_adds_leaves_every_task(tmp_path: Path) -> None:
    bank, expected = saved(tmp_path / "bank")
    bank.state("flowers").save(tmp_path / "one.safetensors")
    code = textwrap.dedent(
        f"""
        from tensorfact import open_bank, AdapterState
        from tensorfact.lab import nano
        bank = open_bank(nano(), {str(tmp_path / "bank")!r})
        state = AdapterState.load({str(tmp_path / "one.safetensors")!r})
        print("ready", flush=True)
        for number in range(100_000):
            bank.add(f"task {{number}}", state)
        """
    )
    for _ in range(10):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        model, stored = opened(tmp_path / "bank")
        for name in NAMES:
            stored.use(name)
            assert torch.equal(infer(model, images()), expected[name])
        for name in stored.tasks:
            stored.use(name)
