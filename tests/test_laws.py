"""The laws of the design, each a property over plans, models, formats, ranks and dtypes."""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tensorfact import (
    Adapter,
    Format,
    MatrixBatch,
    TensorizationPlan,
    TensorTrain,
    Tucker,
    adapt,
    load_adapter,
    plan_for,
)
from tensorfact.adapters.factors import Factors
from tensorfact.errors import FingerprintError, FormatError, PlanError
from tensorfact.formats import format_from_dict, format_to_dict
from tensorfact.lab import nano
from tensorfact.network import Mode, Network, plan_contraction, with_input
from tensorfact.storage.files import read_tensors
from tests.helpers import TOLERANCE, bits, difference, ids, infer, layers, layers_plan, refused, state_bits, untouched
from tests.strategies import (
    FORMATS,
    Adaptation,
    Case,
    adaptations,
    cases,
    chain,
    formats,
    full_rank,
    modes,
    networks,
    tensors,
)

WIDE = [torch.float32, torch.float64]
ALL = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
EACH = [
    *(torch.float64, torch.bfloat16),
    *(pytest.param(dtype, marks=pytest.mark.slow) for dtype in (torch.float32, torch.float16)),
]
"""The dtypes, each in a test of its own: the most and the least exact one; the others run with the slow tests."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for examples that each overwrite the last one's file."""
    return tmp_path_factory.mktemp("laws")


def dense(format: Format, modes: tuple[Mode, ...], cores: Mapping[str, Tensor]) -> Tensor:
    network = format.network(modes)
    return plan_contraction(network)([cores[core.name] for core in network.cores])


# ---------------------------------------------------------------------------------------------------------------- plans


@given(cases(), st.sampled_from(ALL))
def test_law_01_gather_after_scatter_is_the_identity(case: Case, dtype: torch.dtype) -> None:
    for tensor in case.resolve().tensors:
        whole = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0)).to(dtype)
        whole.view(-1)[:2] = torch.tensor([-0.0, float("inf")])[: whole.numel()]
        parts = tensor.scatter(whole)
        assert bits(tensor.gather(parts)) == bits(whole)
        assert {view.parameter: view.shape for view in tensor.views} == {n: p.shape for n, p in parts.items()}


@given(adaptations())
def test_law_02_slices_of_the_dense_tensor_are_effective_minus_base(adaptation: Adaptation) -> None:
    model, adapter = adaptation.drawn(torch.float64)
    base = {name: p.detach() for name, p in model.named_parameters()}
    with torch.no_grad():
        for tensor in adapter.resolved.tensors:
            factors = cast("Factors", adapter.factors[tensor.name])
            for name, part in tensor.scatter(factors.dense()).items():
                module, _, attribute = name.rpartition(".")
                effective = getattr(model.get_submodule(module), attribute)
                increment = adaptation.scale * part
                assert difference(effective - base[name], increment) < 1e-9
                assert difference(adapter.delta(name), increment) < 1e-12


# ------------------------------------------------------------------------------------------------------------- adapting


@pytest.mark.parametrize("dtype", EACH, ids=str)
@given(adaptation=adaptations(called=True))
def test_law_03_activation_weight_and_merged_agree(adaptation: Adaptation, dtype: torch.dtype) -> None:
    outputs = []
    for route in ("activation", "formed", "weight"):
        model, adapter = adaptation.drawn(dtype, route=route)
        taken = {choice.route for choice in adapter.explain().choices}
        # a format without two whole matrices takes the activation route
        assert taken == {route} or (route == "formed" and taken <= {"formed", "activation"})
        outputs.append(infer(model, ids()))
    adapter.merge()
    outputs.append(infer(model, ids()))
    assert all(difference(output, outputs[0]) < TOLERANCE[dtype] for output in outputs)
    if dtype == torch.float64:
        with adapter.disabled():
            assert difference(infer(model, ids()), outputs[0]) > 1e-8, "the adapter has an effect"


@pytest.mark.parametrize("dtype", EACH, ids=str)
@given(adaptation=adaptations())
def test_law_03_every_module_agrees_with_the_merged_model(adaptation: Adaptation, dtype: torch.dtype) -> None:
    model, adapter = adaptation.drawn(dtype)
    adapted = infer(model, ids())
    with adapter.disabled():
        base = infer(model, ids())
    adapter.merge()
    assert difference(infer(model, ids()), adapted) < TOLERANCE[dtype]
    assert dtype != torch.float64 or difference(base, adapted) > 1e-8, "the adapter has an effect"


