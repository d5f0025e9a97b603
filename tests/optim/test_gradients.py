"""Preconditioned gradients under any optimizer: for LoRA they are those of peft."""

from __future__ import annotations

from typing import Any, cast

import peft
import pytest
import torch
from peft.optimizers import create_riemannian_optimizer
from torch import Tensor, nn

from tensorfact import Adapter, MatrixBatch, adapt
from tensorfact.errors import AdaptError
from tensorfact.optim import precondition
from tests.helpers import layers, layers_plan, randomise, refused

RANK, WIDTH, DEPTH = 3, 6, 2


def pair() -> tuple[nn.Module, Adapter]:
    """Return LoRA by peft and by tensorfact, with the same matrices on the same base."""
    base = layers(DEPTH, WIDTH)
    names = [str(at) for at in range(DEPTH)]
    config = peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=names, init_lora_weights=False)
    theirs = peft.get_peft_model(cast("Any", randomise(base)), config)
    model = cast("nn.Module", randomise(layers(DEPTH, WIDTH)))
    ours = adapt(model, layers_plan(), MatrixBatch(RANK), scale=1.0, check=False, train_head=False)
    matrices = dict(theirs.named_parameters())
    cores = {
        side: torch.stack(
            [matrices[f"base_model.model.{name}.lora_{side}.default.weight"].detach().T for name in names]
        )
        for side in ("A", "B")
    }
    with torch.no_grad():
        for side, core in cores.items():
            ours.named_cores()[f"stack.{side}"].copy_(core)
    return theirs, ours


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("damping", [1e-2, 1e-1])
def test_lora_is_trained_as_by_peft(kind: type[torch.optim.Optimizer], damping: float) -> None:
    theirs, ours = pair()
    first = create_riemannian_optimizer(cast("Any", theirs), kind, lr=1e-2, reg=damping)
    second = precondition(kind(ours.factors.parameters(), lr=1e-2), ours, damping=damping)  # type: ignore[call-arg]
    for step in range(10):
        x = torch.randn(8, WIDTH, generator=torch.Generator().manual_seed(step))
        outputs: list[Tensor] = []
        for model, optimizer in ((theirs, first), (ours.model, second)):
            optimizer.zero_grad()
            outputs.append(model(x))
            torch.autograd.backward(outputs[-1].square().mean())
            optimizer.step()
        assert torch.allclose(outputs[0], outputs[1], rtol=1e-5, atol=1e-5)


def test_a_step_uses_the_matrices_from_before_it() -> None:
    _, ours = pair()
    before = {name: core.detach().clone() for name, core in ours.named_cores().items()}
    optimizer = precondition(torch.optim.SGD(ours.factors.parameters(), lr=1.0), ours, damping=1e-3)
    ours.model(torch.ones(1, WIDTH)).sum().backward()
    gradients = {name: cast("Tensor", core.grad).clone() for name, core in ours.named_cores().items()}
    optimizer.step()
    a, b = before["stack.A"], before["stack.B"]
    gram = torch.einsum("nir,nis->nrs", a, a) + 1e-3 * torch.eye(RANK)
    expected = b - torch.linalg.solve(gram, gradients["stack.B"])
    assert torch.allclose(ours.named_cores()["stack.B"], expected, atol=1e-5)


def test_wrong_arguments_are_refused() -> None:
    _, ours = pair()
    optimizer = torch.optim.SGD(ours.factors.parameters(), lr=1.0)
    with refused(AdaptError, "precondition: optimizer"):
        precondition(ours, ours)  # type: ignore[type-var]
    with refused(AdaptError, "precondition: damping", "above 0"):
        precondition(optimizer, ours, damping=-1.0)
