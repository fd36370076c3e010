"""A training that is asked to end, by SIGTERM, and ends when it has saved what it has done."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_asked, _saves = threading.Event(), threading.Event()


def listen() -> None:
    """End this process on SIGTERM: at once, or inside :func:`saving` when it has saved."""
    signal.signal(signal.SIGTERM, _ask)


@contextmanager
def saving() -> Iterator[None]:
    """Let the block end the process itself, by :func:`end`, once :func:`asked` says so."""
    _saves.set()
    try:
        yield
    finally:
        _saves.clear()


def asked() -> bool:
    """Return whether the training was asked to end."""
    return _asked.is_set()


def end() -> None:
    """End this process as the signal would have: whoever waits for it sees why."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)


def _ask(_signal: int, _frame: object) -> None:
    _asked.set()
    if not _saves.is_set():
        end()
