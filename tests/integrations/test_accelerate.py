"""States of accelerate that hold the adapter's folder: alone, with a model without an adapter, and in two processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from torch import Tensor, nn

from tensorfact import adapt, load
from tensorfact.integrations.accelerate import small_states
from tests.helpers import TT, Tiny, ids, layers, qkv_plan, randomise, state_bits

LABELS = torch.tensor([0, 1, 2])


def prepared(folder: Path, *others: nn.Module) -> tuple[Accelerator, Any, Any]:
    accelerator = Accelerator(cpu=True, project_config=ProjectConfiguration(str(folder)))
    small_states(accelerator)
    model = randomise(Tiny())
    adapt(model, qkv_plan(), TT, seed=0, train="norm")
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model, optimizer, *_ = accelerator.prepare(model, optimizer, *others)
    return accelerator, model, optimizer


def step(accelerator: Accelerator, model: Any, optimizer: Any) -> Tensor:
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(ids()), LABELS)
    accelerator.backward(loss)
    optimizer.step()
    return loss.detach()


def test_a_run_goes_on_bit_for_bit_from_a_state_that_holds_the_adapter(tmp_path: Path) -> None:
    accelerator, model, optimizer = prepared(tmp_path)
    step(accelerator, model, optimizer)
    accelerator.save_state(str(tmp_path / "state"))
    step(accelerator, model, optimizer)
    names = os.listdir(tmp_path / "state")
    assert "adapter.safetensors" in names
    assert "model.safetensors" not in names
    accelerator, resumed, optimizer = prepared(tmp_path)
    accelerator.load_state(str(tmp_path / "state"))
    assert state_bits(load(tmp_path / "state", model=randomise(Tiny())).model) == state_bits(resumed)
    step(accelerator, resumed, optimizer)
    assert state_bits(resumed) == state_bits(model)


def test_models_without_an_adapter_are_stored_as_before(tmp_path: Path) -> None:
    plain, second = randomise(layers()), randomise(Tiny(), 1)
    adapt(second, qkv_plan(), TT, seed=1)
    accelerator, first, _ = prepared(tmp_path, plain, second)
    before = [state_bits(model) for model in (first, plain, second)]
    accelerator.save_state(str(tmp_path / "state"))
    assert {"model.safetensors", "adapter.safetensors", "adapter_2"} <= set(os.listdir(tmp_path / "state"))
    with torch.no_grad():
        for model in (first, plain, second):
            for parameter in model.parameters():
                parameter.add_(parameter.requires_grad)
    accelerator.load_state(str(tmp_path / "state"))
    assert [state_bits(model) for model in (first, plain, second)] == before


def test_the_other_hooks_and_models_of_accelerate_stay(tmp_path: Path) -> None:
    accelerator, model, _ = prepared(tmp_path)
    assert accelerator._models == [model]
    accelerator.save_state(str(tmp_path / "a"))
    accelerator.load_state(str(tmp_path / "a"))
    assert accelerator._models == [model]
