"""Checkpoints of Lightning without the base model: resumed bit for bit, and refused on another base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tensorfact import adapt, load
from tensorfact.errors import AdaptError, FingerprintError
from tensorfact.integrations.lightning import AdapterCallback
from tests.helpers import TT, Tiny, draw, ids, qkv_plan, randomise, refused, state_bits

pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed from")

DATA = TensorDataset(ids(12), torch.arange(12) % 3)


class Lit(pl.LightningModule):
    """A model in a module: the names of its tensors begin with `model.`."""

    def __init__(self, seed: int = 0, *, adapted: bool = True) -> None:
        super().__init__()
        self.model = randomise(Tiny(), seed)
        self.norm = nn.BatchNorm1d(3)  # belongs to no adapted model
        if adapted:
            adapt(self.model, qkv_plan(), TT, seed=0, train="norm", scale=2.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.model(x))  # type: ignore[no-any-return]

    def training_step(self, batch: Any, index: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, index: int) -> None:
        self.log("loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=0.05)


def fit(module: Lit, folder: Path, *, epochs: int = 2, start: Path | None = None, best: Path | None = None) -> Any:
    """Train; the best epoch is the one with the highest loss, the first."""
    saving = ModelCheckpoint(folder, "{epoch}", monitor="loss", mode="max", save_top_k=-1)
    trainer = pl.Trainer(
        max_epochs=epochs,
        callbacks=[saving, AdapterCallback(best)],
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = DataLoader(DATA, batch_size=4)
    trainer.fit(module, loader, loader, ckpt_path=start)
    return trainer


def test_a_run_resumes_bit_for_bit_from_a_checkpoint_without_the_base_model(tmp_path: Path) -> None:
    whole, resumed = Lit(), Lit()
    fit(whole, tmp_path)
    checkpoint = torch.load(tmp_path / "epoch=0.ckpt", weights_only=False)
    names = set(checkpoint["state_dict"])
    trained = {name for name, parameter in whole.named_parameters() if parameter.requires_grad}
    assert names == trained | {f"norm.{name}" for name, _ in whole.norm.named_buffers()}
    fit(resumed, tmp_path / "more", start=tmp_path / "epoch=0.ckpt")
    assert state_bits(resumed) == state_bits(whole)


def test_the_adapter_of_the_best_checkpoint_is_written(tmp_path: Path) -> None:
    module = Lit()
    trainer = fit(module, tmp_path, epochs=3, best=tmp_path / "best")
    last = state_bits(module)
    assert trainer.checkpoint_callback.best_model_path == str(tmp_path / "epoch=0.ckpt")
    best = load(tmp_path / "best", model=randomise(Tiny())).model
    [tested] = trainer.validate(module, DataLoader(DATA, batch_size=4), ckpt_path="best", verbose=False)
    assert tested["loss"] == pytest.approx(float(trainer.checkpoint_callback.best_model_score))
    assert state_bits(best) == state_bits(module.model)
    assert state_bits(module) != last
    fit(again := Lit(), tmp_path / "again", epochs=3)
    assert state_bits(again) == last, "the last weights were still there after the best ones were written"


def test_a_checkpoint_on_another_base_is_refused(tmp_path: Path) -> None:
    fit(Lit(), tmp_path, epochs=1)
    with refused(FingerprintError, "another base model"):
        fit(Lit(seed=1), tmp_path / "more", start=tmp_path / "epoch=0.ckpt")


def test_a_checkpoint_loads_without_the_callback_on_the_same_base(tmp_path: Path) -> None:
    module = Lit()
    fit(module, tmp_path, epochs=1)
    path = tmp_path / "epoch=0.ckpt"
    with pytest.warns(UserWarning, match="in the model state dict but not in the checkpoint"):
        found = Lit.load_from_checkpoint(path, strict=False)
    assert state_bits(found) == state_bits(module)
    with pytest.raises(RuntimeError, match="Missing key"):
        Lit.load_from_checkpoint(path)


def test_what_the_checkpoint_does_not_hold_comes_back(tmp_path: Path) -> None:
    """A norm that was unfrozen and trained after the checkpoint was written."""
    module = Lit()
    trainer = fit(module, tmp_path, epochs=1)
    saved = state_bits(module)
    module.model.embed.requires_grad_(True)
    with torch.no_grad():
        module.model.embed.weight.add_(1)
    draw(module.model.tensorfact)  # type: ignore[arg-type]
    trainer.validate(module, DataLoader(DATA), ckpt_path=tmp_path / "epoch=0.ckpt", verbose=False)
    assert state_bits(module) == saved


def test_a_module_without_an_adapter_is_refused(tmp_path: Path) -> None:
    with refused(AdaptError, "Lit", "adapt(self.model)"):
        fit(Lit(adapted=False), tmp_path)