@pytest.mark.parametrize("dtype", EACH, ids=str)
@given(adaptation=adaptations())
def test_law_04_a_fresh_adapter_changes_nothing(adaptation: Adaptation, dtype: torch.dtype) -> None:
    expected = infer(adaptation.case.build(dtype), ids())
    for route in ("auto", "weight"):
        model, _ = adaptation.fresh(dtype, route=route)
        assert torch.equal(infer(model, ids()), expected)


@given(adaptations(), st.booleans())
def test_law_05_reported_count_is_closed_form_is_stored_numbers(
    folder: Path, adaptation: Adaptation, with_head: bool
) -> None:
    model = adaptation.case.build()
    adapter = adapt(model, adaptation.case.plan, adaptation.formats, train_head=with_head)
    closed = sum(
        math.prod(adapter.formats[tensor.name].network(tensor.modes).sizes[leg] for leg in core.legs)
        for tensor in adapter.resolved.tensors
        for core in adapter.formats[tensor.name].network(tensor.modes).cores
        if core.trained
    )
    adapter.save(folder / "file")
    stored = sum(core.numel() for name, core in read_tensors(folder / "file").items() if name.startswith("factors."))
    assert adapter.num_parameters == adapter.resolved.num_parameters(adapter.formats) == closed == stored
    head = sum(dict(model.named_parameters())[name].numel() for name in adapter.head)
    header = 8 + int.from_bytes((folder / "file").read_bytes()[:8], "little")  # its length stands in front, in 8 bytes
    assert (folder / "file").stat().st_size <= header + (closed + head) * 4


@settings(max_examples=20)
@given(adaptations(), st.sampled_from(["auto", "weight"]))
def test_law_06_gradients_reach_every_factor_and_no_base_weight(adaptation: Adaptation, route: str) -> None:
    model, adapter = adaptation.fresh(torch.float64, route=route)
    model.train()
    target = torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    reached: set[str] = set()
    for _ in range(2):
        model.zero_grad()
        (model(ids(8)) - target).square().mean().backward()
        gradients = {name: p.grad for name, p in adapter.named_parameters()}
        reached |= {name for name, gradient in gradients.items() if gradient is not None and gradient.any()}
        with torch.no_grad():
            for parameter in adapter.parameters():
                if parameter.grad is not None:
                    parameter.sub_(parameter.grad, alpha=0.1)
    assert reached == {name for name, p in adapter.named_parameters() if p.requires_grad}
    assert not [n for n, p in model.named_parameters() if not n.startswith("tensorfact.") and p.grad is not None]


# --------------------------------------------------------------------------------------------------------- decomposing


def truncated(tensor: Tensor, rows: list[int], rank: int) -> Tensor:
    """Return the squared singular values beyond a rank, of the unfolding with these dimensions as rows."""
    columns = [dim for dim in range(tensor.dim()) if dim not in rows]
    matrix = tensor.permute(rows + columns).reshape(math.prod(tensor.shape[dim] for dim in rows), -1)
    singular: Tensor = torch.linalg.svdvals(matrix)
    return singular[rank:].square().sum()


@pytest.mark.parametrize("kind", [TensorTrain, Tucker, MatrixBatch])
@given(data=st.data())
def test_law_07_full_rank_reconstructs_exactly(kind: Any, data: st.DataObject) -> None:
    drawn = data.draw(modes())
    order = data.draw(st.none() | st.permutations([mode.name for mode in drawn]).map(tuple))
    tensor = data.draw(tensors(drawn))
    format = full_rank(kind, drawn, order)
    assert difference(dense(format, drawn, format.decompose(tensor, drawn).cores), tensor) < 1e-10


