"""Checkpoints of transformers' Trainer: small, resumed bit for bit, and never taken for the base model."""

from __future__ import annotations

import copy
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers
from torch import nn

from tensorfact import adapt, load
from tensorfact.errors import AdaptError, CheckpointError, FingerprintError
from tensorfact.integrations.transformers import AdapterCheckpoints
from tests.helpers import refused, state_bits

CONFIG = transformers.BertConfig(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, num_labels=3, vocab_size=50
)
IDS = torch.randint(50, (24, 6), generator=torch.Generator().manual_seed(0))
DATA = [{"input_ids": row, "labels": row[0] % 3} for row in IDS]


class AdapterTrainer(AdapterCheckpoints, transformers.Trainer): ...  # type: ignore[misc]  # not typed


class SequenceTrainer(AdapterCheckpoints, transformers.Seq2SeqTrainer): ...  # type: ignore[misc]  # not typed


def base(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return transformers.BertForSequenceClassification(CONFIG)


def trainer(folder: Path, kind: type[Any] = AdapterTrainer, model: nn.Module | None = None, **options: Any) -> Any:
    """Return a trainer of a fresh adapted model, whose dropout draws from the state that a checkpoint holds."""
    if model is None:
        adapt(model := base(), seed=0, train="LayerNorm")
    given = {"max_steps": 6, "save_steps": 3, "learning_rate": 1e-2, "per_device_train_batch_size": 4, **options}
    quiet = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "dataloader_pin_memory": False}
    sequences = issubclass(kind, transformers.Seq2SeqTrainer)
    arguments = transformers.Seq2SeqTrainingArguments if sequences else transformers.TrainingArguments
    args = arguments(output_dir=str(folder), **quiet, **given)
    return kind(model=model, args=args, train_dataset=DATA, eval_dataset=DATA[:8])


def test_what_would_go_wrong_later_is_refused_at_once(tmp_path: Path) -> None:
    with refused(AdaptError, "not adapted"):
        trainer(tmp_path, model=base()).train()
    with refused(AdaptError, "has no effect after", "class Wrong(AdapterCheckpoints, Trainer)"):
        type("Wrong", (transformers.Trainer, AdapterCheckpoints), {})
    trainer(tmp_path / "plain", transformers.Trainer, base(), max_steps=3).train()
    with refused(CheckpointError, "holds a model without an adapter"):
        trainer(tmp_path / "ours").train(resume_from_checkpoint=str(tmp_path / "plain" / "checkpoint-3"))
    adapt(model := base(), seed=0)
    trainer(tmp_path / "head", model=model, max_steps=3).train()
    with refused(CheckpointError, "LayerNorm", "train="):
        trainer(tmp_path / "norms").train(resume_from_checkpoint=str(tmp_path / "head" / "checkpoint-3"))


def size(folder: Path, *names: str) -> int:
    return sum((folder / name).stat().st_size for name in (names or os.listdir(folder)))


@pytest.mark.parametrize("kind", [AdapterTrainer, pytest.param(SequenceTrainer, marks=pytest.mark.slow)])
def test_a_run_resumes_bit_for_bit_from_checkpoints_that_hold_the_adapter(tmp_path: Path, kind: type[Any]) -> None:
    whole = trainer(tmp_path, kind)
    whole.train()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-3", "checkpoint-6"]
    shutil.rmtree(tmp_path / "checkpoint-6")  # as if the run had been stopped before
    resumed = trainer(tmp_path, kind)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 6
    assert state_bits(resumed.model) == state_bits(whole.model)
    checkpoint = tmp_path / "checkpoint-3"
    assert not (checkpoint / "model.safetensors").exists()
    assert size(checkpoint, "adapter.safetensors", "adapter.json") < 40_000
    model = load(checkpoint, model=base()).model
    assert state_bits(model) != state_bits(whole.model)
    assert state_bits(load(tmp_path / "checkpoint-6", model=base()).model) == state_bits(whole.model)


