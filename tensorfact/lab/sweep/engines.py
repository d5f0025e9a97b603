"""Engines that execute runs: this process, a pool of processes on this machine, or a Ray cluster."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.queues import Queue

from ...common.checks import whole_number
from ...errors import SweepError
from .spec import RunSpec

Job = Callable[[RunSpec], None]
"""Executes one run and writes its result; must be picklable for engines with several processes."""

Engine = Callable[[Job, Sequence[RunSpec]], Iterator[RunSpec]]
"""Executes runs in any order, and yields each spec once its run is finished."""


def in_process(job: Job, specs: Sequence[RunSpec]) -> Iterator[RunSpec]:
    """Execute the runs one after another in this process."""
    for spec in specs:
        job(spec)
        yield spec


def pool(workers: int, gpus: int = 0) -> Engine:
    """Return an engine that runs a pool of processes on this machine. They exit when this process exits or is killed.

    Args:
        workers: Number of processes.
        gpus: Number of GPUs that they share; worker i sees only GPU i mod gpus.

    Raises:
        SweepError: `workers` is less than 1.
    """
    workers = whole_number(workers, "pool: workers", SweepError, example=2)

    def engine(job: Job, specs: Sequence[RunSpec]) -> Iterator[RunSpec]:
        context = multiprocessing.get_context("spawn")  # forked processes can use neither CUDA nor torch's threads
        numbers: Queue[int] = context.Queue()
        for number in range(workers):
            numbers.put(number)
        others = set(multiprocessing.active_children())
        executor = ProcessPoolExecutor(workers, context, _start_worker, (numbers, gpus))
        futures = {executor.submit(job, spec): spec for spec in specs}
        try:
            for future in as_completed(futures):
                future.result()
                yield futures[future]
        except BrokenProcessPool as error:
            raise SweepError(
                "a process of the pool was killed",
                cause="out of memory",
                fix="run the same command again with fewer --processes; it resumes the sweep",
            ) from error
        finally:
            executor.shutdown(wait=False, cancel_futures=True)
            for process in {*multiprocessing.active_children()} - others:  # their runs resume later
                process.terminate()

    return engine


def _start_worker(numbers: Queue[int], gpus: int) -> None:
    number = numbers.get()
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(number % gpus)
    follow_parent()


def follow_parent() -> None:
    """End this process when the one that started it ends, also if that is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow(sentinel: int = parent.sentinel) -> None:
        multiprocessing.connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def ray_cluster(address: str | None = None, *, cpus: float = 1, gpus: float = 0) -> Engine:
    """Return an engine on a Ray cluster, whose machines must share the folder of runs and the data.

    Args:
        address: Address of the cluster; None: start Ray on this machine and stop it after the sweep.
        cpus: CPUs per run.
        gpus: GPUs per run.

    Raises:
        SweepError: Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise SweepError("the engine 'ray' needs Ray", fix='pip install "tensorfact[ray]"') from error

    def engine(job: Job, specs: Sequence[RunSpec]) -> Iterator[RunSpec]:
        own = not ray.is_initialized()
        if own:
            ray.init(address=address, include_dashboard=False, log_to_driver=False, configure_logging=False)
        try:
            task = ray.remote(num_cpus=cpus, num_gpus=gpus)(lambda spec: job(spec))
            waiting = {task.remote(spec): spec for spec in specs}
            while waiting:
                done, _ = ray.wait(list(waiting))
                for reference in done:
                    try:
                        ray.get(reference)
                    except ray.exceptions.RayTaskError as error:  # hides the original error in hundreds of lines
                        raise error.cause from None
                    yield waiting.pop(reference)
        finally:
            if own:
                ray.shutdown()

    return engine


ENGINES: dict[str, Callable[[int, float, str | None], Engine | None]] = {
    "in-process": lambda processes, gpus, address: None,
    "pool": lambda processes, gpus, address: pool(processes, int(gpus)),
    "ray": lambda processes, gpus, address: ray_cluster(address, gpus=gpus),
}
"""Functions from the number of processes, the number of GPUs and the Ray address to an engine; None: this process."""
