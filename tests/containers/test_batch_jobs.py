"""Trainings in containers of the image `train`, as jobs of AWS Batch (moto's) and of a small SageMaker.

`make test-containers` runs it. Home, logs and queue are moto's too; nobody but the container trains.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from airflow_mlops import Batch, SageMaker
from airflow_mlops.amazon.batch import BatchTrainOnceOperator
from airflow_mlops.amazon.sagemaker import SageMakerTrainOnceOperator
from airflow_mlops.exceptions import TransientError
from airflow_mlops.launchers import RemoteJob
from airflow_mlops.stack.console import Console
from tests import batch_server
from tests.aws_jobs import ROLE, Said, aws_connection, kill, run, submit, wait
from tests.containers.compose import _version, build, engine
from tests.integration.test_remote_training import HOME, Worker, worker  # noqa: F401  fixture
from tests.integration.test_s3_partitions import client, connection, endpoint, keys  # noqa: F401  fixtures
from tests.sagemaker_server import sagemaker_server

pytestmark = pytest.mark.containers


@pytest.fixture(scope="module")
def image() -> str:
    """The image that trains; TRAIN_IMAGE names one that is there."""
    if given := os.environ.get("TRAIN_IMAGE"):
        return given
    build(["train"], Console().say)
    return f"localhost/airflow-mlops/train:{_version()}"


@pytest.fixture(scope="module")
def containers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return where the engine answers as Docker does."""
    if engine() == "docker":
        yield os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
        return
    address = f"unix://{tmp_path_factory.mktemp('podman')}/podman.sock"
    service = subprocess.Popen(["podman", "system", "service", "--time=0", address])
    while not Path(address.removeprefix("unix://")).exists():
        assert service.poll() is None
        time.sleep(0.1)
    yield address
    service.terminate()
    service.wait()


def outside(endpoint: str, **more: str) -> dict[str, str]:  # noqa: F811
    """Return what the container of a job has of the world: a bucket, and who it is there. On AWS a role says that."""
    credentials = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    return {**credentials, "AWS_ENDPOINT_URL": endpoint, **more}


@pytest.fixture
def batch(image: str, containers: str, worker: Worker, endpoint: str, monkeypatch: Any) -> Any:  # noqa: F811
    """A queue whose jobs run in containers of this machine."""
    monkeypatch.setenv("DOCKER_HOST", containers)
    monkeypatch.setenv("MOTO_DOCKER_NETWORK_MODE", "host")
    batch_server.mend(monkeypatch, containers=True)
    properties = {"image": image, "vcpus": 1, "memory": 2048, "command": ["python"]}
    definition = {"jobDefinitionName": batch_server.DEFINITION, "type": "container", "containerProperties": properties}
    return batch_server.prepare(endpoint, definition)


def job_of(prepared: Mapping[str, Any], environment: Mapping[str, str]) -> RemoteJob:
    told = {key: prepared[key] for key in ("name", "command", "bucket")}
    return RemoteJob(**told, environment=environment, timeout=timedelta(hours=1))


def batch_task(worker: Worker, prepared: Mapping[str, Any], **more: str) -> BatchTrainOnceOperator:  # noqa: F811
    launcher = Batch(job_queue=batch_server.QUEUE, job_definition=batch_server.DEFINITION)
    arguments = launcher.arguments(job_of(prepared, outside(worker.endpoint, **more)))
    return BatchTrainOnceOperator(task_id="run", poll_interval=1, **arguments)


def jobs(batch: Any) -> list[dict[str, Any]]:
    named = batch.list_jobs(jobQueue=batch_server.QUEUE, filters=[{"name": "JOB_NAME", "values": ["late-*"]}])
    return batch.describe_jobs(jobs=[job["jobId"] for job in named["jobSummaryList"]])["jobs"]


def wait_for_checkpoint(client: Any, prepared: Mapping[str, Any]) -> None:  # noqa: F811
    deadline = time.monotonic() + 180
    while not keys(client, f"mlops/checkpoints/{prepared['job']}/"):
        assert time.monotonic() < deadline
        time.sleep(0.5)


def broken(worker: Worker) -> dict[str, Any]:  # noqa: F811
    """Prepare a training whose code fails."""
    code = "def fails(data, spec, report):\n    raise ValueError('no such column')\n"
    (worker.dags / "broken_code.py").write_text(code)
    return worker.prepare(entrypoint="", fit="broken_code:fails")


def test_a_training_of_batch(batch, worker, client):  # noqa: F811
    prepared = worker.prepare()
    task = batch_task(worker, prepared)
    said = Said(task)
    run(task)
    assert f"Trained: {prepared['job']}" in said.text
    assert worker.collect(prepared)["epochs"] > 1
    [job] = jobs(batch)
    assert (job["status"], job["container"]["exitCode"]) == ("SUCCEEDED", 0)


