"""`python -m benchmarks [NAME ...] [--device cpu|cuda]`."""

from __future__ import annotations

import argparse
import dataclasses
import warnings
from pathlib import Path

import torch

from .measured import BENCHMARKS, BY_NAME
from .result import RESULTS, Row, table, write
from .setting import CPU, CUDA


def main() -> None:
    """Run benchmarks, print their tables and write a JSON file."""
    everything = {**BENCHMARKS, **BY_NAME}
    lines = [f"  {name:10} {each.__doc__}" for name, each in everything.items()]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure ratios, print them with their targets, and write JSON.\n\n" + "\n".join(lines),
        epilog="All benchmarks together take up to ten minutes on two idle CPU cores.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks to run; default: all")
    parser.add_argument(
        "--patience", type=float, help="time limit of a comparison in seconds; more time gives less noise"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, help="JSON file to write; default: benchmarks/results/DEVICE.json")
    options = parser.parse_args()
    if unknown := set(options.names) - set(everything):
        parser.error(f"unknown benchmark {sorted(unknown)[0]!r}; choose from {', '.join(everything)}")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device; pass --device cpu")
    chosen = options.names or list(everything if options.device == "cuda" else BENCHMARKS)
    setting = CPU if options.device == "cpu" else CUDA
    if options.patience:
        setting = dataclasses.replace(setting, patience=options.patience, rounds=4 * setting.rounds)
    warnings.filterwarnings("ignore", module="peft")
    found: dict[str, list[Row]] = {}
    for name in chosen:
        found[name] = list(everything[name](setting))
        print(f"\n{name}: {everything[name].__doc__}\n{table(found[name])}", flush=True)
        write(options.out or RESULTS / f"{options.device}.json", options.device, found, list(everything))


if __name__ == "__main__":
    main()
