"""Train an adapter of a timm model with timm's own parts: optimizer, schedule, Mixup, averaged weights, AMP scaler.

Usage:
    python examples/train_timm.py

The lines marked `# tensorfact` are all that is added to a training loop of timm. No weights are downloaded: the model
is the bundled VisionTransformer of timm, and the data are the digits of scikit-learn.

With ten epochs, which take a few minutes on a CPU, the averaged weights reached an accuracy of 94.4 % on the test
images.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3, NativeScaler
from torch.utils.data import DataLoader

import tensorfact  # tensorfact
from tensorfact.lab import digits, evaluate, nano

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def train(model: torch.nn.Module, data: Any, epochs: int, lr: float) -> ModelEmaV3:
    """Train what requires gradients; return the averaged model. Every line is timm's or torch's."""
    loader = DataLoader(data, batch_size=32, shuffle=True, drop_last=True)
    optimizer = create_optimizer_v2(model, "adamw", lr=lr, weight_decay=0.05)
    schedule, epochs = create_scheduler_v2(optimizer, "cosine", num_epochs=epochs, updates_per_epoch=len(loader))
    mixup, loss_of = Mixup(mixup_alpha=0.2, cutmix_alpha=0.5, num_classes=10), SoftTargetCrossEntropy()
    average, scaler = ModelEmaV3(model, decay=0.99, use_warmup=True), NativeScaler(device=DEVICE)
    for epoch in range(epochs):
        model.train()
        total = 0.0
        for step, (images, labels) in enumerate(loader):
            images, targets = mixup(images.to(DEVICE), labels.to(DEVICE))
            with torch.autocast(DEVICE, torch.float16, enabled=DEVICE == "cuda"):
                loss = loss_of(model(images).float(), targets)
            optimizer.zero_grad()
            scaler(loss, optimizer, clip_grad=1.0, parameters=[p for p in model.parameters() if p.requires_grad])
            average.update(model, step=epoch * len(loader) + step)
            total += loss.item() / len(loader)
        schedule.step(epoch + 1)
        print(f"epoch {epoch}: loss {total:.4f}", flush=True)
    return average


def main() -> None:
    """Train, write the adapter of the averaged model, and load it again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--out", type=Path, default=Path("runs/timm"), help="folder of the adapter")
    args = parser.parse_args()

    torch.manual_seed(0)
    model = nano().to(DEVICE)  # or timm.create_model("vit_base_patch16_224", pretrained=True, num_classes=10)
    data = digits(model)
    tensorfact.adapt(model, train="norm*")  # tensorfact
    average = train(model, data.train, args.epochs, args.lr)
    average.module.tensorfact.save_pretrained(args.out)  # tensorfact

    accuracy = evaluate(average.module, data.test).accuracy
    loaded = evaluate(tensorfact.load(args.out, device=DEVICE).model, data.test).accuracy
    size = sum(path.stat().st_size for path in args.out.iterdir())
    print(f"test accuracy {accuracy:.4f}, of the folder of {size / 1e3:.0f} kB {loaded:.4f}")


if __name__ == "__main__":
    main()
