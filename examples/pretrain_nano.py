"""Pretrain the bundled model on Fashion-MNIST and write the checkpoint that is part of the package.

Usage:
    python examples/pretrain_nano.py --data FOLDER --out tensorfact/lab/assets/nano.safetensors

`--data` is the folder of Debian's package dataset-fashion-mnist (gzipped IDX files), or any folder to which
torchvision can download the same files. 30 epochs take 25 to 50 minutes on two CPU cores and a minute on a GPU.
Running the same command again resumes from the checkpoint beside `--out`, with the suffix `.training`.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import shutil
import tempfile
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset
from torchvision.datasets import FashionMNIST

from tensorfact import fit
from tensorfact.cli.progress import progress_bars
from tensorfact.lab import evaluate, nano
from tensorfact.lab.bundled import MEAN, STD
from tensorfact.storage.files import write_tensors

DEBIAN = Path("/usr/share/datasets/fashion-mnist")


class Augmented(Dataset[tuple[Tensor, Tensor]]):
    """Training images with random flips and shifts of up to two pixels, augmented one batch at a time."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images = torch.nn.functional.pad(images, (2, 2, 2, 2), value=float(images.min()))
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, Tensor]]:
        x, shift = self.images[indices], torch.randint(0, 5, (len(indices), 2, 1))
        flip = torch.rand(len(indices), 1) < 0.5
        rows, columns = torch.arange(28) + shift[:, 0], torch.arange(28) + shift[:, 1]
        columns = torch.where(flip, columns.flip(1), columns)
        at = torch.arange(len(indices))[:, None, None]
        return list(zip(x[at, 0, rows[:, :, None], columns[:, None, :]][:, None], self.labels[indices], strict=True))


def load(folder: Path, *, train: bool) -> tuple[Tensor, Tensor]:
    """Read one split as normalised images (count, 1, 28, 28) and labels (count,)."""
    with tempfile.TemporaryDirectory() as unpacked:
        for packed in folder.glob("*-ubyte.gz"):
            target = Path(unpacked, "FashionMNIST", "raw", packed.stem)
            target.parent.mkdir(parents=True, exist_ok=True)
            with gzip.open(packed) as source, open(target, "wb") as sink:
                shutil.copyfileobj(source, sink)
        local = any(Path(unpacked).iterdir())
        data = FashionMNIST(unpacked if local else str(folder), train=train, download=not local)
    return (data.data[:, None].float() / 255 - MEAN) / STD, data.targets


def main() -> None:
    """Train, round to fp16, evaluate the rounded model, write the checkpoint."""
    parser = argparse.ArgumentParser(description="Pretrain the bundled model on Fashion-MNIST.")
    parser.add_argument(
        "--data", type=Path, default=DEBIAN, help="folder of the data; default: that of Debian's package"
    )
    parser.add_argument("--out", type=Path, default=Path("nano.safetensors"), help="checkpoint to write")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()

    images, labels = load(args.data, train=True)
    kept = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    val, train = kept[:5000], kept[5000:]
    torch.manual_seed(0)
    model = nano(pretrained=False).to(args.device)
    with progress_bars() as progress:
        history = fit(
            model,
            Augmented(images[train], labels[train]),
            TensorDataset(images[val], labels[val]),
            epochs=args.epochs,
            batch_size=256,
            lr=2e-3,
            weight_decay=0.05,
            warmup_epochs=3,
            loss=torch.nn.CrossEntropyLoss(label_smoothing=0.1),
            checkpoint=args.out.with_suffix(".training"),
            progress=progress,
        )
    for index, epoch in enumerate(history.epochs):
        print(f"epoch {index}: loss {epoch.train_loss:.4f}, validation {epoch.val_accuracy:.4f}, {epoch.seconds:.0f} s")
    half = {name: tensor.half() for name, tensor in model.cpu().state_dict().items()}
    model.load_state_dict(half)
    accuracy = evaluate(model, TensorDataset(*load(args.data, train=False))).accuracy
    write_tensors(args.out, half, {"kind": "model", "data": "Fashion-MNIST", "test_accuracy": f"{accuracy:.4f}"})
    print(f"validation {history.val_accuracy:.4f}, test {accuracy:.4f} (in fp16), {args.out.stat().st_size:,} bytes")
    print(f"sha256 {hashlib.sha256(args.out.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
