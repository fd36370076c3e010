"""Start a training in a child process, listen to it, end it.

TensorFlow never enters the caller: it hangs after a fork, costs seconds to import, and keeps its memory.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import airflow_mlops
from airflow_mlops.contracts import TrainingResult, TrainingSpec
from airflow_mlops.engine.data.shared import fetch, send, withdraw
from airflow_mlops.engine.devices.assign import assigned, check_divisible
from airflow_mlops.engine.process import ChildProcess, Ended, child_environment
from airflow_mlops.engine.training.workdir import Workdir, write_text
from airflow_mlops.exceptions import TrainingError, TransientError
from airflow_mlops.resources import GPU


def train(
    spec: TrainingSpec, workdir: Path, timeout: float, log: logging.Logger | Any = None, gpu: GPU | None = None
) -> TrainingResult:
    """Train ``spec`` in a child process and return what came out.

    A finished training of the same spec in ``workdir`` is returned as it is.

    :param spec: What to train.
    :param workdir: Folder of this training: ``spec.json``, ``saved_model/``, ``result.json``.
    :param timeout: Seconds until the child is killed.
    :param log: Where the child's lines go.
    :param gpu: GPUs that it takes; ``spec.compute`` says how it computes on them. None: it computes on the CPU.
    :raises ConfigError: when there are no such GPUs here.
    :raises TrainingError: when the user's code or the training fails, or takes too long.
    :raises TransientError: when the child was killed from outside, or what the user's code reaches for does not answer.
    """
    return TrainingProcess(spec, workdir, log, gpu).run(timeout)


class TrainingProcess:
    """One training's child process. :meth:`kill` may be called from a signal handler or another thread.

    :param task: Who trains, for those who wait for the same GPU; others as for :func:`train`.
    """

    def __init__(
        self,
        spec: TrainingSpec,
        workdir: Path,
        log: logging.Logger | Any = None,
        gpu: GPU | None = None,
        task: str = "",
    ) -> None:
        self.spec = spec
        self.workdir = Workdir(workdir.absolute())
        self.log = log or logging.getLogger(__name__)
        self.gpu = gpu
        self.task = task or f"training {self.workdir.path}"
        self._child: ChildProcess | None = None

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
        if self._child is not None:
            self._child.kill()

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
        check_divisible(self.spec)
        with assigned(self.gpu, self.task, deadline, self.log) as devices:
            self._child = ChildProcess(
                [sys.executable, "-P", "-m", "airflow_mlops.engine.training.runner", str(self.workdir.path)],
                env=child_environment(str(Path(airflow_mlops.__file__).parent.parent)) | devices.environment,
                log=self.log,
                cwd=self.workdir.path,
                fds=devices.fds,
            )
            devices.started(self._child.pid)
            ended = self._child.wait(deadline - time.monotonic())
        if ended.timed_out:
            raise TrainingError(
                f"The training did not end within {timeout:.0f} s and was stopped.",
                detail=f"{self.spec.named}, training {self.workdir.path}",
                hint="Raise the timeout, or train on less: a shorter window, fewer epochs, larger batches.",
            )
        return self._outcome(ended)

    def _outcome(self, ended: Ended) -> TrainingResult:
        if ended.signal:
            raise TransientError(
                f"The training process was killed by {ended.signal}.",
                detail=f"training {self.workdir.path}; last output: {' | '.join(ended.last_lines)}",
                hint="SIGKILL is mostly lack of memory: give it more, or lower batch_size or window.",
            )
        if self.workdir.error.exists():
            words = json.loads(self.workdir.error.read_bytes())
            raise (TransientError if words.pop("retryable", False) else TrainingError)(**words)
        result = self.workdir.finished(self.spec.hash) if ended.status == 0 else None
        if result is None:
            raise TrainingError(
                f"The training process ended with status {ended.status} and without a result.",
                detail="\n".join(ended.last_lines),
                hint="The task's log above has all of its output.",
            )
        return result
