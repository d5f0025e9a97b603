"""Results of benchmarks: measured values with their targets, and the machine that measured them."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch

from tensorfact.common.table import Table

RESULTS = Path(__file__).parent / "results"


@dataclasses.dataclass(frozen=True)
class Row:
    """One measured value.

    Args:
        benchmark: Name of the benchmark.
        what: Measured quantity; a ratio is written `A / B`.
        work: Model, batch and settings.
        value: Median over the rounds.
        low: Minimum over the rounds.
        high: Maximum over the rounds.
        most: Target: the largest value that is accepted; None without a target.
        unit: `x` for a ratio, `s` for seconds.
    """

    benchmark: str
    what: str
    work: str
    value: float
    low: float
    high: float
    most: float | None = None
    unit: str = "x"

    @property
    def holds(self) -> str:
        """`yes` or `no` for a value with a target, otherwise empty."""
        return "" if self.most is None else "yes" if round(self.value, 3) <= self.most else "no"


def median_row(
    benchmark: str, what: str, work: str, values: Sequence[float], most: float | None = None, unit: str = "x"
) -> Row:
    """Return a row with median, minimum and maximum of the values of all rounds."""
    value, low, high = (round(number, 4) for number in (statistics.median(values), min(values), max(values)))
    return Row(benchmark, what, work, value, low, high, most, unit)


def table(rows: Iterable[Row]) -> Table:
    """Return rows of one benchmark as a table."""
    return Table(
        ("measured", "on", "median", "lowest", "highest", "target", "holds"),
        tuple(
            (
                row.what,
                row.work,
                *(f"{number:.3f}{' s' if row.unit == 's' else ''}" for number in (row.value, row.low, row.high)),
                "" if row.most is None else f"<= {row.most:g}",
                row.holds,
            )
            for row in rows
        ),
    )


def machine(device: str) -> dict[str, str]:
    """Describe the machine: device, threads, system and package versions."""
    cpu = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    found = {
        "device": torch.cuda.get_device_name() if device == "cuda" else (cpu[0] if cpu else platform.processor()),
        "threads": str(torch.get_num_threads()),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "packages": ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "timm", "peft")),
    }
    return found if device == "cpu" else {key: found[key] for key in ("device", "system", "packages")}


def write(path: Path, device: str, rows: Mapping[str, Sequence[Row]], order: Sequence[str]) -> None:
    """Write the rows of some benchmarks and this machine to a JSON file, sorted by `order`.

    Other benchmarks in the file are kept, with their machines.
    """
    every = json.loads(path.read_text()) if path.exists() else {}
    own = machine(device)
    for name, each in rows.items():
        every[name] = {"machine": own, "rows": [dataclasses.asdict(row) for row in each]}
    ordered = {name: every[name] for name in sorted(every, key=list(order).index)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(ordered, indent=1) + "\n")


def read(path: Path) -> dict[str, tuple[dict[str, str], list[Row]]]:
    """Read the machine and the rows of every benchmark in a JSON file."""
    content = json.loads(path.read_text())
    return {name: (each["machine"], [Row(**row) for row in each["rows"]]) for name, each in content.items()}


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []
