"""Work divided among processes, in the order of the jobs."""

import collections
import contextlib
import functools
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from types import FrameType
from typing import Any

import multiprocess

_given_up: Any = None  # in a process of `mapped`: an event, set when nobody waits for its work any more


@contextlib.contextmanager
def mapped(
    function: Callable, jobs: list, num_proc: int, begin: Callable[[], object] | None = None
) -> Iterator[Iterable]:
    """Yields `function(job)` of each job, in their order whatever `num_proc`; here, without a new process, where that
    is 1.

    `begin` is called once in each new process. All of them end with the `with`: after what they are at, which may ask
    `end_if_given_up` on its way. No process outlives this one, however that ends.
    """
    num_proc = min(num_proc, len(jobs))
    if num_proc <= 1:
        yield map(function, jobs)
        return
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with interruptible():
        given_up = context.Event()
        pool = ProcessPoolExecutor(num_proc, mp_context=context, initializer=_begin, initargs=(begin, given_up))
        try:
            with _held():
                futures = collections.deque(pool.submit(function, job) for job in jobs)  # starts all processes
            yield _results(futures)
        except BrokenProcessPool as error:
            cure = "A process was killed, perhaps for want of memory: give a lower --num_proc."
            raise ChildProcessError(cure) from error
        finally:
            with _held():
                given_up.set()
                pool.shutdown(cancel_futures=True)


def _results(futures: collections.deque[Future]) -> Iterator:
    while futures:
        with _held():
            arrived = wait([futures[0]], timeout=0.1).done
            result = futures.popleft().result() if arrived else None  # not kept
        if arrived:
            yield result


def end_if_given_up() -> None:
    """To be called now and then in long jobs."""
    if _given_up is not None and _given_up.is_set():
        raise InterruptedError("Nobody waits for this any more.")


def _begin(begin: Callable[[], object] | None, given_up: Any) -> None:
    global _given_up
    _given_up = given_up
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the run
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if begin is not None:
        begin()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "only new processes begin with this"
    parent.join()
    os._exit(1)  # the parent was killed


_holding: list[None] = []  # an item for each reason for which Ctrl-C has to wait: a fork, a pool at its own work
_late = False  # whether one waits
_modules_before = 0  # how many there were when forks were last seen to


@contextlib.contextmanager
def _held() -> Iterator[None]:
    """Ctrl-C waits for the end. For calls that are short: amid them it leaves locks taken for good, and processes that
    nobody ends."""
    _holding.append(None)
    try:
        yield
    finally:
        _holding.pop()
        if not _holding and threading.current_thread() is threading.main_thread():
            _raise_if_late()


def _raise_if_late() -> None:
    global _late
    if _late:
        signal.setitimer(signal.ITIMER_REAL, 0)
        _late = False
        raise KeyboardInterrupt


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C raises `KeyboardInterrupt` in this process alone, and where it is heard.

    In the middle of a fork it would break what is forked, so there it waits for a moment; where Python drops what is
    raised (in `__del__`, and where a weak reference ends), it is raised once more. What is forked does not mind Ctrl-C:
    this process ends it.
    """
    global _modules_before
    before = signal.getsignal(signal.SIGINT)
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or not callable(before) or not hasattr(signal, "setitimer"):
        yield
        return
    if len(sys.modules) > _modules_before:  # some have perhaps to be seen to at a fork: ours is the first and last word
        # Methods of a list, as an interrupt comes between the lines of Python only.
        hooks = {name: functools.partial(_holding.pop) for name in ("after_in_parent", "after_in_child")}
        os.register_at_fork(before=functools.partial(_holding.append, None), **hooks)
        _modules_before = len(sys.modules)
    process = os.getpid()

    def interrupt(number: int, frame: FrameType | None) -> None:
        global _late
        if os.getpid() != process or (number == signal.SIGALRM and not _late):
            return
        _late = bool(_holding)
        if not _late:
            raise KeyboardInterrupt
        signal.setitimer(signal.ITIMER_REAL, 0.02)  # rings at SIGALRM

    def dropped(what: "sys.UnraisableHookArgs") -> None:
        global _late
        if what.exc_type is KeyboardInterrupt:
            _late = True
            signal.setitimer(signal.ITIMER_REAL, 0.02)
        else:
            hook(what)

    handlers = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGALRM)}
    hook, sys.unraisablehook = sys.unraisablehook, dropped
    try:
        yield
    finally:
        sys.unraisablehook = hook
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        _raise_if_late()


def ignore_interrupts() -> None:
    """To be called once a run has been interrupted: another Ctrl-C changes nothing, nor is anybody told of what it has
    left half made."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.unraisablehook = lambda what: None


_life_line: tuple[int, int] | None = None  # a pipe whose writing end only this process has


@contextlib.contextmanager
def forks_end_with_this() -> Iterator[None]:
    """The same for processes that `datasets` forks meanwhile: none outlives this one or is left, none minds Ctrl-C."""
    global _life_line
    others = set(multiprocess.active_children())
    _life_line, interrupted = os.pipe(), False
    try:
        with interruptible():
            yield
    except KeyboardInterrupt:
        interrupted = True
        raise
    finally:
        if not interrupted:  # else a pool that was half made has a thread which forks anew what is killed
            reading, writing = _life_line
            _life_line = None
            os.close(reading)
            os.close(writing)
        for child in set(multiprocess.active_children()) - others:  # of a pool that was interrupted while it was made
            child.kill()


def _hold_life_line() -> None:
    global _life_line
    if _life_line is None:
        return
    (reading, writing), _life_line = _life_line, None
    os.close(writing)
    # Once an interrupt has taken their queue away, generators of `datasets` end in a way that Python tells of.
    sys.unraisablehook = lambda what: None
    threading.Thread(target=_end_with_line, args=(reading,), daemon=True).start()


def _end_with_line(reading: int) -> None:
    os.read(reading, 1)  # nothing is ever written: it ends when no process has the other end
    os._exit(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_hold_life_line)
