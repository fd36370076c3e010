"""A training as a job of AWS Batch."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypedDict

from airflow.providers.amazon.aws.operators.batch import BatchOperator
from airflow.providers.amazon.aws.triggers.batch import BatchJobTrigger

from airflow_mlops.amazon.one_job import EVER, OneJobOperator, SubmittedJob, failed_in_container
from airflow_mlops.exceptions import MlopsError, TrainingError, TransientError

if TYPE_CHECKING:
    from airflow.sdk import Context

_ENDED_BY_USER = "Its task was ended by a user of Airflow."
_LOG_LINES = 10_000
"""As many lines as CloudWatch gives at once."""


class BatchJob(TypedDict):
    """A job that succeeded: its id, and for how long it ran (seconds)."""

    job: str
    seconds: float


class BatchTrainingTrigger(BatchJobTrigger):
    """The provider's trigger, which terminates the job when a user ends the task."""

    async def on_kill(self) -> None:
        """Let the job save what it has and end."""
        async with await self.hook().get_async_conn() as client:
            await client.terminate_job(jobId=self.serialized_fields["job_id"], reason=_ENDED_BY_USER)


class BatchTrainOnceOperator(OneJobOperator, BatchOperator):
    """BatchOperator with one job at a time.

    Batch takes the same name as often as it is given, so jobs are looked for by their name, before one is submitted and
    after it.
    """

    service = "AWS Batch"

    def find(self) -> SubmittedJob | None:
        """Return the job of this name that goes on, or else the newest of the last days."""
        found = self._named()
        job = next((job for job in found if _state(job) == "going"), found[-1] if found else None)
        return self.look(job["jobId"]) if job else None

    def look(self, job_id: str) -> SubmittedJob:
        """Return how a job is."""
        described = self.hook.get_job_description(job_id)
        says = [described.get("statusReason"), described.get("container", {}).get("reason")]
        return SubmittedJob(
            job_id,
            _state(described),
            datetime.fromtimestamp(described["createdAt"] / 1000, UTC),
            ": ".join(filter(None, says)),
            described,
        )

    def submit(self, context: Context) -> str:
        """Submit a job; of two that were submitted at the same moment, leave the earlier one."""
        self.submit_job(context)
        going = [job["jobId"] for job in self._named() if _state(job) == "going"]
        if self.job_id in going[1:]:
            self.log.info("Another worker submitted job %s at the same moment", going[0])
            self.hook.terminate_job(job_id=self.job_id, reason=f"It is a second one beside {going[0]}.")
            self.job_id = going[0]
        self._persist_links(context)
        return str(self.job_id)

    def stop(self, job_id: str) -> None:
        """Let the job save what it has and end: it has 30 s, or the ``stopTimeout`` of its machine."""
        self.hook.terminate_job(job_id=job_id, reason=_ENDED_BY_USER)

    def trigger(self, job_id: str) -> BatchTrainingTrigger:
        """Return what waits for a job, and terminates it when a user ends the task."""
        return BatchTrainingTrigger(
            job_id=job_id,
            waiter_delay=self.poll_interval,
            waiter_max_attempts=EVER,
            aws_conn_id=self.aws_conn_id,
            region_name=self.region_name,
            verify=self.verify,
            botocore_config=self.botocore_config,
        )

    def show_log(self, job: SubmittedJob) -> None:
        """Put what the job has printed into the log of the task, as CloudWatch has it."""
        self.job_id = job.id
        fetcher = self._get_batch_log_fetcher(job.id)
        for line in fetcher.get_last_log_messages(_LOG_LINES) if fetcher else []:
            self.log.info("%s", line)

    def failure(self, job: SubmittedJob) -> MlopsError:
        """Return in words why a job failed."""
        if job.described.get("isTerminated") or job.described.get("isCancelled"):
            return TransientError(
                f"AWS Batch job {job.id} was ended by somebody.",
                detail=job.says,
                hint="CloudTrail says by whom (TerminateJob). The next try goes on from the last checkpoint.",
            )
        if "exceeded timeout" in job.says:
            return TrainingError(
                f"AWS Batch job {job.id} took longer than it may, and was ended.",
                detail=job.says,
                hint="Raise the timeout of the training. What was trained is kept.",
            )
        exit_code = job.described.get("container", {}).get("exitCode")
        if exit_code is None:
            return TransientError(
                f"AWS Batch job {job.id} was lost.",
                detail=job.says,
                hint="Its machine went, or its container could not begin: the image, its roles, its log group. What "
                "was trained is kept: the next try goes on from there.",
            )
        return failed_in_container(f"AWS Batch job {job.id}", exit_code, job.says)

    def result(self, job: SubmittedJob) -> BatchJob:
        """Return the id of the job, and how long it ran."""
        return BatchJob(job=job.id, seconds=(job.described["stoppedAt"] - job.described["startedAt"]) / 1000)

    def _named(self) -> list[dict[str, Any]]:
        """Return the jobs of this name, the oldest first."""
        pages = self.hook.client.get_paginator("list_jobs").paginate(
            jobQueue=self.job_queue, filters=[{"name": "JOB_NAME", "values": [self.job_name]}]
        )
        found = [job for page in pages for job in page["jobSummaryList"]]
        return sorted(found, key=lambda job: (job["createdAt"], job["jobId"]))


def _state(job: dict[str, Any]) -> Any:
    if job["status"] in ("SUCCEEDED", "FAILED"):
        return job["status"].lower()
    return "ending" if job.get("isTerminated") or job.get("isCancelled") else "going"
