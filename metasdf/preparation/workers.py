"""Worker processes that end with their parent and survive the death of one of them."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from metasdf.errors import InputError

# Libraries that start threads of their own read these; one process per mesh is enough.
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "IGL_NUM_THREADS",
)


def num_processes(threads: int | None) -> int:
    if threads is None:
        affinity = getattr(os, "sched_getaffinity", None)  # Linux: the cores we may use
        return len(affinity(0)) if affinity else os.cpu_count() or 1
    if threads < 1:
        raise InputError(f"--threads {threads}: must be at least 1")
    return threads


def run_jobs(
    function: Callable[..., Any], jobs: Sequence[tuple], processes: int
) -> Iterator[tuple[tuple, Any]]:
    """Call `function(*job)` for each job in worker processes; yield (job, result) as each is done.

    A worker that dies (a crash in a library, or killed for want of memory) takes its pool along.
    The jobs that were running are then tried again, each alone, to find the one to blame: for
    that one (job, None) is yielded.
    """
    waiting, suspects = list(reversed(jobs)), []
    while waiting or suspects:
        alone = bool(suspects)
        batch = [suspects.pop()] if alone else waiting
        running: dict[Future, tuple] = {}
        with worker_pool(1 if alone else min(processes, len(batch))) as pool:
            try:
                while batch or running:
                    while batch and len(running) < (1 if alone else processes):
                        future = pool.submit(function, *batch[-1])
                        running[future] = batch.pop()  # removed only once handed over
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        result = future.result()
                        yield running.pop(future), result
            except BrokenProcessPool:
                if alone and running:
                    yield next(iter(running.values())), None
                else:
                    suspects += [*running.values(), *(batch if alone else ())]


@contextlib.contextmanager
def worker_pool(processes: int | None) -> Iterator[ProcessPoolExecutor]:
    """Worker processes, each limited to one thread, that end when this process does."""
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, initializer=_start_worker)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
