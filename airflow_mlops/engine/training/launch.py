"""Start a training in a child process, listen to it, end it.

TensorFlow never enters the caller: it hangs after a fork, costs seconds to import, and keeps its memory.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import airflow_mlops
from airflow_mlops.contracts import TrainingResult, TrainingSpec
from airflow_mlops.engine.data.shared import fetch, send, withdraw
from airflow_mlops.engine.training.workdir import Workdir, write_text
from airflow_mlops.exceptions import TrainingError, TransientError

_LAST_LINES = 5
_LONGEST_LINE = 16_384
_MOST_SAID = 10_000_000
"""Characters of what a training prints that go to the task's log."""
# What TensorFlow says at every start, before it has read that it should not.
_CHATTER = re.compile(r"I\d{4} \d|WARNING: All log messages before absl::InitializeLog")


def train(spec: TrainingSpec, workdir: Path, timeout: float, log: logging.Logger | Any = None) -> TrainingResult:
    """Train ``spec`` in a child process and return what came out.

    A finished training of the same spec in ``workdir`` is returned as it is.

    :param spec: What to train.
    :param workdir: Folder of this training: ``spec.json``, ``saved_model/``, ``result.json``.
    :param timeout: Seconds until the child is killed.
    :param log: Where the child's lines go.
    :raises TrainingError: when the user's code or the training fails, or takes too long.
    :raises TransientError: when the child was killed from outside, or what the user's code reaches for does not answer.
    """
    return TrainingProcess(spec, workdir, log).run(timeout)


class TrainingProcess:
    """One training's child process. :meth:`kill` may be called from a signal handler or another thread."""

    def __init__(self, spec: TrainingSpec, workdir: Path, log: logging.Logger | Any = None) -> None:
        self.spec = spec
        self.workdir = Workdir(workdir.absolute())
        self.log = log or logging.getLogger(__name__)
        self._child: subprocess.Popen[str] | None = None
        self._ended = False

    def run(self, timeout: float) -> TrainingResult:
        """Train, or return the finished training of the same spec. See :func:`train`."""
        self.workdir.path.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + timeout
        with self._alone(deadline):
            fetch(self.workdir.path)
            done = self.workdir.finished(self.spec.hash)
            if done is not None:
                self.log.info("Already trained: %s", self.workdir.path)
            else:
                self._prepare()
                done = self._run_child(deadline, timeout)
            send(self.workdir.path)  # also what an attempt before had no time to send
            return done

    def kill(self) -> None:
        """End the child and everything it started, at once. Nothing to do when there is none."""
        if self._child is not None and not self._ended:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)

    @contextlib.contextmanager
    def _alone(self, deadline: float) -> Iterator[None]:
        """Let one process at a time train in this folder: a cleared task may still be ending."""
        with (self.workdir.path / ".lock").open("w") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise TransientError(
                            "Another process has been training the same spec all the while.",
                            detail=f"training {self.workdir.path}",
                            hint="Wait for it, or end it.",
                        ) from None
                    time.sleep(0.5)
            yield

    def _prepare(self) -> None:
        """Take away what an earlier attempt left, the mark of completion first."""
        withdraw(self.workdir.path)
        for leftover in (self.workdir.result, self.workdir.error, self.workdir.checksums):
            leftover.unlink(missing_ok=True)
        shutil.rmtree(self.workdir.saved_model, ignore_errors=True)
        for leftover in self.workdir.path.glob(".tmp-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        write_text(self.workdir.spec, self.spec.to_json())

    def _run_child(self, deadline: float, timeout: float) -> TrainingResult:
        timed_out = threading.Event()

        def give_up() -> None:
            timed_out.set()
            self.kill()

        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", "airflow_mlops.engine.training.runner", str(self.workdir.path)],
            stdin=subprocess.PIPE,  # never written to: its end tells the child that this process is gone
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=_child_environment(),
            cwd=self.workdir.path,
            start_new_session=True,
        )
        timer = threading.Timer(max(0.0, deadline - time.monotonic()), give_up)
        timer.start()
        last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        try:
            assert self._child.stdout is not None
            said = 0
            for line in iter(partial(self._child.stdout.readline, _LONGEST_LINE), ""):
                if _CHATTER.match(line):
                    continue
                last_lines.append(line.rstrip())
                said += len(line)
                if said < _MOST_SAID:
                    self.log.info("%s", last_lines[-1])
                elif said - len(line) < _MOST_SAID:
                    self.log.warning("It has printed %d characters: no more of it is kept here.", said)
            status = self._child.wait()
        finally:
            timer.cancel()
            self.kill()
            self._child.communicate()
            self._ended = True
        if timed_out.is_set():
            raise TrainingError(
                f"The training did not end within {timeout:.0f} s and was stopped.",
                detail=f"{self.spec.named}, training {self.workdir.path}",
                hint="Raise the timeout, or train on less: a shorter window, fewer epochs, larger batches.",
            )
        return self._outcome(status, last_lines)

    def _outcome(self, status: int, last_lines: deque[str]) -> TrainingResult:
        if status < 0:
            raise TransientError(
                f"The training process was killed by {signal.Signals(-status).name}.",
                detail=f"training {self.workdir.path}; last output: {' | '.join(last_lines)}",
                hint="SIGKILL is mostly lack of memory: give it more, or lower batch_size or window.",
            )
        if self.workdir.error.exists():
            words = json.loads(self.workdir.error.read_bytes())
            raise (TransientError if words.pop("retryable", False) else TrainingError)(**words)
        result = self.workdir.finished(self.spec.hash) if status == 0 else None
        if result is None:
            raise TrainingError(
                f"The training process ended with status {status} and without a result.",
                detail="\n".join(last_lines),
                hint="The task's log above has all of its output.",
            )
        return result


def _child_environment() -> dict[str, str]:
    """Return this process's environment without Airflow's own: user code needs none of its secrets."""
    kept = {name: value for name, value in os.environ.items() if not name.lstrip("_").startswith("AIRFLOW")}
    package_root = str(Path(airflow_mlops.__file__).parent.parent)
    python_path = os.pathsep.join(filter(None, [package_root, kept.get("PYTHONPATH", "")]))
    return kept | {
        "PYTHONPATH": python_path,
        "PYTHONHASHSEED": "0",
        "PYTHONUNBUFFERED": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
