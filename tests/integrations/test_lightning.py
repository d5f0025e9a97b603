"""Checkpoints of Lightning without the base model: resumed bit for bit, and refused for another base or adapter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tensorfact import CP, MatrixBatch, TensorTrain, adapt, load
from tensorfact.errors import AdaptError, CheckpointError, FingerprintError, FormatError
from tensorfact.formats import Format
from tensorfact.integrations.lightning import AdapterCallback
from tests.faulty import Undecorated
from tests.helpers import TT, Tiny, draw, ids, qkv_plan, randomise, refused, state_bits

pytestmark = [
    pytest.mark.filterwarnings("ignore:The dirpath has changed from"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create the checkpoint"),
]

DATA = TensorDataset(ids(12), torch.arange(12) % 3)


class Lit(pl.LightningModule):
    """A model in a module: the names of its tensors begin with `model.`."""

    def __init__(self, seed: int = 0, format: Format = TT, *, scale: float = 2.0, adapted: bool = True) -> None:
        super().__init__()
        self.model = randomise(Tiny(), seed)
        self.norm = nn.BatchNorm1d(3)  # belongs to no adapted model
        if adapted:
            adapt(self.model, qkv_plan(), format, seed=0, train="norm", scale=scale)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.model(x))  # type: ignore[no-any-return]

    def training_step(self, batch: Any, index: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, index: int) -> None:
        self.log("loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=0.05)


class Renamed(Lit):
    """The adapted model is another attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.net = self.model
        del self.model

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.net(x))  # type: ignore[no-any-return]


class Compiled(Lit):
    """The names of the adapted model's tensors begin with `model._orig_mod.`."""

    def __init__(self) -> None:
        super().__init__()
        self.model = torch.compile(self.model)  # type: ignore[assignment]


class Wider(Lit):
    """A module of no adapter that `Lit` has not."""

    def __init__(self) -> None:
        super().__init__()
        self.extra = nn.Linear(3, 3)


class Two(Lit):
    """Two adapted models."""

    def __init__(self) -> None:
        super().__init__()
        self.second = randomise(Tiny(), 5)
        adapt(self.second, qkv_plan(), TT, seed=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.model(x) + self.second(x))  # type: ignore[no-any-return]


def trainer_with(*callbacks: pl.Callback, epochs: int = 1) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=epochs,
        callbacks=list(callbacks),
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def fit(
    module: Lit,
    folder: Path,
    *more: pl.Callback,
    epochs: int = 2,
    start: Path | None = None,
    best: Path | None = None,
    whole: bool = False,
) -> Any:
    """Train; the best epoch is the one with the highest loss, the first."""
    saving = ModelCheckpoint(folder, "{epoch}", monitor="loss", mode="max", save_top_k=-1, save_weights_only=whole)
    trainer = trainer_with(saving, *more, AdapterCallback(best), epochs=epochs)
    loader = DataLoader(DATA, batch_size=4)
    trainer.fit(module, loader, loader, ckpt_path=start)
    return trainer


