"""Adapters that were trained apart, in one bank: exactly, or with cores in common and their true error."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from tensorfact import Adapter, Bank, adapt, bank, open_bank, plan_for
from tensorfact.algebra.joining import write_bank
from tensorfact.errors import AdaptError, CheckpointError, FingerprintError, RankError
from tensorfact.lab import nano
from tests.helpers import difference, draw, infer, randomise, refused, untouched

X = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def trained(seed: int, format: str = "tt:rank=3", **options: Any) -> tuple[Adapter, Tensor]:
    """Return an adapter with drawn factors and head, and what its model computes."""
    model = nano()
    adapter = adapt(model, plan_for(model), format, seed=seed, **options)
    draw(adapter, seed)
    with torch.no_grad():
        model.get_parameter("head.bias").add_(torch.randn(10, generator=torch.Generator().manual_seed(seed)))
    return adapter, infer(model, X)


@pytest.mark.parametrize("format", ["tt:rank=3", "tucker:rank=3", "cp:rank=3", "matrix-batch:rank=2"])
def test_a_bank_of_adapters_computes_what_each_did(format: str, tmp_path: Path) -> None:
    (first, one), (second, two) = trained(1, format, scale=2.0), trained(2, format, scale=2.0)
    second.save(tmp_path / "two")
    model = nano()
    joined = bank(model, {"one": first, "two": tmp_path / "two"})
    for name, expected in (("one", one), ("two", two)):
        joined.bank.use(name)
        assert torch.equal(infer(model, X), expected)
    assert joined.errors == {"encoder": {"one": 0.0, "two": 0.0}}
    assert joined.shrank == 1
    joined.bank.use("two")
    assert joined.bank.state("two").cores("encoder").keys() == second.state.cores("encoder").keys()


def test_frozen_cores_of_other_seeds_are_refused(tmp_path: Path) -> None:
    first, one = trained(1, "diagonals:format=tt(rank=2)")
    second, _ = trained(1, "diagonals:format=tt(rank=2)")
    draw(second, 5)
    model = nano()
    joined = bank(model, {"one": first, "two": second})
    joined.bank.use("one")
    assert torch.equal(infer(model, X), one)
    write_bank(tmp_path, {"one": first.state, "two": second.state})
    stored, other = nano(), trained(2, "diagonals:format=tt(rank=2)")[0]
    opened = open_bank(stored, tmp_path)
    opened.use("one")
    assert torch.equal(infer(stored, X), one)
    for make in (
        lambda: bank(nano(), {"a": first, "b": other}),
        lambda: write_bank(tmp_path, {"a": first.state, "b": other.state}),
    ):
        with refused(AdaptError, "task 'b'", "which the tasks share", "other seeds"):
            make()
    assert opened.tasks == ("one", "two")


def test_a_scale_of_zero_is_not_that_of_all_tasks() -> None:
    silent, _ = trained(1, scale=0.0)
    other, expected = trained(2, scale=2.0)
    model = nano()
    joined = bank(model, {"silent": silent, "other": other})
    joined.bank.use("other")
    assert difference(infer(model, X), expected) < 1e-5
    joined.bank.use("silent")
    assert not joined.bank.delta("blocks.0.attn.qkv.weight").any()
    quiet = nano()
    adapt(quiet, plan_for(quiet), "tt:rank=3", tasks=["one"], scale=0.0)
    with refused(AdaptError, "the scale of tensor 'encoder' is 0"):
        cast("Bank", quiet.tensorfact).add("other", other)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("format", ["tt:rank=3", "tucker:rank=3", "cp:rank=3", "tensor-ring:rank=2"])
def test_shared_cores_hold_all_tasks_exactly_if_the_rank_allows_it(format: str) -> None:
    found = [trained(seed, format) for seed in range(2 if format.startswith("cp") else 3)]
    shared = [core.name for core in found[0][0].state.network("encoder").cores if "(layer role)" not in core.legs]
    model = nano()
    joined = bank(model, {f"t{at}": adapter for at, (adapter, _) in enumerate(found)}, shared=shared, tolerance=1e-5)
    for at, (_, expected) in enumerate(found):
        joined.bank.use(f"t{at}")
        assert difference(infer(model, X), expected) < 1e-3
    assert all(error < 1e-4 for each in joined.errors.values() for error in each.values())
    with joined.bank.batch(["t0", "t1", "t0"]):
        mixed = infer(model, X)
    for row, at in enumerate((0, 1, 0)):
        assert difference(mixed[row], found[at][1][row]) < 1e-3


def test_the_error_of_every_task_is_the_true_one_and_a_budget_is_kept() -> None:
    found = [trained(seed)[0] for seed in range(3)]
    model = nano()
    joined = bank(model, {f"t{at}": each for at, each in enumerate(found)}, shared=["U", "V"], budget=9_000)
    assert joined.bank.num_parameters <= 9_000
    for at, adapter in enumerate(found):
        joined.bank.use(f"t{at}")
        wrong = size = 0.0
        for name in adapter.resolved.parameters:
            expected = adapter.delta(name).detach()
            wrong += float((joined.bank.delta(name).detach() - expected).square().sum())
            size += float(expected.square().sum())
        assert joined.errors["encoder"][f"t{at}"] == pytest.approx((wrong / size) ** 0.5, rel=1e-3)
        assert joined.errors["encoder"][f"t{at}"] > 0.01
    assert "t0" in str(joined)
    assert joined.shrank == pytest.approx(3 * found[0].num_parameters / joined.bank.num_parameters)


def test_lora_folders_become_the_tasks_of_a_bank(tmp_path: Path) -> None:
    expected = {}
    for at in range(2):
        adapter, expected[f"t{at}"] = trained(at, "matrix-batch:rank=2")
        adapter.to_lora(tmp_path / f"t{at}")
    model = nano()
    joined = bank(model, {name: tmp_path / name for name in expected})
    for name in expected:
        joined.bank.use(name)
        assert difference(infer(model, X), expected[name]) < 1e-4


def test_what_cannot_be_joined_is_refused_and_leaves_the_model() -> None:
    first, second = trained(1)[0], trained(2)[0]
    model = nano()
    with untouched(model):
        with refused(AdaptError, "bank: adapters", "{'pets': 'pets.safetensors'}"):
            bank(model, {})
        with refused(AdaptError, "shared=['U', 'V']", "those without the mode '(layer role)'"):
            bank(model, {"one": first, "two": second}, shared=["U"], tolerance=0.1)
        with refused(AdaptError, "task 'two'", "in its formats"):
            bank(model, {"one": first, "two": trained(2, "tt:rank=4")[0]})
        with refused(CheckpointError, "task 'one'"):
            bank(model, {"one": "missing.safetensors"})
        with refused(RankError, fix=False):
            bank(model, {"one": first, "two": second}, shared=["U", "V"], budget=10)
        with refused(AdaptError, "a list of names"):
            bank(model, {"": first})
    other = randomise(nano(), 3)
    with untouched(other), refused(FingerprintError, "task 'one'", fix=False):
        bank(other, {"one": first})
    bank(other, {"one": first}, check_base=False).bank.remove()
    bank(model, {"one": first})
    with refused(AdaptError, "adapted already"):
        bank(model, {"one": first})