@pytest.mark.parametrize("kind", [TensorTrain, Tucker])
@given(data=st.data())
def test_law_07_the_error_is_quasi_optimal(kind: Any, data: st.DataObject) -> None:
    drawn = data.draw(modes())
    format, tensor = data.draw(formats(drawn, [kind])), data.draw(tensors(drawn))
    network, names = format.network(drawn), [mode.name for mode in drawn]
    error = float((dense(format, drawn, format.decompose(tensor, drawn).cores) - tensor).norm())
    if isinstance(format, TensorTrain):  # Oseledets 2011, theorem 2.2
        along = [names.index(mode.name) for mode in chain(drawn, format.order)]
        beyond = [truncated(tensor, along[:k], network.sizes[f"_{k}"]) for k in range(1, len(drawn))]
    else:  # De Lathauwer et al. 2000, property 10: sqrt(modes) times the best error
        beyond = [truncated(tensor, [at], network.sizes[f"_{name}"]) for at, name in enumerate(names)]
    assert error <= float(torch.stack(beyond).sum().sqrt()) * (1 + 1e-6) + 1e-9 * float(tensor.norm())


@pytest.mark.parametrize("kind", [TensorTrain, Tucker, MatrixBatch])
@given(data=st.data())
def test_law_07_the_error_does_not_rise_with_the_rank(kind: Any, data: st.DataObject) -> None:
    drawn = data.draw(modes())
    tensor = data.draw(tensors(drawn))
    highest = full_rank(kind, drawn).rank  # type: ignore[attr-defined]
    top = min(highest) if isinstance(highest, tuple) else highest
    errors = []
    for rank in range(1, top + 1):
        format = kind(rank)
        errors.append(float((dense(format, drawn, format.decompose(tensor, drawn).cores) - tensor).norm()))
    slack = 1e-9 * float(tensor.norm()) + 1e-12
    assert all(later <= earlier + slack for earlier, later in itertools.pairwise(errors)), errors


@pytest.mark.parametrize("kind", FORMATS)
@given(data=st.data())
def test_law_07_a_zero_tensor_decomposes_to_zero(kind: Any, data: st.DataObject) -> None:
    drawn = data.draw(modes())
    format = data.draw(formats(drawn, [kind]))
    zero = torch.zeros([mode.size for mode in drawn])
    cores = format.decompose(zero, drawn).cores
    assert all(core.isfinite().all() for core in cores.values())
    assert not dense(format, drawn, cores).any()


# ---------------------------------------------------------------------------------------------------- merging, storing


@pytest.mark.parametrize("dtype", EACH, ids=str)
@given(adaptation=adaptations(), rounds=st.integers(1, 4))
def test_law_08_unmerging_restores_every_bit(adaptation: Adaptation, dtype: torch.dtype, rounds: int) -> None:
    model, adapter = adaptation.drawn(dtype)
    base, adapted = state_bits(model), infer(model, ids())
    merged = []
    for _ in range(rounds):
        adapter.merge()
        merged.append(state_bits(model))
        adapter.unmerge()
        assert state_bits(model) == base
    assert all(state == merged[0] for state in merged), "merging again gives the same bits"
    assert torch.equal(infer(model, ids()), adapted)


@pytest.mark.parametrize("dtype", EACH, ids=str)
@settings(max_examples=15)
@given(adaptation=adaptations())
def test_law_09_what_is_loaded_gives_the_same_outputs(folder: Path, adaptation: Adaptation, dtype: torch.dtype) -> None:
    model, adapter = adaptation.drawn(dtype, train_head=True)
    with torch.no_grad():
        model.get_parameter("head.bias").add_(1)
    adapter.save(folder / "file")
    twin = adaptation.case.build(dtype)
    other = load_adapter(twin, folder / "file")
    assert torch.equal(infer(twin, ids()), infer(model, ids()))
    assert state_bits(twin) == state_bits(model)
    assert (other.plan, other.formats, other.scales) == (adapter.plan, adapter.formats, adapter.scales)


@settings(max_examples=15)
@given(adaptations())
def test_law_09_another_base_model_is_refused_with_both_fingerprints(folder: Path, adaptation: Adaptation) -> None:
    _, adapter = adaptation.drawn()
    adapter.save(folder / "file")
    other = adaptation.case.build(seed=1)
    resolved = adaptation.case.plan.resolve(other)
    twin = adaptation.case.build(seed=1)
    theirs = adapt(twin, adaptation.case.plan, adaptation.formats, train_head=False).fingerprint
    assert resolved.parameters
    with untouched(other), refused(FingerprintError, str(adapter.fingerprint), str(theirs)):
        load_adapter(other, folder / "file")
    assert adapter.fingerprint != theirs


