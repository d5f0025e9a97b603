"""What executes runs: this process, processes of this machine, or a Ray cluster. The scheduling is theirs."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from ...common.checks import whole_number
from ...errors import SweepError
from .spec import RunSpec

Job = Callable[[RunSpec], None]
"""Does a run and writes its result; can be pickled."""

Engine = Callable[[Job, Sequence[RunSpec]], Iterator[RunSpec]]
"""Does runs, in any order, and yields each that is done."""


def in_process(job: Job, specs: Sequence[RunSpec]) -> Iterator[RunSpec]:
    """Execute the runs one after another in this process."""
    for spec in specs:
        job(spec)
        yield spec


def pool(workers: int, gpus: int = 0) -> Engine:
    """Return an engine of processes on this machine; they end when this process does, however it ends.

    Args:
        workers: How many processes.
        gpus: How many GPUs they share; worker i sees number i mod gpus alone.

    Raises:
        SweepError: There is to be no worker.
    """
    workers = whole_number(workers, "pool: workers", SweepError, example=2)

    def engine(job: Job, specs: Sequence[RunSpec]) -> Iterator[RunSpec]:
        context = multiprocessing.get_context("spawn")  # forked processes cannot use CUDA, nor torch's threads
        numbers: Any = context.Queue()
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
                cause="there is not enough memory",
                fix="fewer processes; re-running the same command resumes the sweep",
            ) from error
        finally:
            executor.shutdown(wait=False, cancel_futures=True)
            for process in {*multiprocessing.active_children()} - others:  # what is under way goes on another time
                process.terminate()

    return engine


def _start_worker(numbers: Any, gpus: int) -> None:
    number = numbers.get()
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(number % gpus)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow(sentinel: int = parent.sentinel) -> None:
        multiprocessing.connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def ray_cluster(address: str | None = None, *, cpus: float = 1, gpus: float = 0) -> Engine:
    """Return an engine on a Ray cluster, whose machines share the folder of runs and the data.

    Args:
        address: The cluster's address; None for one on this machine, which ends with the sweep.
        cpus: Processors of a run.
        gpus: GPUs of a run.

    Raises:
        SweepError: Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise SweepError("the engine 'ray' needs Ray", fix="pip install 'tensorfact[ray]'") from error

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
                    except ray.exceptions.RayTaskError as error:  # hundreds of lines; what went wrong is its cause
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
"""From a number of processes, of GPUs and a cluster's address to an engine; None is this process."""
