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
from airflow_mlops.engine.data.shared import discard, fetch, send, withdraw
from airflow_mlops.engine.devices.assign import assigned, check_divisible
from airflow_mlops.engine.devices.usage import Usage
from airflow_mlops.engine.process import ChildProcess, Ended, child_environment
from airflow_mlops.engine.training.options import Options
from airflow_mlops.engine.training.spending import Spending
from airflow_mlops.engine.training.watch import Follow, Watch, read_progress
from airflow_mlops.engine.training.workdir import TENSORBOARD, Workdir, write_text
from airflow_mlops.exceptions import TrainingError, TransientError
from airflow_mlops.resources import GPU

PATIENCE = 1800.0
"""Seconds without progress after which a training is ended."""
_GRACE = 4.0
"""Seconds that a training has to save when it is to end: Airflow itself kills a task after five."""
_MEMORY_EVENTS = Path("/sys/fs/cgroup/memory.events")


def train(
    spec: TrainingSpec,
    workdir: Path,
    timeout: float,
    log: logging.Logger | Any = None,
    *,
    gpu: GPU | None = None,
    patience: float = PATIENCE,
    follow: Follow | None = None,
    price: float = 0.0,
    max_cost: float | None = None,
    checkpoint_every: float | None = None,
    checkpoint_epochs: int | None = None,
    tensorboard: bool = False,
) -> TrainingResult:
    """Train ``spec`` in a child process and return what came out.

    A finished training of the same spec in ``workdir`` is returned as it is, and one that was ended goes on from its
    last checkpoint. A child that was killed is started again at once if it got further than any before.

    :param spec: What to train.
    :param workdir: Folder of this training: ``spec.json``, ``saved_model/``, ``result.json``.
    :param timeout: Seconds until the child is ended.
    :param log: Where the child's lines go.
    :param gpu: GPUs that it takes; ``spec.compute`` says how it computes on them. None: it computes on the CPU.
    :param patience: Seconds without progress until the child is ended; five times the longest so far, if that is more.
    :param follow: Is told how far it is.
    :param price: Of an hour of this machine; the result then says the cost.
    :param max_cost: What all tries together may cost; what was saved by then is kept.
    :param checkpoint_every: Seconds between two checkpoints of a model function; by default as seldom as saving takes
        little of the time.
    :param tensorboard: Whether to write logs for TensorBoard, into ``tensorboard/`` of ``workdir``.
    :raises ConfigError: when there are no such GPUs here, or ``max_cost`` is given without a price.
    :raises TrainingError: when the user's code or the training fails, takes too long or costs too much.
    :raises TransientError: when the child was killed from outside, lacked memory or stood still, or what the user's
        code reaches for does not answer.
    """
    return TrainingProcess(
        spec,
        workdir,
        log,
        gpu=gpu,
        patience=patience,
        follow=follow,
        price=price,
        max_cost=max_cost,
        checkpoint_every=checkpoint_every,
        checkpoint_epochs=checkpoint_epochs,
        tensorboard=tensorboard,
    ).run(timeout)


