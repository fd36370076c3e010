"""Jobs of AWS Batch: submitted once, ended, failed, in words."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from datetime import UTC, datetime, timedelta

import pytest
import requests
from airflow.sdk.exceptions import AirflowFailException
from botocore.stub import Stubber

from airflow_mlops.amazon import one_job
from airflow_mlops.amazon.batch import BatchTrainOnceOperator
from airflow_mlops.exceptions import TransientError
from tests import batch_server
from tests.aws_jobs import Said, aws_connection, context, kill, run, submit, wait
from tests.batch_server import DEFINITION, QUEUE
from tests.integration.test_s3_partitions import endpoint  # noqa: F401  fixture

NAME = "rides-0123456789abcdef"
LASTS = "import time; print('epoch 1', flush=True); time.sleep(60)"
SMALL = {
    "jobDefinitionName": DEFINITION,
    "type": "container",
    "containerProperties": {"image": "train", "vcpus": 1, "memory": 2048, "command": ["python"]},
}


@pytest.fixture
def batch(endpoint, monkeypatch):  # noqa: F811
    requests.post(f"{endpoint}/moto-api/reset", timeout=10)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", aws_connection(endpoint))
    monkeypatch.setattr(one_job, "_LOOK_AGAIN", 0.2)
    batch_server.mend(monkeypatch)
    client = batch_server.prepare(endpoint, SMALL)
    yield client
    for job in client.list_jobs(jobQueue=QUEUE, jobStatus="RUNNING")["jobSummaryList"]:
        client.terminate_job(jobId=job["jobId"], reason="the test is over")


def jobs(client) -> list[str]:
    named = [{"name": "JOB_NAME", "values": [NAME]}]
    return [job["jobId"] for job in client.list_jobs(jobQueue=QUEUE, filters=named)["jobSummaryList"]]


def operator(code: str = "print('epoch 1')", **more) -> BatchTrainOnceOperator:
    arguments = {"job_name": NAME, "job_queue": QUEUE, "job_definition": DEFINITION} | more
    return BatchTrainOnceOperator(
        task_id="run",
        container_overrides={"command": ["python", "-c", code]},
        poll_interval=1,
        execution_timeout=timedelta(hours=1),
        **arguments,
    )


def test_a_job_is_waited_for_without_a_worker_and_its_log_is_shown(batch):
    deferred = submit(operator("import time; time.sleep(2); print('epoch 1')"))
    assert deferred.timeout == timedelta(hours=1)
    waiting = operator()
    said = Said(waiting)
    result = wait(waiting, deferred)
    assert [result["job"]] == jobs(batch)
    assert result["seconds"] >= 2
    assert "epoch 1" in said.text


def test_a_worker_that_is_lost_between_submit_and_wait_submits_no_second_job(batch):
    """The provider's own operator would submit again, and train twice."""
    lost = textwrap.dedent(
        """
        import os, signal
        from tests.integration.test_batch_jobs import LASTS, operator
        from tests.aws_jobs import context
        doomed = operator(LASTS)
        doomed.look = lambda job_id: os.kill(os.getpid(), signal.SIGKILL)
        doomed.execute(context())
        """
    )
    done = subprocess.run([sys.executable, "-c", lost], timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    [job] = jobs(batch)
    assert submit(operator(LASTS)).trigger.serialized_fields["job_id"] == job
    assert jobs(batch) == [job]


def test_what_one_run_has_done_it_does_not_do_again_but_another_run_does(batch):
    first = run(operator())
    assert run(operator()) == first
    run(operator(), context(began=datetime.now(UTC) + timedelta(minutes=1)))
    assert len(jobs(batch)) == 2


def test_of_two_jobs_of_the_same_moment_one_stays(batch):
    first = submit(operator(LASTS))
    time.sleep(0.5)
    late = operator(LASTS)
    late.find = lambda: None
    assert submit(late).kwargs == first.kwargs
    ended = [job["jobId"] for job in batch.describe_jobs(jobs=jobs(batch))["jobs"] if job["isTerminated"]]
    assert len(ended) == 1
    assert ended != [first.kwargs["job_id"]]
    assert submit(operator(LASTS)).kwargs == first.kwargs
    assert len(jobs(batch)) == 2


def test_a_job_that_somebody_stopped_is_tried_again(batch):
    deferred = submit(operator(LASTS))
    [job] = jobs(batch)
    time.sleep(0.5)
    batch.terminate_job(jobId=job, reason="too dear")
    with pytest.raises(TransientError, match="ended by somebody") as error:
        wait(operator(), deferred)
    assert error.value.detail == "too dear"
    assert submit(operator(LASTS)).trigger.serialized_fields["job_id"] != job


@pytest.mark.parametrize("where", ["waiting", "in the worker"])
def test_a_user_who_ends_the_task_ends_the_job_and_a_cleared_one_waits_for_that(batch, where):
    saves = "import signal, sys, time; signal.signal(15, lambda *_: (time.sleep(1), sys.exit(143))); time.sleep(60)"
    first = operator(saves)
    deferred = submit(first)
    [job] = jobs(batch)
    time.sleep(0.5)
    kill(deferred) if where == "waiting" else first.on_kill()
    assert submit(operator(LASTS)).trigger.serialized_fields["job_id"] != job
    [ended] = batch.describe_jobs(jobs=[job])["jobs"]
    assert (ended["status"], ended["container"]["exitCode"]) == ("FAILED", 143)


def test_the_users_error_is_not_tried_again(batch):
    failing = operator("raise SystemExit('KeyError: no column rain')")
    said = Said(failing)
    with pytest.raises(AirflowFailException, match=r"failed\.\n.*exit code 1"):
        run(failing)
    assert "no column rain" in said.text
    run(operator())  # whoever clears it has mended something
    assert len(jobs(batch)) == 2


@pytest.mark.parametrize(("status", "words"), [(137, "lack of memory"), (75, "another time"), (143, "another time")])
def test_what_may_pass_is_tried_again(batch, status, words):
    with pytest.raises(TransientError, match=words):
        run(operator(f"import os; os._exit({status})"))
    run(operator())
    assert len(jobs(batch)) == 2


def test_credentials_that_expire_in_the_middle(batch):
    """Neither the triggerer nor the worker may look any more."""
    waiting = operator()
    with Stubber(waiting.hook.get_conn()) as stubber:
        stubber.add_client_error("describe_jobs", "ExpiredTokenException", "The security token is expired", 403)
        with pytest.raises(TransientError, match="credentials for AWS have expired"):
            waiting.execute_complete(context(), {"status": "error"}, job_id="a")


def test_a_triggerer_that_lost_sight(batch):
    deferred = submit(operator(LASTS))
    told = {"status": "error", "message": "An error occurred (ExpiredTokenException): expired"}
    for message, words in ((told["message"], "credentials for AWS have expired"), ("what?", "out of sight")):
        with pytest.raises(TransientError, match=words):
            operator().execute_complete(context(), told | {"message": message}, **deferred.kwargs)
    assert submit(operator(LASTS)).kwargs == deferred.kwargs


def test_no_region(monkeypatch):
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", '{"conn_type": "aws", "login": "test", "password": "test"}')
    with pytest.raises(AirflowFailException, match="You must specify a region"):
        run(operator())


def test_a_queue_that_is_not_there(batch):
    with pytest.raises(AirflowFailException, match=r"AWS Batch refuses(.|\n)*trainngs"):
        run(operator(job_queue="trainngs"))


def test_a_job_that_never_begins_is_ended_in_words(batch):
    submit(operator(LASTS))
    time.sleep(0.5)
    with pytest.raises(TransientError, match=r"did not end within 1:00:00"):
        operator().resume_execution("__fail__", {"error": "Trigger timeout"}, context())
    [job] = batch.describe_jobs(jobs=jobs(batch))["jobs"]
    assert job["isTerminated"]


def test_whose_machine_went_is_tried_again(batch):
    submit(operator(LASTS))
    [job] = jobs(batch)
    described = batch.describe_jobs(jobs=[job])["jobs"][0] | {"status": "FAILED"}
    for says, words in (
        ("Host EC2 (instance i-0a1b) terminated.", "was lost"),
        ("Job attempt duration exceeded timeout", "longer than it may"),
    ):
        waiting = operator()
        waiting.hook.get_job_description = lambda job_id, says=says: described | {"statusReason": says}
        assert words in waiting.failure(waiting.look(job)).headline
