"""Measure the checkpoints of trainers, with and without what tensorfact adds.

    python -m benchmarks.checkpoints

It prints the table of docs/how-to/trainer.md. The model is a BERT of base size with random weights, adapted as
`adapt(model)` does; each trainer makes one step on the CPU and writes one checkpoint, which is deleted again.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import transformers
from accelerate import Accelerator
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from tensorfact import adapt
from tensorfact.integrations.accelerate import small_states
from tensorfact.integrations.lightning import AdapterCallback
from tensorfact.integrations.transformers import AdapterCheckpoints

DATA = [{"input_ids": torch.arange(1, 9), "labels": torch.tensor(0)}]
RATE = 1e-4


class AdapterTrainer(AdapterCheckpoints, transformers.Trainer): ...  # type: ignore[misc]  # noqa: D101  # not typed


class Module(pl.LightningModule):
    """A LightningModule around a model of transformers."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: Any, index: int) -> Any:
        """Return the loss."""
        return self.model(**batch).loss

    def configure_optimizers(self) -> Any:
        """Return an optimizer of what trains."""
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], RATE)


def with_trainer(model: Any, folder: str, *, small: bool) -> None:
    """Write a checkpoint of transformers' Trainer."""
    args = transformers.TrainingArguments(
        folder,
        max_steps=1,
        save_steps=1,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    (AdapterTrainer if small else transformers.Trainer)(model=model, args=args, train_dataset=DATA).train()


def with_lightning(model: Any, folder: str, *, small: bool) -> None:
    """Write a checkpoint of Lightning."""
    callbacks: list[pl.Callback] = [ModelCheckpoint(folder)]
    trainer = pl.Trainer(
        max_steps=1,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*callbacks, AdapterCallback()] if small else callbacks,
    )
    trainer.fit(Module(model), DataLoader(DATA))  # type: ignore[arg-type]  # a list is a data set


def with_accelerate(model: Any, folder: str, *, small: bool) -> None:
    """Write a state of accelerate."""
    accelerator = Accelerator(cpu=True)
    if small:
        small_states(accelerator)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], RATE)
    model, optimizer, loader = accelerator.prepare(model, optimizer, DataLoader(DATA))  # type: ignore[arg-type]
    for batch in loader:
        accelerator.backward(model(**batch).loss)
        optimizer.step()
    accelerator.save_state(folder)


TRAINERS: dict[str, Callable[..., None]] = {
    "transformers `Trainer`": with_trainer,
    "Lightning": with_lightning,
    "accelerate": with_accelerate,
}


def measured(write: Callable[..., None], *, adapted: bool, small: bool) -> float:
    """Return the size of a checkpoint in MB."""
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(transformers.BertConfig())
    if adapted:
        adapt(model, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        write(model, folder, small=small)
        return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()) / 1e6


def main() -> None:
    """Print the table."""
    warnings.simplefilter("ignore")
    print("| trainer | full fine-tuning | adapted, without `integrations` | adapted |\n| --- | --- | --- | --- |")
    for name, write in TRAINERS.items():
        sizes = [measured(write, adapted=a, small=s) for a, s in ((False, False), (True, False), (True, True))]
        print(f"| {name} | {sizes[0]:,.0f} MB | {sizes[1]:,.0f} MB | {sizes[2]:.2f} MB |", flush=True)


if __name__ == "__main__":
    main()
