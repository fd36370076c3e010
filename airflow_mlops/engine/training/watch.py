"""Watch a training from outside: does it move, will it be done in time, is what it keeps kept elsewhere too."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import ValidationError

from airflow_mlops.contracts import TrainingProgress
from airflow_mlops.engine.data.shared import discard, is_shared, send
from airflow_mlops.engine.devices.usage import Usage
from airflow_mlops.engine.training.spending import Spending
from airflow_mlops.engine.training.workdir import Workdir
from airflow_mlops.exceptions import MlopsError

_LOOKS = 2.0
"""Seconds between two looks."""
_QUIET = 2.0
"""Seconds that a file has not been written to when it is sent: it may be the user's, who writes it where it lies."""
_SLOWER = 5
"""Times as long as ever before that may pass without progress."""


Follow = Callable[[TrainingProgress], None]
"""Is told every few seconds how far a training is, in a thread of its own."""


class Watch:
    """Looks at a training's folder every few seconds, in a thread, while the block runs.

    :param deadline: When the training is stopped, on :func:`time.monotonic`'s clock.
    :param usage: What it uses of the machine.
    :param spending: What it costs.
    :param patience: Seconds without progress until ``give_up`` is called; longer for one that reports seldom.
    :param follow: Is told how far it is.
    """

    def __init__(
        self,
        workdir: Workdir,
        log: logging.Logger | Any,
        *,
        usage: Usage,
        deadline: float,
        spending: Spending,
        patience: float,
        give_up: Callable[[], None],
        follow: Follow | None,
    ) -> None:
        self._workdir, self._deadline, self._patience = workdir, deadline, patience
        self._give_up, self._follow, self._log = give_up, follow, log
        self._spending, self._usage = spending, usage
        self.stalled = 0.0
        """Seconds without progress after which it was given up; 0: it was not."""
        self.last = read_progress(workdir)
        """The newest progress; at first that of a try before."""
        self._moved, self._longest = 0.0, 0.0
        self._warned: set[str] = set()
        self._sent: dict[Path, tuple[int, int]] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(_LOOKS):
            self._look()
            self._spending.mind()
            self._send(_QUIET)
        self._look()
        self._spending.keep()
        self._send(0)

    def _look(self) -> None:
        found, now = read_progress(self._workdir), time.monotonic()
        if found is not None and found != self.last:
            if self.last is None or (found.examples, found.epoch) != (self.last.examples, self.last.epoch):
                self._longest = max(self._longest, now - self._moved if self._moved else 0.0)
                self._moved = now
            self.last = found
            self._mind_limits(found, now)
            self._tell(found)
        elif self._moved and self.last is not None:
            if self._usage.due:
                self._tell(self.last)
            if now - self._moved > max(self._patience, _SLOWER * self._longest) and not self.stalled:
                self.stalled = now - self._moved
                self._give_up()

    def _mind_limits(self, progress: TrainingProgress, now: float) -> None:
        left = self._deadline - now
        if progress.seconds_left is None:
            return
        if words := self._spending.warning(progress.seconds_left):
            self._warn_once("price", words)
        if progress.seconds_left > left:
            self._warn_once(
                "deadline",
                f"This training will miss its deadline: {timedelta(seconds=round(progress.seconds_left))} are left to "
                f"do and {timedelta(seconds=round(max(0, left)))} to do it in, if all {progress.epochs} epochs are "
                f"made ({progress.examples_per_second:,.0f} examples/s). What it has done by then is kept.",
            )

    def _tell(self, progress: TrainingProgress) -> None:
        if self._follow is None:
            return
        try:
            used = self._usage.sample() if self._usage.due else {}
            self._follow(progress.model_copy(update={"usage": used}))
        except Exception as error:
            self._warn_once("follow", f"Its progress is shown in the log only: {error}")

    def _send(self, quiet: float) -> None:
        """Let a shared home have what the next try goes on from, which may be on another machine."""
        folder = self._workdir.checkpoints
        if not is_shared(folder):
            return
        try:
            there = {path: path.stat() for path in folder.rglob("*") if path.is_file() and path.name[0] != "."}
        except FileNotFoundError:
            return  # an old one was let go of just now: the next look sees what is left
        try:
            for path, stat in there.items():
                looks = stat.st_size, stat.st_mtime_ns
                still = self._workdir.is_whole(path) or time.time() - stat.st_mtime >= quiet
                if self._sent.get(path) != looks and still:
                    send(path)
                    self._sent[path] = looks
            for gone in self._sent.keys() - there.keys():
                discard(gone)
                del self._sent[gone]
        except (MlopsError, OSError) as error:
            self._warn_once("send", f"What it keeps is on this machine only: {error}")

    def _warn_once(self, about: str, words: str) -> None:
        if about not in self._warned:
            self._log.warning("%s", words)
            self._warned.add(about)


def read_progress(workdir: Workdir) -> TrainingProgress | None:
    """Return how far a training is; None when it has not begun."""
    try:
        return TrainingProgress.from_json(workdir.progress.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
