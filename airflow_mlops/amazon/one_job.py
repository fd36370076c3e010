"""One job at a time under one name, whatever becomes of the worker that submitted it."""

from __future__ import annotations

import os
import signal
import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from airflow.providers.amazon.aws.operators.base_aws import AwsBaseOperator
from airflow.providers.common.compat.sdk import AirflowException
from airflow.sdk.exceptions import TaskDeferralError, TaskDeferralTimeout
from botocore.exceptions import BotoCoreError, ClientError

from airflow_mlops.amazon.answers import EXPIRED, expired, in_words
from airflow_mlops.exceptions import MlopsError, TrainingError, TransientError
from airflow_mlops.operators.base import failing_clearly

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.triggers.base import BaseTrigger

_LOOK_AGAIN = 5.0
"""Seconds between looks at a job that is just ending."""
_SIGNALLED, _KILLED = 128, 128 + signal.SIGKILL
"""Exit statuses of processes that a signal ended begin here; the one of SIGKILL."""
EVER = 10**9
"""Looks of a trigger: the task's own timeout ends the wait."""


@dataclass(frozen=True)
class SubmittedJob:
    """A job as the service has it.

    :param id: What it is asked for by.
    :param state: ``ending``: told to stop, and not yet there.
    :param created: When it was submitted.
    :param says: What the service says of it: of one that waits, for what; of one that failed, why.
    :param described: The service's own answer, whole.
    """

    id: str
    state: Literal["going", "ending", "succeeded", "failed"]
    created: datetime
    says: str
    described: Mapping[str, Any]


class OneJobOperator(AwsBaseOperator[Any]):
    """Submit a job and wait for it without a worker; or wait for the one that an earlier try submitted.

    An operator of the amazon provider stands behind it and submits. A try that finds a job of the same name that runs
    waits for that one; what one of the same run of the DAG has done is not done again.
    """

    service: str
    """Name of the service, as its users know it."""

    _job_id: str = ""

    @abstractmethod
    def find(self) -> SubmittedJob | None:
        """Return the job of this name that goes on, or else the newest."""

    @abstractmethod
    def look(self, job_id: str) -> SubmittedJob:
        """Return how a job is."""

    @abstractmethod
    def submit(self, context: Context) -> str:
        """Submit a job of this name, and return what it is asked for by."""

    @abstractmethod
    def stop(self, job_id: str) -> None:
        """Let a job save what it has and end."""

    @abstractmethod
    def trigger(self, job_id: str) -> BaseTrigger:
        """Return what waits for a job, and stops it when a user ends the task."""

    @abstractmethod
    def show_log(self, job: SubmittedJob) -> None:
        """Put what an ended job has printed into the log of the task."""

    @abstractmethod
    def failure(self, job: SubmittedJob) -> MlopsError:
        """Return in words why a job failed."""

    @abstractmethod
    def result(self, job: SubmittedJob) -> Any:
        """Return what the task returns of a job that succeeded."""

    def execute(self, context: Context) -> Any:
        """Submit a job, or find it; wait for it in the triggerer."""
        with self._clearly():
            job = self._found(context)
            if job is None:
                self._job_id = self.submit(context)
                job = self.look(self._job_id)
            self._job_id = job.id
            return self._outcome(job)

    def execute_complete(self, context: Context, event: dict[str, Any] | None = None, *, job_id: str = "") -> Any:
        """Return what came out, once the triggerer has seen the end of the job."""
        with self._clearly():
            job = self.look(job_id)
            if job.state in ("going", "ending"):
                raise self._out_of_sight(job_id, str((event or {}).get("message")))
            return self._outcome(job)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Go on after the wait; one that took too long ends the job too."""
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except (TaskDeferralError, TaskDeferralTimeout) as error:
            with self._clearly():
                raise self._waited_in_vain(error) from None

    def on_kill(self) -> None:
        """End the job."""
        if self._job_id:
            self.stop(self._job_id)

    @contextmanager
    def _clearly(self) -> Iterator[None]:
        with failing_clearly(), in_words(self.service, self.aws_conn_id):
            yield

    def _found(self, context: Context) -> SubmittedJob | None:
        """Return the job to wait for, if one needs no other."""
        job = self.find()
        while job is not None and job.state == "ending":
            self.log.info("%s job %s is about to end: waiting for that", self.service, job.id)
            time.sleep(_LOOK_AGAIN)
            job = self.look(job.id)
        if job is None or job.state == "going":
            return job
        began = context["dag_run"].start_date
        done = job.state == "succeeded" and began is not None and job.created >= began
        return job if done else None

    def _outcome(self, job: SubmittedJob) -> Any:
        if job.state in ("going", "ending"):
            self.log.info("Waiting for %s job %s", self.service, job.id)
            self.defer(
                trigger=self.trigger(job.id),
                method_name="execute_complete",
                kwargs={"job_id": job.id},
                timeout=self.execution_timeout,
            )
        try:
            self.show_log(job)
        except (AirflowException, BotoCoreError, ClientError) as error:  # no reason to fail what succeeded
            self.log.warning("The log of %s job %s cannot be shown: %s", self.service, job.id, error)
        if job.state == "failed":
            raise self.failure(job)
        return self.result(job)

    def _out_of_sight(self, job_id: str, message: str) -> TransientError:
        if any(code in message for code in EXPIRED):
            return expired(message)
        return TransientError(
            f"{self.service} job {job_id} is out of sight.",
            detail=message,
            hint="It goes on, and the next try finds it.",
        )

    def _waited_in_vain(self, error: TaskDeferralError | TaskDeferralTimeout) -> TransientError:
        job = self.find()
        if job is None or job.state != "going" or not isinstance(error, TaskDeferralTimeout):
            return self._out_of_sight(job.id if job else "", str(error))
        self.stop(job.id)
        return TransientError(
            f"{self.service} job {job.id} did not end within {self.execution_timeout}, and was stopped.",
            detail=job.says,
            hint="One that never began waits for a machine: see whether its queue or quota has such a one. What was "
            "trained is kept: the next try goes on from there.",
        )


def failed_in_container(named: str, exit_code: int, says: str) -> MlopsError:
    """Return in words why the container of a job ended as it did.

    :param named: The job, as a sentence about it begins.
    :param exit_code: As :mod:`airflow_mlops.engine.training.remote` has it, or 128 + the number of a signal.
    :param says: What the service says of it.
    """
    detail = f"exit code {exit_code}: {says}"
    if exit_code == _KILLED or "OutOfMemory" in says:
        return TransientError(
            f"{named} was killed, mostly for lack of memory.",
            detail,
            "Give it more memory, or lower batch_size or window. The next try goes on from the last checkpoint.",
        )
    if exit_code == os.EX_TEMPFAIL or exit_code > _SIGNALLED:
        return TransientError(
            f"{named} may succeed another time.", detail, "The next try goes on from the last checkpoint."
        )
    return TrainingError(f"{named} failed.", detail, "The log above, which is the job's own, says why.")
