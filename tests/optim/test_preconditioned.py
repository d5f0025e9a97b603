"""Steps that do not depend on how an increment is factored, and what torch asks of an optimizer."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from tensorfact import CP, Adapter, Format, MatrixBatch, TensorTrain, Tucker, adapt
from tensorfact.adapters.factors import Factors
from tensorfact.errors import AdaptError
from tensorfact.formats import BlockTerm, Started, TensorRing
from tensorfact.optim import PreconditionedAdamW, precondition
from tests.bundled import nano, plan
from tests.helpers import draw, layers, layers_plan, randomise, refused

FORMATS = [TensorTrain(3), Tucker((2, 4, 4)), CP(4), MatrixBatch(2), TensorRing(2), BlockTerm(2, 2)]
WIDTH = 6


def adapted(format: Format, **options: Any) -> Adapter:
    """Return an adapter on three linear layers in fp64, with drawn cores."""
    model = cast("nn.Module", randomise(layers(3, WIDTH)).double())
    options = {"scale": 0.5, "seed": 0, "check": False, "train_head": False, **options}
    adapter = cast("Adapter", adapt(model, layers_plan(), format, **options))
    draw(adapter)
    return adapter


def refactored(adapter: Adapter) -> None:
    """Change the basis of every bond, so that the cores are others and the increment stays."""
    generator = torch.Generator().manual_seed(5)
    for module in adapter.factors.values():
        factors = cast("Factors", module)
        network, cores = factors.network, {name: core.detach() for name, core in factors.named_cores().items()}
        for leg in network.sizes:
            holders = [core for core in network.cores if leg in core.legs]
            if leg in network.output or len(holders) < 2:
                continue
            size = network.sizes[leg]
            change = torch.diag(torch.rand(size, generator=generator, dtype=torch.float64) + 0.3)
            if len(holders) == 2:  # a leg of more cores allows diagonal changes only
                change = change + 0.5 * torch.randn(size, size, generator=generator, dtype=torch.float64)
            for core, matrix in zip(holders[:2], (change, torch.linalg.inv(change).T), strict=True):
                dim = core.legs.index(leg)
                cores[core.name] = torch.tensordot(cores[core.name], matrix, dims=([dim], [0])).movedim(-1, dim)
        factors.assign(cores)


def steps(adapter: Adapter, optimizer: torch.optim.Optimizer, count: int = 20) -> Iterator[Tensor]:
    """Train on random batches, and yield the increment of a weight after each step."""
    for number in range(count):
        x = torch.randn(8, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(number))
        optimizer.zero_grad()
        (adapter.model(x) - x).square().mean().backward()
        optimizer.step()
        yield adapter.delta("1.weight").detach()


OPTIMIZERS: dict[str, Callable[[Adapter], torch.optim.Optimizer]] = {
    "PreconditionedAdamW": lambda a: PreconditionedAdamW(a, lr=1e-2, weight_decay=0.01, damping=1e-8),
    "SGD": lambda a: precondition(torch.optim.SGD(a.parameters(), lr=1e-2), a, damping=1e-12, relative=True),
    "momentum": lambda a: precondition(
        torch.optim.SGD(a.parameters(), lr=1e-2, momentum=0.5), a, damping=1e-12, relative=True
    ),
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_training_does_not_depend_on_how_the_increment_is_factored(name: str, format: Format) -> None:
    one, two = adapted(format), adapted(format)
    refactored(two)
    start = one.delta("1.weight").detach()
    assert torch.dist(two.delta("1.weight"), start) < 1e-9
    assert any(torch.dist(a, b) > 0.1 for a, b in zip(one.factors.parameters(), two.factors.parameters(), strict=True))
    for first, second in zip(steps(one, OPTIMIZERS[name](one)), steps(two, OPTIMIZERS[name](two)), strict=True):
        assert torch.dist(first, second) < 1e-4 * first.norm()
    assert torch.dist(first, start) > 1e-2 * start.norm()


@pytest.mark.parametrize("format", [TensorTrain(3), MatrixBatch(2)], ids=str)
def test_plain_adamw_depends_on_it(format: Format) -> None:
    one, two = adapted(format), adapted(format)
    refactored(two)
    pairs = zip(*(steps(a, torch.optim.AdamW(a.parameters(), lr=1e-2)) for a in (one, two)), strict=True)
    *_, (first, second) = pairs
    assert torch.dist(first, second) > 1e-2 * first.norm()


@pytest.mark.parametrize("format", [*FORMATS, Started(CP(3), frozen=["U1"])], ids=str)
def test_a_step_changes_the_weights_by_the_same_amount_at_any_scale(format: Format) -> None:
    found = []
    for scale in (0.5, 8.0, "auto"):
        adapter = adapted(format, scale=scale)
        *_, last = steps(adapter, PreconditionedAdamW(adapter, lr=1e-2, weight_decay=0.0), 5)
        found.append(last)
    assert torch.dist(found[0], found[1]) < 1e-6 * found[0].norm()
    assert torch.dist(found[0], found[2]) < 1e-3 * found[0].norm()


def test_the_first_step_is_as_long_as_that_of_adamw_on_a_derived_scale() -> None:
    norms = []
    for plain in (True, False):
        model = nano()
        adapter = adapt(model, plan(), MatrixBatch(4), seed=0)
        optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-3) if plain else PreconditionedAdamW(adapter, lr=1e-3)
        model(torch.randn(8, 1, 28, 28, generator=torch.Generator().manual_seed(0))).square().mean().backward()
        optimizer.step()
        norms.append(sum(float(adapter.delta(name).detach().square().sum()) for name in adapter.resolved.parameters))
    assert norms[1] == pytest.approx(norms[0], rel=0.2)


def loss_of(model: nn.Module, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(8, 1, 28, 28, generator=generator), torch.randint(10, (8,), generator=generator)
    return nn.functional.cross_entropy(model(x), y)


def test_it_resumes_from_its_state_under_a_schedule() -> None:
    def made(model: nn.Module) -> tuple[PreconditionedAdamW, torch.optim.lr_scheduler.LRScheduler]:
        optimizer = PreconditionedAdamW(cast("Adapter", model.tensorfact), lr=3e-3)
        return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6)

    model: nn.Module = nano()
    adapt(model, plan(), TensorTrain(4), seed=0)
    optimizer, schedule = made(model)
    for step in range(3):
        optimizer.zero_grad()
        torch.autograd.backward(loss_of(model, step))
        optimizer.step()
        schedule.step()
    resumed = copy.deepcopy(model)
    again, follow = made(resumed)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    follow.load_state_dict(schedule.state_dict())
    for step in range(3, 6):
        for run, of, then in ((model, optimizer, schedule), (resumed, again, follow)):
            of.zero_grad()
            torch.autograd.backward(loss_of(run, step))
            of.step()
            then.step()
    pairs = zip(model.parameters(), resumed.parameters(), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)
    assert again.param_groups[0]["lr"] < 1e-3


def test_it_takes_groups_closures_a_scaler_and_accelerate() -> None:
    model = nano()
    adapter = adapt(model, plan(), TensorTrain(4), seed=0)
    head = [parameter for name, parameter in model.named_parameters() if name.startswith("head")]
    groups: list[dict[str, Any]] = [{"params": list(adapter.factors.parameters())}, {"params": head, "lr": 1e-2}]
    optimizer = Accelerator(cpu=True).prepare(PreconditionedAdamW(adapter, groups, lr=3e-3))
    first = float(loss_of(model, 0).detach())
    for _ in range(5):
        optimizer.zero_grad()
        torch.autograd.backward(loss_of(model, 0))
        optimizer.step()
    assert float(loss_of(model, 0).detach()) < first
    plain, scaler = PreconditionedAdamW(adapter, lr=3e-3), torch.amp.GradScaler("cpu")
    plain.zero_grad()
    torch.autograd.backward(scaler.scale(loss_of(model, 0)))
    scaler.step(plain)
    scaler.update()

    def closure() -> float:
        plain.zero_grad()
        loss = loss_of(model, 0)
        torch.autograd.backward(loss)
        return float(loss.detach())

    assert plain.step(closure) < first


def test_other_parameters_are_trained_by_adamw_and_cores_of_other_groups_rest() -> None:
    heads = []
    for kind in (torch.optim.AdamW, None):
        model = nano()
        adapter = adapt(model, plan(), TensorTrain(4), seed=0)
        head = [parameter for name, parameter in model.named_parameters() if name.startswith("head")]
        optimizer = kind(head, lr=1e-2) if kind else PreconditionedAdamW(adapter, head, lr=1e-2)
        torch.autograd.backward(loss_of(model, 0))
        before = {name: core.detach().clone() for name, core in adapter.named_cores().items()}
        optimizer.step()
        assert all(torch.equal(core, before[name]) for name, core in adapter.named_cores().items())
        heads.append(head[0].detach())
    assert torch.equal(heads[0], heads[1])


def test_wrong_arguments_are_refused() -> None:
    adapter = adapted(TensorTrain(2))
    with refused(AdaptError, "PreconditionedAdamW: adapter", "Linear"):
        PreconditionedAdamW(nn.Linear(2, 2))  # type: ignore[arg-type]
    with refused(AdaptError, "PreconditionedAdamW: damping", "above 0"):
        PreconditionedAdamW(adapter, damping=0)
    assert PreconditionedAdamW(adapter.model).defaults["lr"] == 1e-3  # type: ignore[arg-type]  # an adapted model


def step_on_nano(adapter: Adapter, optimizer: torch.optim.Optimizer, seed: int = 0) -> None:
    optimizer.zero_grad()
    torch.autograd.backward(loss_of(adapter.model, seed))
    optimizer.step()


@pytest.mark.parametrize("format", [MatrixBatch(48), MatrixBatch(96), TensorTrain(96)], ids=str)
def test_cores_do_not_explode_at_high_ranks(format: Format) -> None:
    """With a damping of 0.0001 of the Gram matrix they grew more than ten thousandfold."""
    adapter = adapt(nano(), plan(), format, seed=0)
    optimizer = PreconditionedAdamW(adapter, lr=1e-2)
    sizes = [float(core.detach().abs().max()) for core in adapter.factors.parameters()]
    for number in range(20):
        step_on_nano(adapter, optimizer, number)
    found = [float(core.detach().abs().max()) for core in adapter.factors.parameters()]
    assert max(found) < 300 * max(sizes), (found, sizes)


def test_steps_follow_a_scale_that_changes() -> None:
    moved = []
    for scale, other in ((1.0, None), (1.0, 50.0)):
        adapter = adapt(nano(), plan(), MatrixBatch(4), seed=0, scale=scale)
        optimizer = PreconditionedAdamW(adapter, lr=1e-3, weight_decay=0.0)
        if other is not None:
            adapter._links.rescale({"encoder": other})
        step_on_nano(adapter, optimizer)
        moved.append(adapter.delta("blocks.0.attn.qkv.weight").detach().norm())
    assert moved[1] == pytest.approx(float(moved[0]), rel=1e-3)


def test_gradients_that_are_not_finite_are_not_hidden() -> None:
    adapter = adapt(nano(), plan(), TensorTrain(4), seed=0)
    optimizer = PreconditionedAdamW(adapter, lr=1e-3)
    step_on_nano(adapter, optimizer)
    for core in adapter.factors.parameters():
        assert core.grad is not None
        core.grad.fill_(torch.nan)
    optimizer.step()
    assert not any(bool(core.isfinite().all()) for core in adapter.factors.parameters())


def test_hooks_run_once_and_see_all_parameters() -> None:
    torch.optim.AdamW([nn.Parameter(torch.zeros(1))])  # torch wraps the step of a class when it makes the first of it
    adapter = adapt(nano(), plan(), TensorTrain(4), seed=0)
    optimizer, seen = PreconditionedAdamW(adapter, lr=1e-3), list[int]()
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    optimizer.register_step_pre_hook(lambda *_: seen.append(sum(p.grad is not None for p in trained)))
    step_on_nano(adapter, optimizer)
    assert seen == [len(trained)]


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_a_copy_goes_on_as_the_original(how: str) -> None:
    adapter = adapt(nano(), plan(), TensorTrain(4), seed=0)
    optimizer = PreconditionedAdamW(adapter, lr=1e-3)
    step_on_nano(adapter, optimizer)
    pair = (adapter, optimizer)
    other, again = copy.deepcopy(pair) if how == "deepcopy" else pickle.loads(pickle.dumps(pair))  # noqa: S301  # ours
    for one, of in ((adapter, optimizer), (other, again)):
        step_on_nano(one, of, 1)
    for one, two in zip(adapter.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(one, two)


def test_narrow_cores_resume_bit_for_bit() -> None:
    adapters = [adapt(nano(), plan(), TensorTrain(4), seed=0) for _ in range(2)]
    for adapter in adapters:
        adapter.model.bfloat16()
    first, second = (PreconditionedAdamW(adapter, lr=1e-3) for adapter in adapters)

    def step(adapter: Adapter, optimizer: torch.optim.Optimizer, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(8, 1, 28, 28, generator=generator).bfloat16()
        optimizer.zero_grad()
        torch.autograd.backward(adapter.model(x).float().square().mean())
        optimizer.step()

    step(adapters[0], first, 0)
    adapters[1].model.load_state_dict(adapters[0].model.state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for adapter, optimizer in zip(adapters, (first, second), strict=True):
        step(adapter, optimizer, 1)
    for one, two in zip(adapters[0].model.parameters(), adapters[1].model.parameters(), strict=True):
        assert torch.equal(one, two)


def test_it_is_not_made_of_a_merged_adapter_or_of_a_number() -> None:
    adapter = adapt(nano(), plan(), TensorTrain(4), seed=0)
    with refused(AdaptError, "PreconditionedAdamW: params", "lr=1e-3"):
        PreconditionedAdamW(adapter, 1e-3)  # type: ignore[arg-type]  # that is the point
    adapter.merge()
    with refused(AdaptError, "already merged", "unmerge()"):
        PreconditionedAdamW(adapter)
    adapter.remove()
    with refused(AdaptError, "removed from its model"):
        PreconditionedAdamW(adapter)
