"""Trainings on AWS, by the operators of Airflow's amazon provider: SageMaker training jobs, and jobs of AWS Batch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import KW_ONLY
from datetime import timedelta
from typing import Annotated, Any, ClassVar

from pydantic import Field

from airflow_mlops.durations import parse_duration
from airflow_mlops.exceptions import ConfigError
from airflow_mlops.launchers.base import RemoteJob, RemoteLauncher
from airflow_mlops.typed import Duration, part

_TO_END = timedelta(minutes=10)
"""What a job may take beyond the timeout of its training, which then ends by itself and says so."""


@part
class AWSLauncher(RemoteLauncher):
    """What SageMaker and AWS Batch share. Both are waited for in the triggerer, and submitted once.

    :param conn_id: Airflow connection of type ``aws``.
    :param region_name: Region; by default that of the connection.
    :param starts_within: How long a job may wait for a machine, until it is ended.
    """

    extra: ClassVar[str] = "amazon"

    _: KW_ONLY
    conn_id: str = "aws_default"
    region_name: str | None = None
    starts_within: Duration = "2h"

    @property
    def latest(self) -> timedelta:
        """How long a job may take beyond its own timeout: to be scheduled, started and ended."""
        return parse_duration(self.starts_within) + 2 * _TO_END

    def asked_by(self) -> dict[str, Any]:
        """Return the arguments of an operator that say by whom AWS is asked."""
        return {"aws_conn_id": self.conn_id, "region_name": self.region_name}


@part
class SageMaker(AWSLauncher):
    """A SageMaker training job.

    :param image: Image to run, in ECR; by default option ``[mlops] train_image`` of Airflow's configuration.
    :param role: Name or ARN of the role that the job has, by which it reaches the bucket of the home; by default
        option ``[mlops] sagemaker_role``.
    :param instance_type: Machine, such as ``ml.m5.xlarge``; with GPUs, such as ``ml.g5.xlarge``. By default option
        ``[mlops] sagemaker_instance_type``.
    :param volume_size: GB of disk.
    :param request: The rest, as ``CreateTrainingJob`` has it, such as ``{"VpcConfig": {...}}`` or ``{"Tags": [...]}``.
        What is said otherwise comes before it.
    :param environment: Further environment variables of the job. They are shown in the UI: no secrets.
    :param price_per_hour: What an hour of its machine costs; by default option ``[mlops] price_per_hour``.
    :param conn_id: Airflow connection of type ``aws``.
    :param region_name: Region; by default that of the connection.
    :param starts_within: How long the job may wait for a machine, until it is ended.
    """

    operator: ClassVar[str] = "airflow_mlops.amazon.sagemaker.SageMakerTrainOnceOperator"
    options: ClassVar[Mapping[str, str]] = {
        **RemoteLauncher.options,
        "role": "sagemaker_role",
        "instance_type": "sagemaker_instance_type",
    }

    _: KW_ONLY
    role: str = ""
    instance_type: str = ""
    volume_size: Annotated[int, Field(gt=0)] = 30
    request: Mapping[str, Any] = Field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.instance_type and not re.fullmatch(r"ml\.[\w-]+\.\w+", self.instance_type):
            raise ConfigError(
                f"{self.instance_type!r} is not a machine of SageMaker.",
                hint="Their names are such as 'ml.m5.xlarge' and 'ml.g5.xlarge'.",
            )

    def arguments(self, job: RemoteJob) -> dict[str, Any]:
        """Return the arguments of the operator that run a job.

        :raises ConfigError: when it needs GPUs, and its machine has none.
        """
        if job.gpus and not re.match(r"ml\.[gp]\d", self.instance_type):
            raise ConfigError(
                f"The training takes {job.gpus} GPU(s), and {self.instance_type} has none.",
                hint="Name a machine that has as many, such as SageMaker(instance_type='ml.g5.xlarge'); or leave "
                "resources=GPU(...) out.",
            )
        said = {
            "TrainingJobName": job.name,
            "AlgorithmSpecification": {
                "TrainingImage": self.image,
                "TrainingInputMode": "File",
                "ContainerEntrypoint": job.command,
            },
            "RoleArn": self.role,
            "OutputDataConfig": {"S3OutputPath": f"{job.bucket}/sagemaker"},
            "ResourceConfig": {
                "InstanceType": self.instance_type,
                "InstanceCount": 1,
                "VolumeSizeInGB": self.volume_size,
            },
            "StoppingCondition": {"MaxRuntimeInSeconds": _seconds(job.timeout)},
            "Environment": dict(job.environment),
        }
        return {"config": _over(said, self.request), **self.asked_by()}


@part
class Batch(AWSLauncher):
    """A job of AWS Batch. The job definition says the image and the role of the job, by which it reaches the bucket.

    :param job_queue: Queue, by name or ARN; by default option ``[mlops] batch_job_queue`` of Airflow's configuration.
    :param job_definition: Job definition, such as ``train`` or ``train:3``; by default option
        ``[mlops] batch_job_definition``. It counts as the image does elsewhere: with another one, it is another
        training.
    :param cpu: CPUs of the job; by default those of the definition.
    :param memory: MiB of memory; by default that of the definition.
    :param share_identifier: Whose share it takes, in a queue with a scheduling policy.
    :param environment: Further environment variables of the job. They are shown in the UI: no secrets.
    :param price_per_hour: What an hour of its machine costs; by default option ``[mlops] price_per_hour``.
    :param conn_id: Airflow connection of type ``aws``.
    :param region_name: Region; by default that of the connection.
    :param starts_within: How long the job may wait for a machine, until it is ended.
    """

    operator: ClassVar[str] = "airflow_mlops.amazon.batch.BatchTrainOnceOperator"
    options: ClassVar[Mapping[str, str]] = {"job_queue": "batch_job_queue", "job_definition": "batch_job_definition"}

    _: KW_ONLY
    job_queue: str = ""
    job_definition: str = ""
    cpu: Annotated[float, Field(gt=0)] | None = None
    memory: Annotated[int, Field(gt=0)] | None = None
    share_identifier: str | None = None

    def __post_init__(self) -> None:
        if self.image:
            raise ConfigError(
                "AWS Batch runs the image of its job definition.",
                detail=f"image={self.image!r}",
                hint="Register a job definition with this image, and name that: Batch(job_definition=...).",
            )

    @property
    def trains_in(self) -> str:
        """What the job runs in: another one makes it another training."""
        return f"job definition {self.job_definition}"

    def arguments(self, job: RemoteJob) -> dict[str, Any]:
        """Return the arguments of the operator that run a job."""
        needs = {"GPU": job.gpus, "VCPU": self.cpu, "MEMORY": self.memory}
        return {
            "job_name": job.name,
            "job_queue": self.job_queue,
            "job_definition": self.job_definition,
            "container_overrides": {
                "command": job.command,
                "environment": [{"name": name, "value": value} for name, value in job.environment.items()],
                "resourceRequirements": [
                    {"type": what, "value": f"{count:g}"} for what, count in needs.items() if count
                ],
            },
            "share_identifier": self.share_identifier,
            "submit_job_timeout": _seconds(job.timeout),
            **self.asked_by(),
        }


def _seconds(timeout: timedelta) -> int:
    return math.ceil((timeout + _TO_END).total_seconds())


def _over(said: Mapping[str, Any], rest: Mapping[str, Any]) -> dict[str, Any]:
    """Return both, level by level; what is in both is as the first says."""
    both = {
        name: _over(said[name], rest[name]) for name in said.keys() & rest.keys() if isinstance(rest[name], Mapping)
    }
    return {**rest, **said, **both}