class TrainingProcess:
    """One training's child process. :meth:`stop` may be called from a signal handler or another thread.

    :param task: Who trains, for those who wait for the same GPU; others as for :func:`train`.
    """

    def __init__(
        self,
        spec: TrainingSpec,
        workdir: Path,
        log: logging.Logger | Any = None,
        *,
        gpu: GPU | None = None,
        task: str = "",
        patience: float = PATIENCE,
        follow: Follow | None = None,
        price: float = 0.0,
        max_cost: float | None = None,
        checkpoint_every: float | None = None,
        checkpoint_epochs: int | None = None,
        tensorboard: bool = False,
    ) -> None:
        self.spec = spec
        self.workdir = Workdir(workdir.absolute())
        self.log = log or logging.getLogger(__name__)
        self.gpu = gpu
        self.task = task or f"training {self.workdir.path}"
        self._patience, self._follow = patience, follow
        self._spending = Spending(self.workdir, price, max_cost)
        self._options = Options(
            price, checkpoint_every=checkpoint_every, checkpoint_epochs=checkpoint_epochs, tensorboard=tensorboard
        )
        self._child: ChildProcess | None = None
        self._stopped = False

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
                fetch(self.workdir.checkpoints)
                done = self._train(deadline, timeout)
            self._keep_logs()
            send(self.workdir.path)  # also what an attempt before had no time to send
            discard(self.workdir.checkpoints)
            shutil.rmtree(self.workdir.checkpoints, ignore_errors=True)
            return done

    def stop(self, grace: float = _GRACE) -> None:
        """End the child and everything it started, once it has saved what it has. Nothing to do when there is none.

        :param grace: Seconds that it has to save.
        """
        self._stopped = True
        if self._child is not None:
            self._child.terminate(grace)

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
        if not self.workdir.keeps:  # it begins anew
            shutil.rmtree(self.workdir.tensorboard, ignore_errors=True)
        for leftover in self.workdir.path.glob(".tmp-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        write_text(self.workdir.spec, self.spec.to_json())

    def _keep_logs(self) -> None:
        """Let the logs for TensorBoard lie with the training: its checkpoints go."""
        if self.workdir.tensorboard.is_dir():
            shutil.rmtree(self.workdir.path / TENSORBOARD, ignore_errors=True)
            shutil.move(self.workdir.tensorboard, self.workdir.path / TENSORBOARD)

    def _train(self, deadline: float, timeout: float) -> TrainingResult:
        """Run the child, and again while it is killed further on each time."""
        furthest = 0  # in this try: one before may have been further when it was killed than what it had saved
        while True:
            self._prepare()
            try:
                return self._run_child(deadline, timeout)
            except TransientError as error:
                reached = self._reached()
                if self._stopped or not self.workdir.keeps or reached <= furthest or time.monotonic() > deadline:
                    raise
                furthest = reached
                self.log.warning("%s It got further than before, to %d examples: again", error.headline, reached)

    def _reached(self) -> int:
        progress = read_progress(self.workdir)
        return 0 if progress is None else progress.examples

    def _run_child(self, deadline: float, timeout: float) -> TrainingResult:
        check_divisible(self.spec)
        lacked = _killed_for_memory()
        spending = self._spending
        with assigned(self.gpu, self.task, deadline, self.log) as devices, spending.counting():
            until = min(deadline, time.monotonic() + spending.left)
            told = self._options._replace(spent=spending.before, gpus=len(devices.gpus))
            child = self._child = ChildProcess(
                [sys.executable, "-P", "-m", "airflow_mlops.engine.training.runner", str(self.workdir.path)],
                env=child_environment(str(Path(airflow_mlops.__file__).parent.parent))
                | devices.environment
                | told.as_environment(),
                log=self.log,
                cwd=self.workdir.path,
                fds=devices.fds,
            )
            devices.started(child.pid)
            if self._stopped:  # before there was a child
                child.terminate(_GRACE)
            with Watch(
                self.workdir,
                self.log,
                usage=Usage(child.pid, devices.gpus),
                deadline=deadline,
                spending=spending,
                patience=self._patience,
                give_up=child.kill,
                follow=self._follow,
            ) as watch:
                ended = child.wait(until - time.monotonic(), _GRACE)
        if ended.timed_out and until < deadline:
            raise spending.over()
        if ended.timed_out:
            raise TrainingError(
                f"The training did not end within {timeout:.0f} s and was stopped.",
                detail=f"{self.spec.named}, training {self.workdir.path}",
                hint="Raise the timeout, or train on less: a shorter window, fewer epochs, larger batches. What it has "
                "saved is kept: the same training goes on from there.",
            )
        if watch.stalled:
            raise TransientError(
                f"The training made no progress for {watch.stalled:.0f} s and was stopped.",
                detail=f"training {self.workdir.path}: {watch.last}; last output: {' | '.join(ended.last_lines)}",
                hint="See what it waits for: a file, a server, a lock. Or let it report more often, or raise "
                "stall_timeout.",
            )
        return self._outcome(ended, lacked=_killed_for_memory() > lacked)

    def _outcome(self, ended: Ended, *, lacked: bool) -> TrainingResult:
        if ended.signal:
            detail = f"training {self.workdir.path}; last output: {' | '.join(ended.last_lines)}"
            if lacked and ended.signal == "SIGKILL":
                raise TransientError(
                    "The training ran out of memory and was killed.",
                    detail=detail,
                    hint="Give it more memory, or lower batch_size or window.",
                )
            raise TransientError(
                f"The training process was killed by {ended.signal}.",
                detail=detail,
                hint="SIGKILL is mostly lack of memory: give it more, or lower batch_size or window. SIGTERM comes "
                "with a machine that goes, or a task that is ended: the next try goes on.",
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


def _killed_for_memory() -> int:
    """Return how many processes of this container were killed for lack of memory so far."""
    try:
        counts = dict(line.split() for line in _MEMORY_EVENTS.read_text().splitlines())
        return int(counts.get("oom_kill", 0))
    except (OSError, ValueError):
        return 0  # no container, or one that does not say
