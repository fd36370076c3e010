"""A training as a SageMaker training job."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, TypedDict

from airflow.providers.amazon.aws.hooks.sagemaker import LogState
from airflow.providers.amazon.aws.operators.sagemaker import SageMakerTrainingOperator
from airflow.providers.amazon.aws.triggers.sagemaker import SageMakerTrigger
from botocore.exceptions import ClientError

from airflow_mlops.amazon.one_job import EVER, OneJobOperator, SubmittedJob, failed_in_container
from airflow_mlops.exceptions import ConfigError, MlopsError, TrainingError, TransientError

if TYPE_CHECKING:
    from airflow.sdk import Context

_STATES = {
    "InProgress": "going",
    "Stopping": "ending",
    "Completed": "succeeded",
    "Failed": "failed",
    "Stopped": "failed",
    "Deleting": "failed",
}
_TOO_LONG = ("MaxRuntimeExceeded", "MaxWaitTimeExceeded")
_LONGEST_NAME = 63


class SageMakerJob(TypedDict):
    """A job that succeeded: its name, its machine, and for how long that is to be paid (seconds)."""

    job: str
    instance_type: str
    billable_seconds: int


class SageMakerJobTrigger(SageMakerTrigger):
    """The provider's trigger, which stops the job when a user ends the task."""

    async def on_kill(self) -> None:
        """Let the job save what it has and end."""
        async with await self.hook().get_async_conn() as client:
            await client.stop_training_job(TrainingJobName=self.job_name)


class SageMakerTrainOnceOperator(OneJobOperator, SageMakerTrainingOperator):
    """SageMakerTrainingOperator with one job at a time.

    The name in ``config`` is how the names of its jobs begin: SageMaker takes each name once for ever, so they are
    numbered, and two workers that submit at the same moment cannot both succeed.
    """

    service = "SageMaker"

    def find(self) -> SubmittedJob | None:
        """Return the newest job of this name."""
        number, newest = 1, None
        while (job := self._look(self._name(number))) is not None:
            number, newest = number + 1, job
        self._number = number
        return newest

    def look(self, job_id: str) -> SubmittedJob:
        """Return how a job is."""
        described = self.hook.describe_training_job(job_id)
        status, second = described["TrainingJobStatus"], described.get("SecondaryStatus", "")
        told = [change.get("StatusMessage", "") for change in described.get("SecondaryStatusTransitions", [])[-1:]]
        says = described.get("FailureReason") or ": ".join(filter(None, (second, *told)))
        return SubmittedJob(job_id, _STATES[status], described["CreationTime"], says, described)  # type: ignore[arg-type]

    def submit(self, context: Context) -> str:
        """Create a job under the next number."""
        self.expand_role()
        name = self._name(self._number)
        self.log.info("Creating SageMaker training job %s", name)
        try:
            self.hook.create_training_job(
                self.config | {"TrainingJobName": name}, wait_for_completion=False, print_log=False
            )
        except ClientError as error:
            if error.response["Error"]["Code"] != "ResourceInUse":
                raise
            self.log.info("Another worker created it at the same moment")
        return name

    def stop(self, job_id: str) -> None:
        """Let the job save what it has and end: SageMaker gives it 120 s."""
        self.hook.get_conn().stop_training_job(TrainingJobName=job_id)

    def trigger(self, job_id: str) -> SageMakerJobTrigger:
        """Return what waits for a job, and stops it when a user ends the task."""
        return SageMakerJobTrigger(
            job_name=job_id,
            job_type="Training",
            waiter_delay=self.check_interval,
            waiter_max_attempts=EVER,
            aws_conn_id=self.aws_conn_id,
            region_name=self.region_name,
            verify=self.verify,
            botocore_config=self.botocore_config,
        )

    def show_log(self, job: SubmittedJob) -> None:
        """Put what the job has printed into the log of the task, as CloudWatch has it."""
        count = job.described["ResourceConfig"]["InstanceCount"]
        self.hook.describe_training_job_with_log(
            job.id, {}, [], count, LogState.COMPLETE, dict(job.described), time.monotonic()
        )

    def failure(self, job: SubmittedJob) -> MlopsError:
        """Return in words why a job failed."""
        if job.described["TrainingJobStatus"] == "Stopped":
            if job.described.get("SecondaryStatus") in _TOO_LONG:
                return TrainingError(
                    f"SageMaker job {job.id} took longer than it may, and was stopped.",
                    detail=job.says,
                    hint="Raise the timeout of the training. What was trained is kept.",
                )
            return TransientError(
                f"SageMaker job {job.id} was stopped by somebody.",
                detail=job.says,
                hint="CloudTrail says by whom (StopTrainingJob). The next try goes on from the last checkpoint.",
            )
        exit_code = re.search(r"exit code:? (\d+)", job.says, re.IGNORECASE)
        if job.says.startswith("AlgorithmError") and exit_code is not None:
            return failed_in_container(f"SageMaker job {job.id}", int(exit_code[1]), job.says)
        if job.says.startswith("ClientError"):
            return ConfigError(
                f"SageMaker could not begin job {job.id}.",
                detail=job.says,
                hint="Mostly the image, or what the role may read: correct the launcher.",
            )
        return TransientError(
            f"SageMaker job {job.id} failed.",
            detail=job.says,
            hint="The next try goes on from the last checkpoint.",
        )

    def result(self, job: SubmittedJob) -> SageMakerJob:
        """Return the name of the job, and what is to be paid for."""
        return SageMakerJob(
            job=job.id,
            instance_type=job.described["ResourceConfig"]["InstanceType"],
            billable_seconds=job.described.get("BillableTimeInSeconds", 0),
        )

    def _name(self, number: int) -> str:
        """What tells jobs apart is the end of the name; its beginning is the model's."""
        end = f"-{number}"
        return self.config["TrainingJobName"][len(end) - _LONGEST_NAME :].lstrip("-") + end

    def _look(self, name: str) -> SubmittedJob | None:
        try:
            return self.look(name)
        except ClientError as error:
            if error.response["Error"]["Code"] == "ValidationException":  # so it says that there is none
                return None
            raise
