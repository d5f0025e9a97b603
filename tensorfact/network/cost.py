"""What a product costs: operations, numbers moved, numbers kept for the backward pass, launches; and how long it takes.

The time is linear in the costs, with three constants for each kind of device: crude, and enough to tell apart what
differs by more than a little. `calibrate` measures the constants anew.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import numpy
import torch

from ..errors import DeviceError


@dataclasses.dataclass(frozen=True)
class Cost:
    """What some products cost.

    Args:
        flops: Multiplications and additions.
        moved: Numbers read and written.
        kept: Numbers kept for the backward pass.
        launches: Calls of a kernel.

    Examples:
        >>> Cost(flops=10, launches=1) + 2 * Cost(flops=1, moved=3, launches=1)
        Cost(flops=12, moved=6, kept=0, launches=3)
    """

    flops: int = 0
    moved: int = 0
    kept: int = 0
    launches: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(mine + theirs for mine, theirs in zip(self._all, other._all, strict=True)))

    def __rmul__(self, times: int) -> Cost:
        return Cost(*(times * each for each in self._all))

    @property
    def _all(self) -> tuple[int, int, int, int]:
        return self.flops, self.moved, self.kept, self.launches


def product(rows: int, summed: int, columns: int, *, added: bool = False) -> Cost:
    """Return the cost of a matrix product.

    Args:
        rows: Rows of the left matrix.
        summed: Its columns, and the rows of the right matrix.
        columns: Columns of the right matrix.
        added: Whether the result is added to what is there, which is then read as well.
    """
    moved = rows * summed + summed * columns + (2 if added else 1) * rows * columns
    return Cost(2 * rows * summed * columns, moved, 0, 1)


@dataclasses.dataclass(frozen=True)
class Machine:
    """How fast a kind of device is.

    Args:
        device: The type of device: `cpu`, `cuda`.
        flops_per_second: In large products of fp32 matrices.
        bytes_per_second: In element-wise operations on large tensors, read and written bytes together.
        seconds_per_launch: For the smallest product, in a graph: one of it and its two gradients.
    """

    device: str
    flops_per_second: float
    bytes_per_second: float
    seconds_per_launch: float

    def seconds(self, cost: Cost, itemsize: int = 4) -> float:
        """Predict how long something takes.

        Args:
            cost: What it costs.
            itemsize: Bytes of one number.

        Examples:
            >>> round(Machine("cpu", 1e11, 1e10, 1e-6).seconds(Cost(flops=10**9, moved=10**6, launches=10)), 6)
            0.01041
        """
        return (
            cost.flops / self.flops_per_second
            + cost.moved * itemsize / self.bytes_per_second
            + cost.launches * self.seconds_per_launch
        )


_machines: dict[str, Machine] = {"cpu": Machine("cpu", 1.9e11, 3.7e10, 1.5e-5)}
"""The CPU's constants are those of two cores, by `tensorfact calibrate`; what is not here is measured when needed."""


def machine(device: torch.device | str) -> Machine:
    """Return how fast a device of this type is, measured once a process where it is not known.

    Args:
        device: The device. One that computes nothing (`meta`) counts as a CPU.
    """
    kind = torch.device(device).type
    if kind == "meta":
        kind = "cpu"
    return _machines[kind] if kind in _machines else calibrate(kind)


def calibrate(device: torch.device | str = "cpu", *, use: bool = True) -> Machine:
    """Measure how fast a device is, with the threads in use, and plan with that from now on in this process.

    Takes about a second. What was adapted before keeps its plans.

    Args:
        device: The device.
        use: Plan with what was measured; else only return it.

    Returns:
        Its constants.

    Raises:
        DeviceError: torch cannot compute on the device.

    Examples:
        >>> calibrate("cpu", use=False).device
        'cpu'
    """
    device = usable(device)
    side, length = 1024, 1 << 24
    large, row = torch.ones(side, side, device=device), torch.ones(length, device=device)
    tiny, into = torch.ones(8, 8, device=device, requires_grad=True), torch.empty(length, device=device)
    with torch.inference_mode(False), torch.enable_grad():
        launch = _seconds(lambda: torch.autograd.backward(torch.mm(tiny, tiny).sum()), device, calls=100)
        stream = _seconds(lambda: torch.add(row, row, out=into), device, calls=3)
        dense = _seconds(lambda: torch.mm(large, large), device, calls=3)
    found = Machine(
        device.type,
        flops_per_second=2 * side**3 / dense,
        bytes_per_second=2 * row.nbytes / stream,  # the operand is one tensor, read once
        seconds_per_launch=launch / 3,  # the product and its two gradients
    )
    if use:
        _machines[device.type] = found
    return found


def usable(device: torch.device | str) -> torch.device:
    """Return a device that torch can compute on.

    Args:
        device: The device, or its name.

    Raises:
        DeviceError: There is no such device here, or it holds no numbers.
    """
    try:
        found = torch.device(device)
        torch.zeros(1, device=found).item()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise DeviceError(
            f"device {device!r}",
            expected="a device that torch can compute on here, such as 'cpu'",
            got=str(error).splitlines()[0],
            fix="'cpu', or 'cuda' on a machine with a GPU and its driver",
        ) from error
    return found


def _seconds(call: Callable[[], object], device: torch.device, calls: int, rounds: int = 5) -> float:
    """Return the median over rounds of the time of one call; the first round warms up."""

    def several() -> None:
        for _ in range(calls):
            call()

    times = [seconds_of(several, device) / calls for _ in range(rounds + 1)]
    return float(numpy.median(times[1:]))


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    """Time a call, until the device has done what it was given.

    Args:
        call: What to time.
        device: Where it computes.

    Returns:
        Seconds.
    """
    _wait(device)
    start = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
