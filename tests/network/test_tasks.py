"""Networks with a leg over tasks: counts, and the tensors of every task."""

from __future__ import annotations

import torch

from tensorfact import CP, TensorTrain
from tensorfact.errors import NetworkError
from tensorfact.network import Mode, dense_of
from tensorfact.network.tasks import TASK, owned_cores, with_tasks
from tests.helpers import refused

MODES = (Mode("layer", 3, "stack"), Mode("in", 4, "in"), Mode("out", 5, "out"))


def test_the_tensor_of_a_task_is_that_of_its_cores() -> None:
    one = TensorTrain(rank=2).network(MODES)
    network = with_tasks(one, 6, ["S1"])
    assert owned_cores(network) == ("S1",)
    assert network.num_parameters == one.num_parameters + 5 * 2 * 3 * 2
    cores = {name: torch.randn(shape, dtype=torch.float64) for name, shape in network.shapes().items()}
    every = dense_of(network, cores)
    assert every.shape == (6, 3, 4, 5)
    for task in range(6):
        alone = dense_of(one, {**cores, "S1": cores["S1"][task]})
        assert torch.allclose(every[task], alone)


def test_all_cores_may_be_owned_and_none_may_not() -> None:
    one = CP(rank=2).network(MODES)
    network = with_tasks(one, 2, [core.name for core in one.cores])
    assert network.num_parameters == 2 * one.num_parameters
    assert network.output == (TASK, *one.output)
    with refused(NetworkError, "no core is owned", "with_tasks(network, 2, ['U1'])"):
        with_tasks(one, 2, ["W"])
