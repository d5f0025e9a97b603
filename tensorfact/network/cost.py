"""Cost model of tensor products: FLOPs, memory traffic, memory kept for the backward pass, launches and time.

The predicted time is linear in the costs, with three constants per device type. That is crude, but ranks alternatives
that differ by more than a little. `calibrate` measures the constants.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import numpy
import torch

from ..common.checks import flag
from ..errors import DeviceError


@dataclasses.dataclass(frozen=True)
class Cost:
    """Cost of one or more products.

    Args:
        flops: Multiplications and additions.
        moved: Elements read and written.
        kept: Elements kept for the backward pass.
        launches: Kernel launches.

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


def product(rows: int, summed: int, columns: int) -> Cost:
    """Return the cost of a matrix product, or of one that is added to a matrix that is in a cache.

    Args:
        rows: Rows of the left matrix.
        summed: Columns of the left matrix, which are the rows of the right one.
        columns: Columns of the right matrix.
    """
    return Cost(2 * rows * summed * columns, rows * summed + summed * columns + rows * columns, 0, 1)


@dataclasses.dataclass(frozen=True)
class Machine:
    """Speed of a device type, as the three constants of the cost model.

    Args:
        device: The device type: `cpu`, `cuda`.
        flops_per_second: FLOP rate of large fp32 matrix products.
        bytes_per_second: Memory bandwidth of element-wise operations on large tensors, reads plus writes.
        seconds_per_launch: Overhead of one kernel, measured on tiny products and their gradients.
    """

    device: str
    flops_per_second: float
    bytes_per_second: float
    seconds_per_launch: float

    def seconds(self, cost: Cost, itemsize: int = 4) -> float:
        """Predict the time of a computation in seconds.

        Args:
            cost: Cost of the computation.
            itemsize: Bytes per element.

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
"""Known machines by device type (the CPU measured on two cores); others are calibrated on first use."""


def machine(device: torch.device | str) -> Machine:
    """Return the constants of a device type; unknown ones are measured once per process.

    Args:
        device: The device; `meta` counts as a CPU.
    """
    kind = torch.device(device).type
    if kind == "meta":
        kind = "cpu"
    return _machines[kind] if kind in _machines else calibrate(kind)


def calibrate(device: torch.device | str = "cpu", *, use: bool = True) -> Machine:
    """Measure the speed of a device with the current number of threads, and use it for all later plans of this process.

    Takes about a second. Models that are adapted already keep their plans.

    Args:
        device: The device to measure.
        use: Use the result for later plans; if False, only return it.

    Returns:
        The measured constants.

    Raises:
        DeviceError: torch cannot use the device on this machine, or `use` is not a bool.

    Examples:
        >>> calibrate("cpu", use=False).device
        'cpu'
    """
    flag(use, "calibrate: use", DeviceError)
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
    """Check that torch can compute on a device, and return it as a `torch.device`.

    Args:
        device: The device, or its name.

    Raises:
        DeviceError: The device is unknown, not available on this machine, or `meta`.
    """
    try:
        found = torch.device(device)
        torch.zeros(1, device=found).item()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise DeviceError(
            f"device {device!r}",
            expected="a device that torch can use on this machine",
            got=str(error).splitlines()[0],
            fix="use 'cpu'",
        ) from error
    return found


def _seconds(call: Callable[[], object], device: torch.device, calls: int, rounds: int = 5) -> float:
    """Return the median time of one call over several rounds, after one round of warm-up."""

    def several() -> None:
        for _ in range(calls):
            call()

    times = [seconds_of(several, device) / calls for _ in range(rounds + 1)]
    return float(numpy.median(times[1:]))


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    """Time a call in seconds, including the work it queued on the device.

    Args:
        call: The function to time.
        device: The device it computes on.
    """
    _wait(device)
    start = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
