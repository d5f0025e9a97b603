"""Train an adapter of the bundled model on digits, in one process or several.

Usage:
    python examples/train_distributed.py
    torchrun --nproc-per-node 2 examples/train_distributed.py
    accelerate launch --multi_gpu --num_processes 2 examples/train_distributed.py

`fit` uses the same samples in the same order for any number of processes, so that results agree up to rounding.
`--cpu` ignores GPUs, and is required for several processes without GPUs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from accelerate import Accelerator

from tensorfact import TensorTrain, adapt, fit, plan_for
from tensorfact.lab import digits, evaluate, nano


def main() -> None:
    """Train; print the accuracies and save the adapter in the main process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--accumulation", type=int, default=1, help="gradient accumulation steps per batch")
    parser.add_argument("--mixed-precision", choices=["no", "bf16", "fp16"], default="no")
    parser.add_argument("--gradient-checkpointing", action="store_true", help="recompute activations to save memory")
    parser.add_argument("--cpu", action="store_true", help="train on the CPU")
    parser.add_argument("--checkpoint", type=Path, help="file to save the training state to, and to resume from")
    parser.add_argument("--out", type=Path, help="adapter file to write")
    args = parser.parse_args()

    accelerator = Accelerator(cpu=args.cpu, mixed_precision=args.mixed_precision)
    torch.manual_seed(0)  # the same head in every process
    model = nano()
    data = digits(model)
    adapter = adapt(model, plan_for(model), TensorTrain(rank=8), seed=0)
    history = fit(
        model,
        data.train,
        data.val,
        epochs=args.epochs,
        lr=3e-3,
        accelerator=accelerator,
        accumulation=args.accumulation,
        gradient_checkpointing=args.gradient_checkpointing,
        checkpoint=args.checkpoint,
        on_epoch=lambda index, epoch: print(f"epoch {index}: loss {epoch.train_loss:.4f}"),
    )
    if accelerator.is_main_process:
        test = evaluate(model, data.test).accuracy
        print(f"{accelerator.num_processes} processes: validation {history.val_accuracy:.4f}, test {test:.4f}")
        if args.out:
            adapter.save(args.out)
    accelerator.end_training()


if __name__ == "__main__":
    main()
