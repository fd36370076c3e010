"""A child process that runs code of the user: listened to, ended in time, and never left behind.

Nothing beyond Python is imported here: any interpreter can load it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import psutil

MARK = "MLOPS_CHILD"
"""Environment variable by which a child, and all that it starts, is told in whatever session that is."""

_LAST_LINES = 5
_LOOKS = 0.05
_LONGEST_LINE = 16_384
_MOST_SAID = 10_000_000
"""Characters of what a child prints that go to the task's log."""
# What TensorFlow says at every start, before it has read that it should not.
_CHATTER = re.compile(r"I\d{4} \d|WARNING: All log messages before absl::InitializeLog")


class Ended(NamedTuple):
    """How a child ended: its exit status, negative for a signal; whether its time was up; the last it printed."""

    status: int
    timed_out: bool
    last_lines: list[str]

    @property
    def signal(self) -> str:
        """The name of the signal that ended it; empty when none did."""
        return signal.Signals(-self.status).name if self.status < 0 else ""


class ChildProcess:
    """A child process and what it starts, in a session of its own. What leaves the session is ended with it too.

    The child is to call :func:`die_with_parent`. :meth:`kill` may be called from a signal handler or another thread.

    :param command: What to run.
    :param env: The whole environment; see :func:`child_environment`.
    :param log: Where the child's lines go.
    :param cwd: Its working directory; None is that of this process.
    :param fds: Open files that it inherits.
    :raises OSError: when it cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        env: dict[str, str],
        log: logging.Logger | Any,
        cwd: Path | None = None,
        fds: Sequence[int] = (),
    ) -> None:
        self._log = log
        self._ended = False
        self._mark = uuid.uuid4().hex
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # never written to: its end tells the child that this process is gone
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            env={**env, MARK: self._mark},
            cwd=cwd,
            pass_fds=fds,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._process.returncode

    def kill(self) -> None:
        """End the child and everything it started, at once. Nothing to do when it has ended."""
        if not self._ended:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            for process in marked(self._mark):
                process.kill()

    def terminate(self, grace: float) -> None:
        """Ask the child and its group to end, and end them when they have not. It takes a grace at most.

        :param grace: Seconds that they have.
        """
        if not self._ended:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGTERM)
            deadline = time.monotonic() + grace
            while time.monotonic() < deadline and self._runs():
                time.sleep(_LOOKS)
            self.kill()

    def _runs(self) -> bool:
        try:
            return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None
        except ChildProcessError:
            return False

    def wait(self, timeout: float, grace: float = 0.0) -> Ended:
        """Hand on what the child prints until it ends, then end what it left running.

        :param timeout: Seconds until it is ended.
        :param grace: Seconds that it then has to save what it has.
        """
        timed_out = threading.Event()

        def give_up() -> None:
            timed_out.set()
            self.terminate(grace) if grace else self.kill()

        timer = threading.Timer(max(0.0, timeout), give_up)
        timer.start()
        threading.Thread(target=self._end_others, daemon=True).start()
        last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        try:
            self._listen(last_lines)
            status = self._process.wait()
        finally:
            timer.cancel()
            self.kill()
            self._process.communicate()
            self._ended = True
        return Ended(status, timed_out.is_set(), list(last_lines))

    def _listen(self, last_lines: deque[str]) -> None:
        assert self._process.stdout is not None
        said = 0
        for line in iter(partial(self._process.stdout.readline, _LONGEST_LINE), ""):
            if _CHATTER.match(line):
                continue
            last_lines.append(line.rstrip())
            said += len(line)
            if said < _MOST_SAID:
                self._log.info("%s", last_lines[-1])
            elif said - len(line) < _MOST_SAID:
                self._log.warning("It has printed %d characters: no more of it is kept here.", said)

    def _end_others(self) -> None:
        """Once the child has ended, end what it left running, which holds its output open.

        The child is not reaped before: until then no other process can have its number.
        """
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
            self.kill()


def marked(mark: str) -> Iterator[psutil.Process]:
    """Yield the processes that have a mark in their environment, this one aside."""
    import psutil  # not where another interpreter loads this

    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                yield process


def die_with_parent() -> None:
    """Let this process, and whatever it started, end when its parent does: its standard input ends then.

    What runs here finds its standard input empty.
    """
    parent = os.dup(sys.stdin.fileno())
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, sys.stdin.fileno())
    os.close(nothing)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.read(parent, 1):
        pass
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(1)


def child_environment(*first: str) -> dict[str, str]:
    """Return this process's environment without Airflow's own: user code needs none of its secrets.

    :param first: Folders to put first on the child's ``PYTHONPATH``.
    """
    kept = {name: value for name, value in os.environ.items() if not name.lstrip("_").startswith("AIRFLOW")}
    python_path = os.pathsep.join(filter(None, [*first, kept.pop("PYTHONPATH", "")]))
    return {
        **kept,
        **({"PYTHONPATH": python_path} if python_path else {}),
        "PYTHONHASHSEED": "0",
        "PYTHONUNBUFFERED": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
