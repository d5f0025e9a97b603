"""Several processes: every factor is seen once, and what they train is what one process trains."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from tensorfact import TensorTrain, adapt, plan_for
from tensorfact.lab import evaluate, nano
from tensorfact.storage.files import read_header, read_tensors
from tests.distributed_run import CASES, data, trained
from tests.helpers import difference, draw

ROOT = Path(__file__).parent.parent
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2")
ACCELERATE = (
    *("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
    *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
)
X = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    """Be the only process of a group."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("route", ["auto", "formed", "weight"])
def test_distributed_data_parallel_trains_every_factor(route: Any) -> None:
    gradients = []
    for parallel in (False, True):
        model = nano()
        adapter = adapt(model, plan_for(model), TensorTrain(2), seed=0, route=route)
        draw(adapter)
        run = nn.parallel.DistributedDataParallel(model) if parallel else model
        for _ in range(2):  # the second pass finds parameters that the first one left without a gradient
            model.zero_grad()
            run(X).square().mean().backward()
        gradients.append({name: p.grad for name, p in adapter.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() == dict(adapter.named_parameters()).keys()
    assert all(difference(gradients[1][name], gradients[0][name]) < 1e-5 for name in gradients[0])


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("route", ["auto", "formed", "weight"])
def test_sharding_gathers_the_factors_before_they_are_used(route: Any) -> None:
    outputs: list[torch.Tensor] = []
    gradients: list[dict[str, Any]] = []
    for sharded in (False, True):
        model: Any = nano()
        adapter = adapt(model, plan_for(model), TensorTrain(2), seed=0, route=route)
        draw(adapter)
        if sharded:
            mesh = init_device_mesh("cpu", (1,))
            for part in (*model.blocks, model):
                fully_shard(part, mesh=mesh)
        for _ in range(2):
            model.zero_grad()
            output = model(X)
            output.square().mean().backward()
        outputs.append(output)
        gradients.append({name: p.grad for name, p in adapter.named_parameters()})
    assert difference(outputs[1], outputs[0]) < 1e-5
    assert all(difference(gradients[1][name].full_tensor(), gradients[0][name]) < 1e-5 for name in gradients[0])


def environment() -> dict[str, str]:
    path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def launched(launcher: Sequence[str], *arguments: str | Path) -> str:
    """Run a program in two processes; return what it printed."""
    command = [sys.executable, "-m", *launcher, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), check=False, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return done.stdout


def check(folder: Path, cases: Sequence[str], tolerance: float = 1e-5) -> None:
    """Hold what two processes wrote against one process."""
    for case in cases:
        model, history = trained(CASES[case], None)
        expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        model.tensorfact.merge()  # type: ignore[operator, union-attr]
        merged = list(evaluate(model, data(21, 1)))
        for rank in range(2):
            found, header = read_tensors(folder / f"{case}-{rank}"), read_header(folder / f"{case}-{rank}").metadata
            assert found.keys() == expected.keys()
            assert all(difference(found[name], expected[name]) < tolerance for name in expected), case
            for (train_loss, val_loss, accuracy), epoch in zip(header["epochs"], history.epochs, strict=True):
                assert train_loss == pytest.approx(epoch.train_loss, rel=tolerance)
                assert val_loss == (epoch.val_loss and pytest.approx(epoch.val_loss, rel=tolerance))
                assert accuracy == epoch.val_accuracy
            assert header["merged"] == pytest.approx(merged, rel=tolerance)


@pytest.mark.slow
def test_two_processes_train_what_one_trains(tmp_path: Path) -> None:
    """A batch of three parts for two processes, and an incomplete last one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {**environment(), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    command = [sys.executable, "-m", "tests.distributed_run", "ddp", str(tmp_path), "parts"]
    processes = [
        subprocess.Popen(command, cwd=ROOT, env={**place, "RANK": rank, "LOCAL_RANK": rank}) for rank in ("0", "1")
    ]
    assert [process.wait() for process in processes] == [0, 0]
    check(tmp_path, ["parts"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "kind"),
    [
        (TORCHRUN, "ddp"),
        (TORCHRUN, "fsdp"),
        (TORCHRUN, "fsdp-blocks"),
        (ACCELERATE, "ddp"),
        (ACCELERATE, "fsdp-blocks"),
    ],
)
def test_processes_of_a_launcher_train_what_one_trains(tmp_path: Path, launcher: Sequence[str], kind: str) -> None:
    launched(launcher, "-m", "tests.distributed_run", kind, tmp_path, *CASES)
    check(tmp_path, list(CASES))


@pytest.mark.slow
def test_shards_are_gathered_in_bf16_and_trained_in_fp32(tmp_path: Path) -> None:
    launched(TORCHRUN, "-m", "tests.distributed_run", "fsdp-bf16", tmp_path, "unvalidated")
    check(tmp_path, ["unvalidated"], tolerance=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [TORCHRUN, ACCELERATE])
def test_the_example_agrees_with_itself_on_one_process(launcher: Sequence[str], tmp_path: Path) -> None:
    example = ("examples/train_distributed.py", "--cpu", "--epochs", "1")
    command = [sys.executable, *example, "--out", str(tmp_path / "one")]
    alone = subprocess.run(command, cwd=ROOT, env=environment(), check=True, capture_output=True, text=True).stdout
    both = launched(launcher, *example, "--accumulation", "3", "--out", tmp_path / "two")
    assert alone.replace("1 processes", "2 processes") == both
    one, two = (read_tensors(tmp_path / name) for name in ("one", "two"))
    assert all(difference(two[name], one[name]) < 1e-3 for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [TORCHRUN, ACCELERATE])
def test_a_state_of_two_processes_holds_the_adapter_and_resumes_bit_for_bit(
    launcher: Sequence[str], tmp_path: Path
) -> None:
    printed = launched(launcher, "examples/train_accelerate.py", "--state", tmp_path / "state")
    assert "2 processes" in printed
    assert "resumed bit for bit: True" in printed
    assert read_header(tmp_path / "state" / "adapter.safetensors").digest
    assert not (tmp_path / "state" / "model.safetensors").exists()
    assert sum(path.stat().st_size for path in (tmp_path / "state").iterdir()) < 200_000
