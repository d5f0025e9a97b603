"""Data-parallel training: every factor is seen once, and frozen weights do not get in the way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
from torch import nn

import tensorfact as tf

from .helpers import difference, draw

X = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    """Be the only process of a group."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("route", ["auto", "weight"])
def test_distributed_data_parallel_trains_every_factor(route: Any) -> None:
    gradients = []
    for parallel in (False, True):
        model = tf.nano()
        adapter = tf.adapt(model, tf.plan_for(model), tf.TensorTrain(2), seed=0, route=route)
        draw(adapter)
        run = nn.parallel.DistributedDataParallel(model) if parallel else model
        for _ in range(2):  # the second pass finds parameters that the first one left without a gradient
            model.zero_grad()
            run(X).square().mean().backward()
        gradients.append({name: p.grad for name, p in adapter.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() == dict(adapter.named_parameters()).keys()
    assert all(difference(gradients[1][name], gradients[0][name]) < 1e-5 for name in gradients[0])
