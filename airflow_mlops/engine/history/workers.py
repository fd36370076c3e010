"""Several partitions worked on at once, each in a process of its own, with how long it took."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

_work: Callable[[Any], Any] | None = None
_Job = TypeVar("_Job")
_Done = TypeVar("_Done")


def at_once(
    work: Callable[[_Job], _Done], jobs: Sequence[_Job], workers: int
) -> Generator[tuple[_Job, tuple[_Done, float]]]:
    """Yield each job with its outcome and the seconds that it took, in order; several are worked on at once.

    Closed early, it begins no other.

    :param workers: Processes; 1 is this one alone.
    """
    if workers < 2:
        yield from ((job, _timed(work, job)) for job in jobs)
        return
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(workers, fork, initializer=_begin, initargs=(os.getpid(), work)) as pool:
        try:
            yield from zip(jobs, pool.map(_work_on, jobs), strict=True)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # of one that is ended early, what has not begun


def _timed(work: Callable[[_Job], _Done], job: _Job) -> tuple[_Done, float]:
    began = time.monotonic()
    return work(job), time.monotonic() - began


def _begin(parent: int, work: Callable[[Any], Any]) -> None:
    """Keep what this worker does: inherited, because a path of Airflow forgets its connection when it is pickled."""
    global _work  # noqa: PLW0603
    _work = work
    _end_with(parent)


def _work_on(job: Any) -> tuple[Any, float]:
    assert _work is not None
    return _timed(_work, job)


def _end_with(parent: int) -> None:
    """End this worker when its parent is gone; it would wait for work for ever."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
