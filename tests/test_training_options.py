"""What changes how a run is computed, validated and followed, and not what it means."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import pytest
import timm
import torch
import transformers
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from tensorfact import Group, Rule, TensorizationPlan, TensorTrain, adapt, fit, plan_for
from tensorfact.errors import CheckpointError, DivergedError, TrainingError
from tensorfact.lab import evaluate, nano
from tensorfact.lab.training import Epoch

from .helpers import difference, draw, refused, snapshot, state_bits, untouched
from .test_training import data, network, numbers, run, stopping_after


def plain(seed: int = 0) -> nn.Module:
    """Return a classifier without random or running parts, for which parts of a batch are independent."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def apart(found: nn.Module, expected: nn.Module) -> float:
    pairs = zip(found.parameters(), expected.parameters(), strict=True)
    return max(difference(one, two) for one, two in pairs)


@pytest.mark.parametrize("accumulation", [2, 3, 100])
def test_parts_of_a_batch_add_up_to_the_batch(accumulation: int) -> None:
    whole, parts = plain(), plain()
    expected = run(whole, batch_size=11)
    history = run(parts, batch_size=11, accumulation=accumulation)
    assert apart(parts, whole) < 1e-4
    for one, two in zip(history.epochs, expected.epochs, strict=True):
        assert one.train_loss == pytest.approx(two.train_loss, rel=1e-4)


