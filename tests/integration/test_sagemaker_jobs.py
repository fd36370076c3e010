"""Training jobs of a small SageMaker that runs them: submitted once, ended, failed, in words."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import requests
from airflow.sdk.exceptions import AirflowFailException

from airflow_mlops import SageMaker
from airflow_mlops.amazon import one_job
from airflow_mlops.amazon.sagemaker import SageMakerTrainOnceOperator
from airflow_mlops.exceptions import TransientError
from airflow_mlops.launchers import RemoteJob
from tests.aws_jobs import ROLE, Said, aws_connection, context, kill, run, submit, wait
from tests.integration.test_remote_training import wait_until, worker  # noqa: F401  fixture
from tests.integration.test_s3_partitions import client, connection, endpoint, keys  # noqa: F401  fixtures
from tests.sagemaker_server import problems, sagemaker_server

NAME = "rides-0123456789abcdef"
LASTS = "import time; print('epoch 1', flush=True); time.sleep(60)"


def config(code: str) -> dict:
    return {
        "TrainingJobName": NAME,
        "AlgorithmSpecification": {
            "TrainingImage": "train",
            "TrainingInputMode": "File",
            "ContainerEntrypoint": ["python", "-c"],
            "ContainerArguments": [code],
        },
        "RoleArn": ROLE,
        "OutputDataConfig": {"S3OutputPath": "s3://lake/sagemaker"},
        "ResourceConfig": {"InstanceType": "ml.m5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30},
        "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
    }


@pytest.fixture
def sagemaker(endpoint, monkeypatch):  # noqa: F811
    requests.post(f"{endpoint}/moto-api/reset", timeout=10)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")

    def command(request, folder):
        said = request["AlgorithmSpecification"]
        failure = f"FAILURE = {str(folder / 'output' / 'failure')!r}\n"
        return [sys.executable, "-c", failure + said["ContainerArguments"][0]]

    monkeypatch.setattr(one_job, "_LOOK_AGAIN", 0.2)
    with sagemaker_server(command, endpoint) as server:
        monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", aws_connection(server.url))
        yield server


def operator(code: str = "print('epoch 1')", **more) -> SageMakerTrainOnceOperator:
    return SageMakerTrainOnceOperator(
        task_id="run", config=config(code), check_interval=1, execution_timeout=timedelta(hours=1), **more
    )


def test_a_job_is_waited_for_without_a_worker_and_its_log_is_shown(sagemaker):
    deferred = submit(operator("import time; time.sleep(2); print('epoch 1')"))
    assert deferred.timeout == timedelta(hours=1)
    waiting = operator()
    said = Said(waiting)
    result = wait(waiting, deferred)
    assert result["job"] == f"{NAME}-1"
    assert result["instance_type"] == "ml.m5.xlarge"
    assert result["billable_seconds"] >= 1
    assert "epoch 1" in said.text


def test_a_worker_that_is_lost_between_submit_and_wait_submits_no_second_job(sagemaker):
    """The provider's own operator would take another name and train twice."""
    lost = textwrap.dedent(
        """
        import os, signal
        from tests.integration.test_sagemaker_jobs import LASTS, operator
        from tests.aws_jobs import context
        doomed = operator(LASTS)
        doomed.look = lambda job_id: os.kill(os.getpid(), signal.SIGKILL)
        doomed.find = lambda: setattr(doomed, "_number", 1)
        doomed.execute(context())
        """
    )
    done = subprocess.run([sys.executable, "-c", lost], timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    assert list(sagemaker.jobs) == [f"{NAME}-1"]

    deferred = submit(operator(LASTS))
    assert deferred.trigger.job_name == f"{NAME}-1"
    assert list(sagemaker.jobs) == [f"{NAME}-1"]


def test_what_one_run_has_done_it_does_not_do_again_but_another_run_does(sagemaker):
    assert run(operator())["job"] == f"{NAME}-1"
    assert operator().execute(context())["job"] == f"{NAME}-1"
    run(operator(), context(began=datetime.now(UTC) + timedelta(minutes=1)))
    assert list(sagemaker.jobs) == [f"{NAME}-1", f"{NAME}-2"]


def test_two_workers_at_the_same_moment_submit_one_job(sagemaker):
    late = operator(LASTS)
    late.find()
    submit(operator(LASTS))
    late.find = lambda: None
    assert submit(late).trigger.job_name == f"{NAME}-1"
    assert list(sagemaker.jobs) == [f"{NAME}-1"]


def test_a_job_that_somebody_stopped_is_tried_again(sagemaker):
    deferred = submit(operator(LASTS))
    sagemaker.answer("StopTrainingJob", {"TrainingJobName": f"{NAME}-1"})
    with pytest.raises(TransientError, match="stopped by somebody") as error:
        wait(operator(), deferred)
    assert "goes on from the last checkpoint" in error.value.hint
    assert submit(operator(LASTS)).trigger.job_name == f"{NAME}-2"


@pytest.mark.parametrize("where", ["waiting", "in the worker"])
def test_a_user_who_ends_the_task_ends_the_job_and_a_cleared_one_waits_for_that(sagemaker, where):
    saves = "import signal, sys, time; signal.signal(15, lambda *_: (time.sleep(1), sys.exit(143))); time.sleep(60)"
    first = operator(saves)
    deferred = submit(first)
    time.sleep(0.5)
    kill(deferred) if where == "waiting" else first.on_kill()
    assert submit(operator(LASTS)).trigger.job_name == f"{NAME}-2"
    assert sagemaker.wait(f"{NAME}-1") == 143


def test_the_users_error_is_in_words_and_not_tried_again(sagemaker):
    code = "import pathlib; pathlib.Path(FAILURE).write_text('KeyError: no column rain'); raise SystemExit(1)"
    with pytest.raises(AirflowFailException, match="KeyError: no column rain"):
        run(operator(code))
    assert run(operator())["job"] == f"{NAME}-2"  # whoever clears it has mended something


def test_lack_of_memory_is_tried_again(sagemaker):
    with pytest.raises(TransientError, match="lack of memory"):
        run(operator("import os; os._exit(137)"))


def test_credentials_that_expire_in_the_middle(sagemaker):
    deferred = submit(operator(LASTS))
    sagemaker.fault = lambda operation: ("ExpiredTokenException", "The security token included is expired")
    with pytest.raises(TransientError, match="credentials for AWS have expired") as error:
        wait(operator(), deferred)
    assert "role_arn" in error.value.hint
    sagemaker.fault = lambda operation: None
    assert submit(operator()).trigger.job_name == f"{NAME}-1"


def test_what_the_role_may_not_do_is_named(sagemaker):
    def denied(operation):
        text = "User: x is not authorized to perform: sagemaker:CreateTrainingJob"
        return ("AccessDeniedException", text) if operation == "CreateTrainingJob" else None

    sagemaker.fault = denied
    with pytest.raises(AirflowFailException, match=r"does not allow CreateTrainingJob"):
        run(operator())


def test_a_log_that_may_not_be_read_fails_nothing(sagemaker):
    def denied(operation):
        return ("AccessDeniedException", "not yours") if operation == "DescribeLogStreams" else None

    sagemaker.fault = denied
    done = operator()
    said = Said(done)
    assert run(done)["job"] == f"{NAME}-1"
    assert "cannot be shown" in said.text


def test_a_request_that_sagemaker_refuses_is_not_tried_again(sagemaker):
    wrong = operator()
    wrong.config["ResourceConfig"]["InstanceType"] = "ml.unheard.large"
    with pytest.raises(AirflowFailException, match="unheard"):
        run(wrong)


def test_a_job_that_never_begins_is_ended_in_words(sagemaker):
    deferred = submit(operator(LASTS))
    with pytest.raises(TransientError, match=r"did not end within 1:00:00") as error:
        operator().resume_execution("__fail__", {"error": "Trigger timeout"}, context())
    assert "Training" in error.value.detail
    assert sagemaker.wait(f"{NAME}-1") == -signal.SIGTERM
    assert deferred.trigger.job_name == f"{NAME}-1"


def test_the_small_sagemaker_minds_names_and_types_as_the_real_one():
    good = config("pass")
    assert problems("sagemaker", "CreateTrainingJob", good) == ""
    assert "rides_1" in problems("sagemaker", "CreateTrainingJob", good | {"TrainingJobName": "rides_1"})
    assert "RoleArn" in problems("sagemaker", "CreateTrainingJob", {**good, "RoleArn": "train"})


def test_a_machine_without_an_answer(monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", aws_connection("http://127.0.0.1:9"))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(TransientError, match="SageMaker does not answer"):
        run(operator())


def test_a_training_goes_through_sagemaker_and_back(worker, client, endpoint, monkeypatch):  # noqa: F811
    """The job is the image's own command, as a process that has no Airflow and nothing of the worker but the bucket."""
    monkeypatch.setattr(one_job, "_LOOK_AGAIN", 0.2)
    launcher = SageMaker(image="train:1", role=ROLE, instance_type="ml.m5.xlarge")

    def command(request, folder):
        _python, *arguments = request["AlgorithmSpecification"]["ContainerEntrypoint"]
        environment = worker.environment(**request["Environment"])
        return ["env", "-i", *(f"{name}={value}" for name, value in environment.items()), sys.executable, *arguments]

    def trained(prepared, **more):
        job = RemoteJob(
            **{key: prepared[key] for key in ("name", "command", "bucket")}, timeout=timedelta(hours=1), **more
        )
        return SageMakerTrainOnceOperator(task_id="run", check_interval=1, **launcher.arguments(job))

    with sagemaker_server(command, endpoint) as server:
        monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", aws_connection(endpoint))
        prepared = worker.prepare()
        assert prepared["bucket"] == "s3://lake/mlops"
        monkeypatch.setenv("AIRFLOW_CONN_AWS_JOBS", aws_connection(server.url))
        launcher = replace(launcher, conn_id="aws_jobs")
        deferred = submit(trained(prepared, environment={"SLOW": "3"}))
        [name] = server.jobs
        wait_until(lambda: keys(client, f"mlops/checkpoints/{prepared['job']}/"), server.jobs[name].process)
        kill(deferred)
        run(trained(prepared))
        assert server.wait(name) == 143
        assert list(server.jobs) == [name, name.removesuffix("1") + "2"]
        assert worker.collect(prepared)["epochs"] > 1
