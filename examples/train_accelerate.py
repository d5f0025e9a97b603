"""Train an adapter in a loop of one's own with accelerate, and resume it from a state of a few kilobytes.

Usage:
    python examples/train_accelerate.py
    torchrun --nproc-per-node 2 examples/train_accelerate.py
    accelerate launch --multi_gpu --num_processes 2 examples/train_accelerate.py

The two lines with `small_states` are what tensorfact needs beside accelerate's own; without them, a state holds the
whole model. After the first epoch the state is saved; the second epoch is then trained twice, the second time from the
state by a fresh model, and both give the same weights bit for bit.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader

from tensorfact import adapt
from tensorfact.integrations.accelerate import small_states
from tensorfact.lab import digits, nano


def prepare(accelerator: Accelerator) -> tuple[Any, Any, Any]:
    """Return a fresh adapted model, its optimizer and the data, prepared for the processes."""
    torch.manual_seed(0)  # the same head in every process
    model = nano()
    adapt(model, seed=0)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    loader = DataLoader(digits(nano()).train, batch_size=64)
    return accelerator.prepare(model, optimizer, loader)  # type: ignore[no-any-return]


def train(accelerator: Accelerator, model: Any, optimizer: Any, loader: Any) -> float:
    """Train for one epoch; return the last loss."""
    last = 0.0
    for images, labels in loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        accelerator.backward(loss)
        optimizer.step()
        last = loss.item()
    return last


def trained(accelerator: Accelerator, model: Any) -> torch.Tensor:
    """Return all that trains in one row."""
    return torch.cat([p.detach().flatten() for p in accelerator.unwrap_model(model).parameters() if p.requires_grad])


def main() -> None:
    """Train, save a state, and resume."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state", type=Path, default=Path("runs/accelerate"), help="folder of the state")
    args = parser.parse_args()

    accelerator = Accelerator(cpu=True)
    small_states(accelerator)
    model, optimizer, loader = prepare(accelerator)
    train(accelerator, model, optimizer, loader)
    accelerator.save_state(args.state)
    loss = train(accelerator, model, optimizer, loader)
    whole = trained(accelerator, model)

    accelerator.wait_for_everyone()
    accelerator.free_memory()
    model, optimizer, loader = prepare(accelerator)
    accelerator.load_state(args.state)
    train(accelerator, model, optimizer, loader)
    same = torch.equal(trained(accelerator, model), whole)
    if accelerator.is_main_process:
        size = sum(path.stat().st_size for path in args.state.iterdir())
        print(f"{accelerator.num_processes} processes: loss {loss:.4f}, resumed bit for bit: {same}")
        weights = sum(p.numel() * p.element_size() for p in model.parameters())
        print(f"state: {size / 1e3:.0f} kB; the weights of the model: {weights / 1e3:.0f} kB")
    accelerator.end_training()


if __name__ == "__main__":
    main()
