"""Worker processes that end with their parent and survive the death of one of them."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from types import ModuleType
from typing import Any

from metasdf.errors import InputError

# Limit the threads of numerical libraries, as there is a process for each core already.
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "IGL_NUM_THREADS",
)


def num_processes(threads: int | None) -> int:
    """The number of worker processes: `threads`, or by default the number of usable cores.

    Raises:
        InputError: `threads` is below 1.
    """
    if threads is None:
        affinity = getattr(os, "sched_getaffinity", None)  # Linux only
        return len(affinity(0)) if affinity else os.cpu_count() or 1
    if threads < 1:
        raise InputError(f"--threads {threads}: must be at least 1")
    return threads


def run_jobs(
    function: Callable[..., Any], jobs: Sequence[tuple], processes: int, import_main: bool = True
) -> Iterator[tuple[tuple, Any]]:
    """Call `function(*job)` for each job in worker processes; yield (job, result) as each is done.

    import_main: workers import the program's main module, which functions and jobs defined there
    need. Without it, a script may call this outside of `if __name__ == "__main__":`.

    If a worker dies (by a crash in a library, or killed for lack of memory), its pool is lost. The
    jobs that were running are then repeated one at a time; for a job whose worker dies again,
    (job, None) is yielded.
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
                        with contextlib.nullcontext() if import_main else _without_main():
                            future = pool.submit(function, *batch[-1])  # starts the workers
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
    """A pool of worker processes, limited to one thread each, that end when this process does."""
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


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Hide the main module, so that a process that is started now does not import it."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