def validate(module: Lit, path: Path) -> None:
    trainer_with(AdapterCallback()).validate(module, DataLoader(DATA, batch_size=4), ckpt_path=path, verbose=False)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of `Lit`."""
    folder = tmp_path_factory.mktemp("written")
    fit(Lit(), folder, epochs=1)
    return folder / "epoch=0.ckpt"


def test_a_run_resumes_bit_for_bit_from_a_checkpoint_without_the_base_model(tmp_path: Path) -> None:
    whole, resumed = Lit(), Lit()
    fit(whole, tmp_path)
    checkpoint = torch.load(tmp_path / "epoch=0.ckpt", weights_only=False)
    names = set(checkpoint["state_dict"])
    trained = {name for name, parameter in whole.named_parameters() if parameter.requires_grad}
    scales = {"model.tensorfact.scale_state.scales"}
    assert names == trained | scales | {f"norm.{name}" for name, _ in whole.norm.named_buffers()}
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


@pytest.mark.parametrize(
    ("module", "part"),
    [
        (lambda: Lit(format=TensorTrain(1)), "formats"),
        (lambda: Lit(format=MatrixBatch(1)), "formats"),
        (lambda: Lit(format=CP(2)), "formats"),
        (lambda: Lit(scale=3.0), "scales"),
    ],
)
def test_a_checkpoint_of_another_adapter_is_refused_before_anything_is_loaded(
    written: Path, tmp_path: Path, module: Callable[[], Lit], part: str
) -> None:
    first = state_bits(made := module())
    with refused(CheckpointError, f"other values for {part}"):
        validate(made, written)
    with refused(CheckpointError, f"other values for {part}"):
        fit(made, tmp_path, start=written)
    assert state_bits(made) == first


def test_a_checkpoint_of_other_adapted_modules_is_refused(written: Path, tmp_path: Path) -> None:
    for module, name in [(Renamed(), "self.net"), (Compiled(), "self.model._orig_mod"), (Two(), "self.second")]:
        with refused(CheckpointError, "got self.model.", name, "adapt self.model in"):
            validate(module, written)
    fit(Renamed(), tmp_path, epochs=1)
    with refused(CheckpointError, "got self.net.", "self.model", "adapt self.net in Lit"):
        validate(Lit(), tmp_path / "epoch=0.ckpt")


def test_modules_of_no_adapter_are_loaded_strictly(written: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r'Missing key.*"extra.weight", "extra.bias"'):
        validate(Wider(), written)
    fit(Wider(), tmp_path, epochs=1)
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"extra.weight", "extra.bias"'):
        validate(Lit(), tmp_path / "epoch=0.ckpt")
    chosen = Wider()
    chosen.strict_loading = False
    validate(chosen, written)


def test_a_trained_tensor_that_the_checkpoint_lacks_is_named(written: Path, tmp_path: Path) -> None:
    checkpoint = torch.load(written, weights_only=True)
    for name in ("model.head.bias", "model.blocks.0.norm.weight"):
        del checkpoint["state_dict"][name]
    torch.save(checkpoint, tmp_path / "damaged.ckpt")
    with pytest.raises(RuntimeError, match=r'Missing key.*"model.blocks.0.norm.weight", "model.head.bias"'):
        validate(Lit(), tmp_path / "damaged.ckpt")


def test_a_checkpoint_that_was_written_without_the_callback_loads(tmp_path: Path) -> None:
    plain, found = Lit(), Lit()
    loader = DataLoader(DATA, batch_size=4)
    trainer_with(ModelCheckpoint(tmp_path, "{epoch}")).fit(plain, loader, loader)
    validate(found, tmp_path / "epoch=0.ckpt")
    assert state_bits(found) == state_bits(plain)
    resumed = Lit()
    fit(resumed, tmp_path / "more", start=tmp_path / "epoch=0.ckpt")
    assert state_bits(resumed) != state_bits(plain)


def test_the_best_adapter_is_written_from_checkpoints_of_weights_only(tmp_path: Path) -> None:
    fit(small := Lit(), tmp_path / "small", epochs=2, best=tmp_path / "a")
    fit(whole := Lit(), tmp_path / "whole", epochs=2, best=tmp_path / "b", whole=True)
    checkpoint = torch.load(tmp_path / "whole" / "epoch=0.ckpt", weights_only=True)
    assert checkpoint["state_dict"].keys() == whole.state_dict().keys()
    assert state_bits(small) == state_bits(whole)
    best = [state_bits(load(tmp_path / name, model=randomise(Tiny())).model) for name in "ab"]
    assert best[0] == best[1] != state_bits(whole.model)
    validate(found := Lit(), tmp_path / "whole" / "epoch=0.ckpt")
    assert state_bits(found.model) == best[1]
    with pytest.raises(RuntimeError, match="Missing key"):
        validate(Renamed(), tmp_path / "whole" / "epoch=0.ckpt")


def test_each_of_two_adapted_models_has_a_folder(tmp_path: Path) -> None:
    module = Two()
    trainer = fit(module, tmp_path, epochs=2, best=tmp_path / "best")
    last = state_bits(module)
    validate(module, trainer.checkpoint_callback.best_model_path)
    for name, seed in (("model", 0), ("second", 5)):
        best = load(tmp_path / "best" / name, model=randomise(Tiny(), seed)).model
        assert state_bits(best) == state_bits(getattr(module, name))
    fit(again := Two(), tmp_path / "again", epochs=2)
    assert state_bits(again) == last


def test_a_run_with_averaged_weights_resumes(tmp_path: Path) -> None:
    fit(whole := Lit(), tmp_path, EMAWeightAveraging(decay=0.5))
    checkpoint = torch.load(tmp_path / "epoch=0.ckpt", weights_only=True)
    for key in ("state_dict", "current_model_state"):
        assert "model.embed.weight" not in checkpoint[key]
    fit(resumed := Lit(), tmp_path / "more", EMAWeightAveraging(decay=0.5), start=tmp_path / "epoch=0.ckpt")
    assert state_bits(resumed) == state_bits(whole)


def test_a_module_keeps_its_own_hook(written: Path) -> None:
    seen = []

    class Hooked(Lit):
        def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            seen.append("model.embed.weight" in checkpoint["state_dict"])

    validate(module := Hooked(), written)
    module.on_load_checkpoint({"state_dict": {"model.embed.weight": 0}})
    assert seen == [False, True]
    assert "on_load_checkpoint" not in vars(module)


def test_a_format_that_no_checkpoint_can_describe_is_refused_before_training(tmp_path: Path) -> None:
    first = state_bits(module := Lit(format=Undecorated(2)))
    with refused(FormatError, "Undecorated"):
        fit(module, tmp_path)
    assert state_bits(module) == first
