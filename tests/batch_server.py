"""moto's AWS Batch, mended where it differs from the real one: exit codes, `isTerminated`, SIGTERM at the end."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from datetime import datetime
from typing import Any

import boto3
import pytest
from moto.batch.models import Job, JobStatus

import docker

QUEUE, DEFINITION = "trainings", "train"
_describe = Job.describe


def _describe_as_aws_does(job: Any) -> dict[str, Any]:
    described = _describe(job) | {"isTerminated": getattr(job, "terminated", False)}
    if job.job_stopped and job.exit_code is not None:
        described["container"]["exitCode"] = job.exit_code
    return described


def _run_here(job: Any) -> None:
    """Run the command of a job as a process of this machine."""
    job.job_started_at = datetime.now()  # noqa: DTZ005  as moto does
    job._start_attempt()
    program, *arguments = job._get_container_property("command", [])
    job.process = subprocess.Popen(
        [sys.executable if program == "python" else program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    job.status = JobStatus.RUNNING
    printed, _ = job.process.communicate()
    job.exit_code = job.process.returncode % 256
    job.log_stream_name = job._stream_name
    job._log_backend.ensure_log_group(job._log_group)
    job._log_backend.ensure_log_stream(job._log_group, job.log_stream_name)
    now = int(time.time() * 1000)
    events = [{"timestamp": now, "message": line} for line in printed.splitlines()]
    job._log_backend.put_log_events(job._log_group, job.log_stream_name, events)
    job._mark_stopped(success=job.exit_code == 0)


def _terminate_process(job: Any, reason: str) -> None:
    job.terminated, job.job_stopped_reason = True, reason
    job.process.terminate()


def _terminate_container(job: Any, reason: str) -> None:
    """SIGTERM, as AWS does, which gives it 30 s; moto kills at once."""
    job.terminated, job.job_stopped_reason = True, reason

    def stop() -> None:
        while not job.job_stopped:
            with contextlib.suppress(docker.errors.NotFound):
                job.docker_client.containers.get(f"{job.job_name}-{job.job_id}").kill("SIGTERM")
                return
            time.sleep(0.2)

    threading.Thread(target=stop, daemon=True).start()


def mend(patch: pytest.MonkeyPatch, *, containers: bool = False) -> None:
    """Mend moto in this process.

    :param containers: Jobs run in containers; by default as processes of this machine.
    """
    patch.setattr(Job, "describe", _describe_as_aws_does)
    patch.setattr(Job, "terminate", _terminate_container if containers else _terminate_process)
    if not containers:
        patch.setattr(Job, "run", _run_here)


def prepare(endpoint: str, definition: dict[str, Any]) -> Any:
    """Make the queue, and a job definition; return the client."""
    where = {"endpoint_url": endpoint, "region_name": "us-east-1"}
    role = boto3.client("iam", **where).create_role(RoleName="batch", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    batch = boto3.client("batch", **where)
    batch.create_compute_environment(computeEnvironmentName="gpus", type="UNMANAGED", state="ENABLED", serviceRole=role)
    batch.create_job_queue(
        jobQueueName=QUEUE,
        state="ENABLED",
        priority=1,
        computeEnvironmentOrder=[{"order": 1, "computeEnvironment": "gpus"}],
    )
    batch.register_job_definition(**definition)
    return batch
