"""An accelerator in one process: precision, trackers, and unsupported settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import FullyShardedDataParallelPlugin
from accelerate.utils import DistributedType
from torch import Tensor, nn

from tensorfact import fit
from tensorfact.errors import TrainingError
from tests.distributed_run import adapted, data
from tests.helpers import difference, infer, refused, snapshot, state_bits, untouched
from tests.lab.training.runs import network, numbers, run


def test_an_accelerator_of_one_process_changes_no_number(make: Any) -> None:
    alone, model = network(), network()
    expected, accelerator = run(alone), make()
    before = snapshot(model)
    for _ in range(2):  # and leaves nothing behind, on the model or in itself
        model.load_state_dict(network().state_dict())
        assert numbers(run(model, accelerator=accelerator)) == numbers(expected)
        assert state_bits(model) == state_bits(alone)
    after = snapshot(model)
    assert {**after, "state": 0} == {**before, "state": 0}
    assert not accelerator._models
    assert not accelerator._optimizers


def test_bf16_computes_in_bf16_and_gives_the_model_back(make: Any) -> None:
    model, adapter = adapted()
    x = data(4, 2).tensors[0]
    seen: set[torch.dtype] = set()
    handle = model.blocks[0].attn.register_forward_hook(lambda m, i, y: seen.add(y.dtype))  # type: ignore[union-attr, index]
    losses: set[torch.dtype] = set()

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        losses.add(logits.dtype)
        return nn.functional.cross_entropy(logits, labels)

    fit(model, data(8, 0), data(4, 1), epochs=2, accelerator=make(mixed_precision="bf16"), loss=loss)
    assert (seen, losses) == ({torch.bfloat16}, {torch.float32})
    handle.remove()
    reference, _ = adapted()
    assert {**snapshot(model), "state": 0} == {**snapshot(reference), "state": 0}
    assert "forward" not in vars(model)
    assert infer(model, x).dtype == torch.float32
    assert {core.dtype for core in adapter.named_cores().values()} == {torch.float32}
    exact, _ = adapted()
    fit(exact, data(8, 0), data(4, 1), epochs=2)
    assert 0 < difference(infer(model, x), infer(exact, x)) < 0.1


def test_an_error_leaves_the_model_unwrapped(make: Any) -> None:
    model, accelerator = network(), make(mixed_precision="bf16")

    def stop(index: int, epoch: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(model, accelerator=accelerator, on_epoch=stop)
    assert sorted(vars(model)) == sorted(vars(network()))
    assert not accelerator._models


def test_trackers_are_told(make: Any, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accelerator = make(log_with="tensorboard", project_dir=tmp_path)
    accelerator.init_trackers("run")
    history = run(network(), epochs=3, accelerator=accelerator, validate_every=2)
    accelerator.end_training()
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    assert [event.step for event in events.Scalars("train_loss")] == [0, 1, 2]
    assert [event.step for event in events.Scalars("val_accuracy")] == [1, 2]
    logged = [event.value for event in events.Scalars("train_loss")]
    assert logged == pytest.approx([epoch.train_loss for epoch in history.epochs])


def test_an_accelerator_that_accumulates_is_refused(make: Any) -> None:
    model = network()
    with untouched(model), refused(TrainingError, "gradient_accumulation_steps", "accumulation="):
        run(model, accelerator=make(gradient_accumulation_steps=2))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"fsdp_version": 1}, "fsdp_version=2"),
        ({"fsdp_version": 2, "cpu_ram_efficient_loading": True}, "cpu_ram_efficient_loading=False"),
        ({"fsdp_version": 2, "activation_checkpointing": True}, "gradient_checkpointing=True"),
    ],
)
@pytest.mark.filterwarnings("ignore:FSDP1 is deprecated", "ignore:sharding_strategy is deprecated")
def test_a_way_of_sharding_that_does_not_fit_is_refused(make: Any, options: dict[str, Any], word: str) -> None:
    accelerator, model = make(), network()
    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(**options)
    with untouched(model), refused(TrainingError, word):
        run(model, accelerator=accelerator)
