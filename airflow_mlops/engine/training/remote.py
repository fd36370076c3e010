"""A training that was prepared elsewhere: ``python -m airflow_mlops.engine.training.remote <home> <id>``.

It needs no Airflow. The home is in a bucket, which it opens with the credentials of its own machine: a role, or
variables such as ``AWS_ACCESS_KEY_ID`` and ``AWS_ENDPOINT_URL``. A training that is done is not done again, and one
that was ended goes on from its last checkpoint.

Status 0: the home has the result. 1: the user's code failed, and will again. 75: another try may succeed. 143: it was
asked to end by SIGTERM, and has saved. Why is in the home.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from airflow_mlops.contracts import TrainingProgress
from airflow_mlops.engine.data.shared import fetch, share
from airflow_mlops.engine.data.storage import RemotePath
from airflow_mlops.engine.training.environment import IMAGE
from airflow_mlops.engine.training.failure_file import say_failure
from airflow_mlops.engine.training.jobs import Job
from airflow_mlops.engine.training.launch import PATIENCE, TrainingProcess
from airflow_mlops.engine.training.watch import read_progress
from airflow_mlops.exceptions import ConfigError, MlopsError
from airflow_mlops.resources import GPU

GRACE = 20.0
"""Seconds that a training has to save when it is to end: clusters kill after thirty, unless told otherwise."""
_SAID = 5.0
"""Seconds between two reports of progress."""
_TEMPORARY, _ENDED = os.EX_TEMPFAIL, 128 + signal.SIGTERM

log = logging.getLogger(__name__)


def command(
    home: str,
    job: Job,
    *,
    image: str,
    timeout: float,
    stall_timeout: float,
    price: float = 0.0,
    max_cost: float | None = None,
    checkpoint_every: float | None = None,
    checkpoint_epochs: int | None = None,
    tensorboard: bool = False,
    gpu: GPU | None = None,
) -> list[str]:
    """Return the command that does a training.

    :param home: Of the job, as Airflow knows it: ``s3://connection@bucket/prefix``.
    :param image: That it runs in.
    :param timeout: Seconds until it stops itself.
    :param stall_timeout: Seconds without progress until it does.
    :param price: Of an hour of its machine.
    :param max_cost, checkpoint_every, checkpoint_epochs, tensorboard: As for
        :func:`~airflow_mlops.engine.training.launch.train`.
    """
    told = [*_flag("image", image), *_flag("timeout", timeout), *_flag("stall-timeout", stall_timeout)]
    told += _flag("price", price) if price else []
    told += _flag("max-cost", max_cost) if max_cost is not None else []
    told += _flag("checkpoint-every", checkpoint_every) if checkpoint_every is not None else []
    told += _flag("checkpoint-epochs", checkpoint_epochs) if checkpoint_epochs is not None else []
    told += ["--tensorboard"] if tensorboard else []
    told += _flag("gpu", json.dumps(_said_of(gpu))) if gpu is not None else []
    return ["python", "-m", __name__, home, job.id, *told]


def main(arguments: Sequence[str] | None = None) -> int:
    """Do the training. Returns the exit status."""
    logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)
    asked = _parser().parse_args(arguments)
    if asked.image:
        os.environ[IMAGE] = asked.image
    with tempfile.TemporaryDirectory(prefix="training-") as folder:
        try:
            home = share(Path(folder) / "home", open_bucket(asked.home))
            return _Remote(Job(home, asked.id), asked).run()
        except MlopsError as error:
            say_failure(str(error))
            log.error("%s", error)  # noqa: TRY400  in its own words, which are the last in the log
            return _TEMPORARY if error.retryable else 1


class _Remote:
    """One training elsewhere, and the signal that ends it."""

    def __init__(self, job: Job, asked: argparse.Namespace) -> None:
        self._job, self._asked = job, asked
        self._process: TrainingProcess | None = None
        self._ended = False
        self._said = 0.0
        signal.signal(signal.SIGTERM, self._end)

    def run(self) -> int:
        """Train, and let the home have what came of it."""
        job = self._job
        try:
            job.forget_error()
            code = job.home / "code"
            spec = job.spec().model_copy(update={"code_path": str(code)})
            job.unpack(code)
            fetch(Path(spec.snapshot.uri))
            self._process = TrainingProcess(
                spec,
                job.workdir.path,
                log,
                gpu=None if self._asked.gpu is None else GPU(**json.loads(self._asked.gpu)),
                patience=self._asked.stall_timeout,
                follow=self._follow,
                price=self._asked.price,
                max_cost=self._asked.max_cost,
                checkpoint_every=self._asked.checkpoint_every,
                checkpoint_epochs=self._asked.checkpoint_epochs,
                tensorboard=self._asked.tensorboard,
            )
            self._process.run(self._asked.timeout)
        except MlopsError as error:
            job.say_error(error)
            if self._ended:
                log.info("Asked to end, and ended: the next try goes on.")
                return _ENDED
            raise
        finally:
            if (last := read_progress(job.workdir)) is not None:
                job.say_progress(last)
        log.info("Trained: %s", job.id)
        return 0

    def _follow(self, progress: TrainingProgress) -> None:
        if time.monotonic() - self._said >= _SAID:
            self._said = time.monotonic()
            self._job.say_progress(progress)

    def _end(self, _signal: int, _frame: object) -> None:
        self._ended = True
        if self._process is None:
            sys.exit(_ENDED)
        self._process.stop(GRACE)


def bucket_of(uri: str) -> str:
    """Return a home in a bucket without the connection of Airflow's that opens it.

    >>> bucket_of("s3://aws_default@bucket/prefix")
    's3://bucket/prefix'
    """
    return re.sub(r"://[^/@]*@", "://", uri)


def open_bucket(uri: str) -> RemotePath:
    """Return a home in a bucket, opened with this machine's own credentials.

    :param uri: As Airflow knows it; the connection before the ``@`` is not there, and is left out.
    :raises ConfigError: when nothing here opens such a storage.
    """
    plain = bucket_of(uri)
    try:
        from upath import UPath

        path: RemotePath = UPath(plain)
        _ = path.fs  # opened now: otherwise the first to use it learns that nothing can
    except (ImportError, ValueError) as error:
        raise ConfigError(
            "This storage cannot be opened here.",
            detail=f"{plain}: {error}",
            hint="The image needs airflow-mlops[s3] for s3://, or the fsspec package of the storage.",
        ) from None
    return path


def _said_of(gpu: GPU) -> dict[str, object]:
    """Return what the job has to know of its GPUs, where that is not the default."""
    names = ("count", "workers", "or_cpu", "shared", "free_within", "memory_limit", "precision", "xla")
    return {name: getattr(gpu, name) for name in names if getattr(gpu, name) != getattr(GPU(), name)}


def _flag(name: str, value: object) -> list[str]:
    return [f"--{name}", str(value)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Do a training that was prepared elsewhere.")
    parser.add_argument("home", help="home in a bucket, such as s3://bucket/prefix")
    parser.add_argument("id", help="of the training")
    parser.add_argument("--image", default="", help="that this runs in, as the record of the training has it")
    parser.add_argument("--timeout", type=float, default=2 * 3600, help="seconds until the training is stopped")
    parser.add_argument("--stall-timeout", type=float, default=PATIENCE, help="seconds without progress until it is")
    parser.add_argument("--price", type=float, default=0.0, help="of an hour of this machine")
    parser.add_argument("--max-cost", type=float, help="what all tries together may cost")
    parser.add_argument("--checkpoint-every", type=float, help="seconds between two checkpoints")
    parser.add_argument("--checkpoint-epochs", type=int, help="epochs between two checkpoints")
    parser.add_argument("--tensorboard", action="store_true", help="write logs for TensorBoard")
    parser.add_argument("--gpu", help="JSON of the GPUs that it takes; {} is one")
    return parser


if __name__ == "__main__":
    sys.exit(main())