def test_a_job_of_batch_that_somebody_stops_a_user_stops_and_a_worker_loses(batch, worker, client):  # noqa: F811
    """Four tries, of which each goes on where the one before was; at no moment are there two jobs."""
    prepared = worker.prepare(epochs=12)
    deferred = submit(batch_task(worker, prepared, SLOW="3"))
    wait_for_checkpoint(client, prepared)
    batch.terminate_job(jobId=jobs(batch)[0]["jobId"], reason="too dear")
    task = batch_task(worker, prepared)
    said = Said(task)
    with pytest.raises(TransientError, match=r"ended by somebody(.|\n)*too dear"):
        wait(task, deferred)
    assert "Asked to end, and ended" in said.text

    kill(submit(batch_task(worker, prepared, SLOW="3")))  # cleared as it waits

    lost = f"""
import os, signal
from types import SimpleNamespace
from tests.containers.test_batch_jobs import batch_task
from tests.aws_jobs import context
doomed = batch_task(SimpleNamespace(endpoint={worker.endpoint!r}), {dict(prepared)!r}, SLOW="3")
submit = doomed.submit
doomed.submit = lambda given: submit(given) and os.kill(os.getpid(), signal.SIGKILL)
doomed.execute(context())
"""
    done = subprocess.run([sys.executable, "-c", lost], timeout=300, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [job["status"] for job in jobs(batch)].count("FAILED") == 2
    submitted = len(jobs(batch))
    task = batch_task(worker, prepared)
    said = Said(task)
    run(task)
    assert len(jobs(batch)) == submitted == 3
    assert "Going on from a checkpoint" in said.text
    assert worker.collect(prepared)["epochs"] > 1


def test_an_error_of_the_user_in_a_job_of_batch(batch, worker, client):  # noqa: F811
    failing = broken(worker)
    with pytest.raises(AirflowFailException, match="exit code 1"):
        task = batch_task(worker, failing)
        said = Said(task)
        run(task)
    assert "no such column" in said.text
    with pytest.raises(AirflowFailException, match="no such column"):
        worker.collect(failing)


@pytest.fixture
def sagemaker(image: str, worker: Worker, endpoint: str, monkeypatch: Any) -> Iterator[Any]:  # noqa: F811
    """A SageMaker whose jobs run in containers of this machine."""

    def command(request: Mapping[str, Any], folder: Path) -> list[str]:
        said = request["AlgorithmSpecification"]
        program, *arguments = said["ContainerEntrypoint"]
        given = [f"--env={name}={value}" for name, value in request["Environment"].items()]
        mounted = [f"--volume={folder}:/opt/ml", "--network=host", "--rm", f"--entrypoint={program}"]
        return [engine(), "run", *given, *mounted, said["TrainingImage"], *arguments]

    with sagemaker_server(command, endpoint) as server:
        monkeypatch.setenv("AIRFLOW_CONN_AWS_JOBS", aws_connection(server.url))
        server.image = image
        yield server


def sagemaker_task(server: Any, worker: Worker, prepared: Mapping[str, Any], **more: str) -> SageMakerTrainOnceOperator:  # noqa: F811
    launcher = SageMaker(image=server.image, role=ROLE, instance_type="ml.m5.xlarge", conn_id="aws_jobs")
    arguments = launcher.arguments(job_of(prepared, outside(worker.endpoint, **more)))
    return SageMakerTrainOnceOperator(task_id="run", check_interval=1, **arguments)


def test_a_training_of_sagemaker_that_is_stopped_and_goes_on(sagemaker, worker, client):  # noqa: F811
    prepared = worker.prepare(epochs=8)
    deferred = submit(sagemaker_task(sagemaker, worker, prepared, SLOW="3"))
    wait_for_checkpoint(client, prepared)
    sagemaker.answer("StopTrainingJob", {"TrainingJobName": f"{prepared['name']}-1"})
    task = sagemaker_task(sagemaker, worker, prepared)
    said = Said(task)
    with pytest.raises(TransientError, match="stopped by somebody"):
        wait(task, deferred)
    assert sagemaker.wait(f"{prepared['name']}-1") == 143
    assert "Asked to end, and ended" in said.text
    task = sagemaker_task(sagemaker, worker, prepared)
    said = Said(task)
    result = run(task)
    assert result["job"] == f"{prepared['name']}-2"
    assert result["billable_seconds"] > 1
    assert "Going on from a checkpoint" in said.text
    assert worker.collect(prepared)["epochs"] > 1


def test_an_error_of_the_user_in_a_job_of_sagemaker(sagemaker, worker, client):  # noqa: F811
    """SageMaker says it itself, from the file that the container leaves."""
    failing = broken(worker)
    with pytest.raises(AirflowFailException, match="no such column"):
        run(sagemaker_task(sagemaker, worker, failing))
    assert (
        "no such column"
        in sagemaker.answer("DescribeTrainingJob", {"TrainingJobName": f"{failing['name']}-1"})[1]["FailureReason"]
    )