@given(adaptations())
def test_law_10_json_of_plans_and_formats_reads_back_equal(adaptation: Adaptation) -> None:
    plan = adaptation.case.plan
    assert TensorizationPlan.from_json(plan.to_json()) == plan
    for format in adaptation.formats.values():
        assert format_from_dict(json.loads(json.dumps(format_to_dict(format)))) == format


@given(adaptations(), st.text("abcxyz_", min_size=1, max_size=6))
def test_law_10_unknown_keys_are_errors(adaptation: Adaptation, key: str) -> None:
    plan = json.loads(adaptation.case.plan.to_json())
    for level in (plan, plan["groups"][-1], plan["groups"][-1]["rules"][-1]):
        level[f"{key}_"] = 1
        with refused(PlanError, f"{key}_"):
            TensorizationPlan.from_json(json.dumps(plan))
        del level[f"{key}_"]
    for format in adaptation.formats.values():
        with refused(FormatError, f"{key}_"):
            format_from_dict({**format_to_dict(format), f"{key}_": 1})


# ------------------------------------------------------------------------------------------------ cost, reproducibility


@given(networks(), st.sampled_from(["auto", "greedy", "eager"]))
def test_law_11_no_plan_costs_more_than_a_naive_order(network: Network, optimize: str) -> None:
    """test_contraction counts the naive orders by itself."""
    plan = plan_contraction(network, optimize)
    assert plan.flops <= plan.naive_flops


@given(adaptations(), st.integers(1, 5000))
def test_law_11_holds_for_every_parameter_of_an_adapter(adaptation: Adaptation, tokens: int) -> None:
    _, adapter = adaptation.fresh()
    for choice in adapter.explain(tokens).choices:
        assert choice.flops <= choice.naive_flops
    for tensor in adapter.resolved.tensors:
        network = adapter.formats[tensor.name].network(tensor.modes)
        sides = {side: [m.name for m in tensor.modes if m.side == side] for side in ("in", "stack", "out")}
        applied = with_input(network, sides["in"], [*sides["stack"], *sides["out"]], tokens)
        plan = plan_contraction(applied)
        assert plan.flops <= plan.naive_flops


@given(adaptations(), st.integers(0, 2**32))
def test_law_12_a_seed_decides_the_factors(adaptation: Adaptation, seed: int) -> None:
    def cores(seed: int, noise: int) -> dict[str, bytes]:
        model = adaptation.case.build()
        torch.manual_seed(noise)
        state = torch.get_rng_state()
        adapter = adapt(model, adaptation.case.plan, adaptation.formats, scale=1.0, seed=seed)
        assert torch.equal(torch.get_rng_state(), state), "a seeded start leaves torch's own state alone"
        return {name: bits(core) for name, core in adapter.named_cores().items()}

    first = cores(seed, noise=0)
    assert cores(seed, noise=1) == first
    other = cores(seed + 1, noise=0)
    with torch.device("meta"):
        resolved = adaptation.case.plan.resolve(adaptation.case.sizes.build())
    networks = {tensor.name: tensor.network(adaptation.formats[tensor.name]) for tensor in resolved.tensors}
    random = {f"{t}.{core.name}" for t, network in networks.items() for core in network.cores if core.start == "normal"}
    assert {name for name in first if other[name] != first[name]} == random


def test_law_12_holds_whatever_torch_s_default_dtype_is() -> None:
    """It decides how plain `torch.randn` draws; the factors of a model in fp32 must not depend on it."""

    def cores(default: torch.dtype) -> dict[str, bytes]:
        model = layers()
        torch.set_default_dtype(default)
        try:
            adapter = adapt(model, layers_plan(), TensorTrain(2), seed=0)
        finally:
            torch.set_default_dtype(torch.float32)
        return {name: bits(core) for name, core in adapter.named_cores().items()}

    assert cores(torch.float64) == cores(torch.float32)


def test_law_12_without_a_seed_torch_s_state_decides() -> None:
    def core(seed: int) -> bytes:
        model = nano()
        torch.manual_seed(seed)
        return bits(adapt(model, plan_for(model), TensorTrain(2)).named_cores()["encoder.U"])

    assert core(0) == core(0) != core(1)