@pytest.mark.parametrize("options", [{}, {"save_only_model": True, "save_total_limit": 1}])
def test_the_best_model_is_loaded_at_the_end(tmp_path: Path, options: dict[str, Any]) -> None:
    steps: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "learning_rate": 0.3}
    best = trainer(tmp_path, load_best_model_at_end=True, **steps, **options)
    best.train()
    losses = [entry["eval_loss"] for entry in best.state.log_history if "eval_loss" in entry]
    assert min(losses) < losses[-1], "the last step must not be the best"
    assert best.evaluate()["eval_loss"] == min(losses)
    saved = load(best.state.best_model_checkpoint, model=base()).model
    assert state_bits(saved) == state_bits(best.model)


def test_save_model_writes_the_folder_of_the_adapter(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.save_model(str(tmp_path / "final"))
    names = {"adapter.safetensors", "adapter.json", "README.md", "network.svg", "training_args.bin"}
    assert set(os.listdir(tmp_path / "final")) == names
    run.save_model()
    assert (tmp_path / "adapter.safetensors").exists()


def test_the_tokenizer_is_written_beside_the_adapter(tmp_path: Path) -> None:
    model = base()
    adapt(model)
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words)
    args = transformers.TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True)
    AdapterTrainer(model=model, args=args, processing_class=tokenizer).save_model()
    assert transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path).get_vocab() == tokenizer.get_vocab()


AUTO = (transformers.AutoModel, transformers.AutoModelForSequenceClassification)


@pytest.mark.parametrize("kind", [*AUTO, transformers.BertForSequenceClassification])
def test_a_checkpoint_is_never_taken_for_the_base_model(tmp_path: Path, kind: Any) -> None:
    trainer(tmp_path).save_model()
    with pytest.raises((OSError, ValueError), match=r"Unrecognized model|no file named model\.safetensors"):
        kind.from_pretrained(tmp_path)


def test_a_checkpoint_on_another_base_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path / "checkpoint-1").save_model()
    adapt(other := base(1), seed=0, train="LayerNorm")
    with refused(FingerprintError, "another base model"):
        trainer(tmp_path, model=other).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    adapt(other := base(), format="tt:rank=2")
    with refused(CheckpointError, "rank=2", "rank=8", "load_adapter"):
        trainer(tmp_path, model=other).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


def test_a_model_without_an_adapter_is_refused(tmp_path: Path) -> None:
    with refused(AdaptError, "BertForSequenceClassification", "adapt(model)"):
        trainer(tmp_path, model=base()).save_model()


def test_a_plain_trainer_writes_the_adapter_beside_the_model(tmp_path: Path) -> None:
    """Its own checkpoint is that of the base model and of factors, which `from_pretrained` leaves out."""
    whole = trainer(tmp_path, transformers.Trainer)
    whole.train()
    shutil.rmtree(tmp_path / "checkpoint-6")
    for kind in (transformers.Trainer, AdapterTrainer):
        resumed = trainer(tmp_path, kind)
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
        assert state_bits(resumed.model) == state_bits(whole.model)
    assert state_bits(load(tmp_path / "checkpoint-6", model=base()).model) == state_bits(whole.model)
    whole.model.tensorfact.remove()
    whole.model.save_pretrained(tmp_path / "base")
    assert not (tmp_path / "base" / "adapter.json").exists()


def test_a_copy_writes_its_own_adapter(tmp_path: Path) -> None:
    model = base()
    adapt(model, seed=0)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for core in twin.tensorfact.factors.parameters():
            core.add_(1)
    twin.save_pretrained(save_directory=tmp_path)
    assert state_bits(load(tmp_path, model=base()).model) == state_bits(twin) != state_bits(model)


def test_sharded_states_are_the_trainers(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run._save(str(tmp_path), run.model.state_dict())
    assert (tmp_path / "model.safetensors").exists()
    assert not (tmp_path / "adapter.json").exists()
    before = state_bits(run.model)
    adapter = run.model.tensorfact
    for core in adapter.factors.parameters():
        core.data.add_(1)
    run._load_from_checkpoint(str(tmp_path))
    assert state_bits(run.model) == before