class Noisy(Dataset[tuple[Tensor, Tensor]]):
    """Samples that differ each time they are read, as augmented images do."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = data()[index]
        return x + 0.1 * torch.randn(6), y


def test_workers_read_the_same_samples() -> None:
    one, two = network(), network()
    assert numbers(run(one, epochs=2)) == numbers(run(two, epochs=2, workers=2))
    assert state_bits(one) == state_bits(two)


def test_what_workers_draw_comes_from_the_seed() -> None:
    found = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(noise)
        model = plain()
        fit(model, Noisy(), None, epochs=1, batch_size=8, workers=1, seed=seed)
        found.append(state_bits(model))
    assert found[0] == found[1] != found[2]


def test_without_a_validation_split_the_last_epoch_stays() -> None:
    model, reference = network(), network()
    history = fit(model, data(), None, epochs=4, batch_size=16, lr=0.3)
    assert (history.best_epoch, history.val_accuracy) == (3, None)
    assert all(epoch.val_loss is None and epoch.val_accuracy is None for epoch in history.epochs)
    seen = run(reference, epochs=4, lr=0.3)
    assert [e.train_loss for e in seen.epochs] == [e.train_loss for e in history.epochs]


@pytest.mark.parametrize("stop", [1, 2, 4])
def test_without_a_validation_split_a_run_resumes(tmp_path: Any, stop: int) -> None:
    whole, model = network(), network()
    options: dict[str, Any] = {"epochs": 5, "batch_size": 16, "lr": 0.3}
    expected = fit(whole, data(), None, **options)
    with pytest.raises(KeyboardInterrupt):
        fit(network(), data(), None, checkpoint=tmp_path / "run", progress=stopping_after(stop), **options)
    assert numbers(fit(model, data(), None, checkpoint=tmp_path / "run", **options)) == numbers(expected)
    assert state_bits(model) == state_bits(whole)


@pytest.mark.parametrize("stop", [None, 1, 2, 3])
def test_some_epochs_are_validated_and_the_best_of_them_stays(tmp_path: Any, stop: int | None) -> None:
    model = network()
    if stop is not None:
        with pytest.raises(KeyboardInterrupt):
            run(network(), lr=0.3, validate_every=2, checkpoint=tmp_path / "run", progress=stopping_after(stop))
    history = run(model, lr=0.3, validate_every=2, checkpoint=tmp_path / "run")
    assert [epoch.val_accuracy is not None for epoch in history.epochs] == [False, True, False, True, True]
    every = run(network(), lr=0.3)
    expected = [epoch.val_accuracy if index in (1, 3, 4) else None for index, epoch in enumerate(every.epochs)]
    assert [epoch.val_accuracy for epoch in history.epochs] == expected
    assert history.val_accuracy == max(accuracy for accuracy in expected if accuracy is not None)
    assert evaluate(model, data(24, seed=1))[0] == history.val_accuracy


def test_an_incomplete_batch_is_left_out() -> None:
    seen: list[int] = []

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        seen.append(len(labels))
        return nn.functional.cross_entropy(logits, labels)

    fit(network(), data(40), None, epochs=2, batch_size=16, drop_last=True, loss=loss)
    assert seen == [16, 16] * 2
    with refused(TrainingError, "drop_last", "40"):
        fit(network(), data(40), None, epochs=2, batch_size=41, drop_last=True)


def test_every_epoch_is_told_and_may_end_the_run() -> None:
    seen: list[tuple[int, Epoch]] = []

    def on_epoch(index: int, epoch: Epoch) -> None:
        seen.append((index, epoch))
        if len(seen) == 5:
            raise KeyError("enough")

    model = network().train()
    model[1].eval()  # type: ignore[index]
    modes = snapshot(model)["modes"]
    history = run(model, epochs=3, on_epoch=on_epoch)
    assert seen == list(enumerate(history.epochs))
    with pytest.raises(KeyError, match="enough"):
        run(model, epochs=3, on_epoch=on_epoch)
    assert snapshot(model)["modes"] == modes


# ------------------------------------------------------------------------------------------------------- checkpointing


def image_model(name: str, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    if name == "nano":
        model = nano()
    else:
        sizes = {"embed_dim": 16, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4, "patch_size": 2}
        model = timm.create_model(name, img_size=28, in_chans=1, num_classes=2, **sizes)
    draw(adapt(model, plan_for(model), TensorTrain(2), seed=0, dropout=dropout))
    return model


class Sentences(nn.Module):
    """A small BERT with a linear head, whose words are adapted too."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        sizes: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        config = transformers.BertConfig(vocab_size=12, hidden_size=16, max_position_embeddings=8, **sizes)
        self.encoder: Any = transformers.BertModel(config, add_pooling_layer=False)
        self.head = nn.Linear(16, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return cast("Tensor", self.head(self.encoder(ids).last_hidden_state.mean(1)))


def text_model() -> nn.Module:
    model = Sentences()
    words = Rule("encoder.embeddings.word_embeddings.weight", "in out")
    layers = Rule("encoder.encoder.layer.{layer}.intermediate.dense.weight", "out in")
    plan = TensorizationPlan((Group("words", "in out", (words,)), Group("mlp", "layer in out", (layers,))))
    draw(adapt(model, plan, TensorTrain(2), seed=0, train_head="head", dropout=0.2))
    return model


def switches(model: nn.Module) -> list[tuple[bool, bool, bool, int]]:
    """Return of every module its mode, whether it checkpoints, by timm's word and transformers', and its hooks."""
    flags = ("grad_checkpointing", "gradient_checkpointing")
    return [(m.training, *(bool(getattr(m, f, False)) for f in flags), len(m._forward_hooks)) for m in model.modules()]  # type: ignore[misc]


@pytest.mark.parametrize("kind", ["nano", "dropout", "swin_tiny_patch4_window7_224", "bert"])
def test_checkpointing_changes_no_number_and_is_switched_off_again(kind: str) -> None:
    found = []
    for checkpointing in (False, True):
        if kind == "bert":
            model = text_model()
            x: Tensor = torch.randint(12, (12, 5), generator=torch.Generator().manual_seed(0))
            samples = TensorDataset(x, x[:, 0] % 2)
        else:
            model = image_model("nano" if kind == "dropout" else kind, 0.3 if kind == "dropout" else 0.0)
            x = torch.randn(12, 1, 28, 28, generator=torch.Generator().manual_seed(0))
            samples = TensorDataset(x, (x.mean((1, 2, 3)) > 0).long())
        model(x[:1])  # the adapter's hook looks at one forward pass
        start = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
        calls: list[int] = []
        part = next(module for module in model.modules() if "GELU" in type(module).__name__)
        part.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        before = switches(model)
        fit(model, samples, None, epochs=2, batch_size=6, checkpointing=checkpointing, weight_decay=0.0)
        assert switches(model) == before
        assert all(not torch.equal(p, start[name]) for name, p in model.named_parameters() if name in start)
        found.append((len(calls), dict(model.named_parameters())))
    (once, expected), (twice, numbers) = found
    assert twice > once, "activations were computed again"
    assert all(difference(numbers[name], expected[name]) < 1e-6 for name in expected)


def test_a_model_without_a_switch_is_refused() -> None:
    model = network()
    with untouched(model), refused(TrainingError, "checkpointing"):
        run(model, checkpointing=True)


def test_a_switch_that_was_on_stays_on() -> None:
    model: Any = image_model("nano")
    model.set_grad_checkpointing(True)
    samples = TensorDataset(torch.randn(4, 1, 28, 28), torch.zeros(4, dtype=torch.int64))
    fit(model, samples, None, epochs=1, checkpointing=True)
    assert model.grad_checkpointing


@pytest.mark.parametrize(
    ("name", "value"), [("accumulation", 0), ("accumulation", 1.5), ("workers", -1), ("validate_every", 0)]
)
def test_an_option_out_of_range_is_refused(name: str, value: Any) -> None:
    model = network()
    with untouched(model), refused(TrainingError, name, repr(value), fix=False):
        run(model, **{name: value})


def test_a_checkpoint_of_another_scale_or_other_samples_is_refused(tmp_path: Path) -> None:
    def model(scale: float) -> nn.Module:
        made = nano()
        adapt(made, plan_for(made), TensorTrain(1), scale=scale, seed=0)
        return made

    x, path = torch.randn(6, 1, 28, 28), tmp_path / "run"
    data, fewer = TensorDataset(x, torch.arange(6)), TensorDataset(x[:4], torch.arange(4))
    fit(model(1.0), data, fewer, epochs=1, checkpoint=path)
    for scale, train, val in ((2.0, data, fewer), (1.0, fewer, fewer), (1.0, data, None)):
        with refused(CheckpointError, "another run"):
            fit(model(scale), train, val, epochs=1, checkpoint=path)
    with refused(CheckpointError, "no folder"):
        fit(model(1.0), data, None, epochs=1, checkpoint=tmp_path / "none" / "run")


def test_what_is_no_longer_finite_after_the_last_step_is_said() -> None:
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
            return torch.full_like(gradients[0], math.nan)

    class Model(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return cast("torch.Tensor", Broken.apply(super().forward(x)))

    data = TensorDataset(torch.randn(4, 3), torch.arange(4) % 2)
    with refused(DivergedError, "no longer finite"):
        fit(Model(3, 2), data, None, epochs=1, batch_size=4)
    with refused(TrainingError, "fp16"):
        fit(nn.Linear(3, 2).half(), data, None, epochs=1)


def test_labels_are_class_indices() -> None:
    data = TensorDataset(torch.randn(4, 3), nn.functional.one_hot(torch.arange(4) % 2))
    with refused(TrainingError, "(batch,)"):
        evaluate(nn.Linear(3, 2), data, loss=lambda logits, labels: logits.mean())