# ---------------------------------------------------------------------------------------------------- changed factors


def _in_place(model: nn.Module, adapter: Adapter) -> None:
    with torch.no_grad():
        for core in adapter.parameters():
            core.mul_(1.5)


def _through_data(model: nn.Module, adapter: Adapter) -> None:
    for core in adapter.parameters():
        core.data.mul_(1.5)


def _assigned_data(model: nn.Module, adapter: Adapter) -> None:
    for core in adapter.parameters():
        core.data = 1.5 * core.data


def _through_numpy(model: nn.Module, adapter: Adapter) -> None:
    for core in adapter.parameters():
        values = core.detach().numpy()
        values *= 1.5


def _fused(kind: Callable[..., torch.optim.Optimizer]) -> Callable[[nn.Module, Adapter], None]:
    def step(model: nn.Module, adapter: Adapter) -> None:
        cores = [core for core in adapter.parameters() if core.requires_grad]
        for core in cores:
            core.grad = torch.ones_like(core)
        kind(cores, lr=0.5, fused=True).step()

    return step


def _loaded(model: nn.Module, adapter: Adapter) -> None:
    cores = {name: 1.5 * tensor for name, tensor in adapter.state_dict().items()}
    adapter.load_state_dict(cores)


def _loaded_by_assignment(model: nn.Module, adapter: Adapter) -> None:
    adapter.load_state_dict({name: 1.5 * tensor for name, tensor in adapter.state_dict().items()}, assign=True)


def _moved_into_one_buffer(model: nn.Module, adapter: Adapter) -> None:
    cores = list(adapter.parameters())
    flat = torch.cat([core.detach().reshape(-1) for core in cores])
    for core, part in zip(cores, torch.split(flat, [core.numel() for core in cores]), strict=True):
        core.data = part.view(core.shape)
    flat.mul_(1.5)


def _replaced(model: nn.Module, adapter: Adapter) -> None:
    for module in adapter.modules():
        for name, core in module._parameters.items():
            if core is not None:
                module._parameters[name] = nn.Parameter(1.5 * core.detach(), requires_grad=core.requires_grad)


WRITES: dict[str, Callable[[nn.Module, Adapter], None]] = {
    "in place": _in_place,
    "through .data": _through_data,
    ".data assigned": _assigned_data,
    "through numpy": _through_numpy,
    "fused AdamW": _fused(torch.optim.AdamW),
    "fused Adam": _fused(torch.optim.Adam),
    "fused SGD": _fused(torch.optim.SGD),
    "fused Adagrad": _fused(torch.optim.Adagrad),
    "load_state_dict": _loaded,
    "load_state_dict(assign=True)": _loaded_by_assignment,
    "a flat buffer": _moved_into_one_buffer,
    "new parameters": _replaced,
}


@pytest.mark.sampled(5)
@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("route", ["activation", "formed", "weight"])
@settings(max_examples=15)
@given(adaptation=adaptations(called=True))
def test_law_13_the_next_forward_uses_what_was_written_to_a_factor(
    write: str, route: str, adaptation: Adaptation
) -> None:
    model, adapter = adaptation.drawn(torch.float64, route=route)
    before = infer(model, ids())
    model(ids()).sum().backward()
    infer(model, ids())  # a look at the output between backward and step
    WRITES[write](model, adapter)
    found = infer(model, ids())
    assert torch.equal(infer(copy.deepcopy(model), ids()), found)
    assert difference(found, before) > 1e-8
    adapter.merge()
    assert difference(infer(model, ids()), found) < TOLERANCE[torch.float64]


@pytest.mark.parametrize("route", ["activation", "formed", "weight"])
@settings(max_examples=15)
@given(adaptation=adaptations(called=True))
def test_law_13_functional_call_uses_the_tensors_that_it_is_given(route: str, adaptation: Adaptation) -> None:
    model, _ = adaptation.drawn(torch.float64, route=route)
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        torch.func.functional_call(model, state, (ids(),))
        for name, tensor in state.items():
            if name.startswith("tensorfact.factors."):
                tensor.data.mul_(1.5)
        found = torch.func.functional_call(model, state, (ids(),))
    model.load_state_dict(state)
    assert difference(infer(model, ids()), found) < TOLERANCE[torch.float64]
