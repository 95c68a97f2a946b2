"""Work divided among processes, in the order of the jobs."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor


def mapped(function: Callable, jobs: list, num_proc: int, begin: Callable[[], object] | None = None) -> Iterator:
    """`function(job)` of each job, in their order whatever `num_proc`; here, without a new process, where that is 1.

    `begin` is called once in each new process. No process outlives this one, however that ends.
    """
    num_proc = min(num_proc, len(jobs))
    if num_proc <= 1:
        yield from map(function, jobs)
        return
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    pool = ProcessPoolExecutor(num_proc, mp_context=context, initializer=_begin, initargs=(begin,))
    try:
        yield from pool.map(function, jobs)
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(begin: Callable[[], object] | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the run
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if begin is not None:
        begin()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "only new processes begin with this"
    parent.join()
    os._exit(1)  # the parent was killed
