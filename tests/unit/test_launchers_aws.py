"""What SageMaker and AWS Batch are asked for, against the service models that botocore brings."""

from __future__ import annotations

import json
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import botocore.session
import pytest
from airflow.sdk import DAG

from airflow_mlops import GPU, Batch, Kubernetes, SageMaker, Trainer
from airflow_mlops.engine.training.failure_file import say_failure
from airflow_mlops.exceptions import ConfigError
from airflow_mlops.operators.tensorflow_launch import training_tasks
from tests.aws_jobs import ROLE, aws_connection, context
from tests.conftest import ROOT
from tests.sagemaker_server import problems

HOME = "s3://aws_default@lake/mlops"
COMMAND = ["python", "-m", "airflow_mlops.engine.training.remote", HOME, "0123456789abcdef"]
PREPARED = {
    "name": "rides-0123456789abcdef",
    "command": COMMAND,
    "bucket": "s3://lake/mlops",
    "job": "0123456789abcdef",
}


@pytest.fixture(autouse=True)
def _home(monkeypatch):
    monkeypatch.setenv("AIRFLOW__MLOPS__HOME", HOME)


def run_task(launcher: Any, **arguments: Any) -> Any:
    """Return the task that submits, with what the one before it returned in place of its templates."""
    with DAG("rides.train", schedule=None) as dag:
        training_tasks(launcher=launcher, model="rides", entrypoint="code:build", snapshot="s", **arguments)
    task = dag.get_task("train.run")
    assert {one.task_id for one in dag.tasks} == {"train.prepare", "train.run", "train.collect"}
    assert task.upstream_task_ids == {"train.prepare"}

    def pulled(task_ids: str, key: str, **_: Any) -> Any:
        assert task_ids == "train.prepare"
        return PREPARED[key]

    ti = SimpleNamespace(xcom_pull=pulled)
    task.render_template_fields({"ti": ti, "task_instance": ti, "task": task})
    return task


def training_job(launcher: SageMaker, **arguments: Any) -> dict[str, Any]:
    """Return what SageMaker is asked for, which its model finds nothing wrong with."""
    task = run_task(launcher, **arguments)
    asked: list[dict[str, Any]] = []
    task.hook.create_training_job = lambda config, **_: asked.append(config)
    task._number = 1
    assert task.submit(context()) == asked[0]["TrainingJobName"]
    assert problems("sagemaker", "CreateTrainingJob", asked[0]) == ""
    return asked[0]


def batch_job(launcher: Batch, monkeypatch: pytest.MonkeyPatch, **arguments: Any) -> dict[str, Any]:
    """Return what AWS Batch is asked for, which its model finds nothing wrong with."""
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", aws_connection("http://127.0.0.1:9"))
    task = run_task(launcher, **arguments)
    asked: list[dict[str, Any]] = []

    def answer(params: dict[str, Any], **_: Any) -> Any:
        asked.append(json.loads(params["body"]))
        return SimpleNamespace(status_code=200, headers={}), {"jobId": "1", "jobName": "x"}

    task.hook.get_conn().meta.events.register("before-call.batch.SubmitJob", answer)
    task.submit_job(context())
    assert problems("batch", "SubmitJob", asked[0]) == ""
    return asked[0]


def test_a_training_job_of_sagemaker():
    launcher = SageMaker(
        image="111.dkr.ecr.eu-west-1.amazonaws.com/train:1",
        role=ROLE,
        instance_type="ml.g5.xlarge",
        environment={"LEVEL": "1"},
        request={
            "EnableManagedSpotTraining": True,
            "StoppingCondition": {"MaxWaitTimeInSeconds": 90_000, "MaxRuntimeInSeconds": 1},
            "VpcConfig": {"SecurityGroupIds": ["sg-1"], "Subnets": ["subnet-1"]},
        },
    )
    asked = training_job(launcher, resources=GPU(1), timeout=3600)
    assert asked == {
        "TrainingJobName": "rides-0123456789abcdef-1",
        "AlgorithmSpecification": {
            "TrainingImage": "111.dkr.ecr.eu-west-1.amazonaws.com/train:1",
            "TrainingInputMode": "File",
            "ContainerEntrypoint": COMMAND,
        },
        "RoleArn": ROLE,
        "OutputDataConfig": {"S3OutputPath": "s3://lake/mlops/sagemaker"},
        "ResourceConfig": {"InstanceType": "ml.g5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30},
        "StoppingCondition": {"MaxRuntimeInSeconds": 4200, "MaxWaitTimeInSeconds": 90_000},
        "Environment": {"LEVEL": "1"},
        "EnableManagedSpotTraining": True,
        "VpcConfig": {"SecurityGroupIds": ["sg-1"], "Subnets": ["subnet-1"]},
    }


def test_the_longest_name_still_ends_as_the_training_is_called(monkeypatch):
    monkeypatch.setitem(PREPARED, "name", f"{'m' * 46}-0123456789abcdef")
    name = training_job(SageMaker(image="train", role=ROLE, instance_type="ml.m5.xlarge"))["TrainingJobName"]
    assert len(name) == 63
    assert name.endswith("m-0123456789abcdef-1")


def test_a_job_of_batch(monkeypatch):
    launcher = Batch(
        job_queue="trainings",
        job_definition="train:3",
        cpu=4,
        memory=16_384,
        share_identifier="ml",
        environment={"LEVEL": "1"},
    )
    assert batch_job(launcher, monkeypatch, resources=GPU(2), timeout=3600) == {
        "jobName": "rides-0123456789abcdef",
        "jobQueue": "trainings",
        "jobDefinition": "train:3",
        "shareIdentifier": "ml",
        "parameters": {},
        "tags": {},
        "containerOverrides": {
            "command": COMMAND,
            "environment": [{"name": "LEVEL", "value": "1"}],
            "resourceRequirements": [
                {"type": "GPU", "value": "2"},
                {"type": "VCPU", "value": "4"},
                {"type": "MEMORY", "value": "16384"},
            ],
        },
        "timeout": {"attemptDurationSeconds": 4200},
    }


def test_the_word_alone_means_what_is_configured(monkeypatch):
    with pytest.raises(ConfigError, match=r"Batch\(\) has no job_queue") as error:
        run_task("batch")
    assert "AIRFLOW__MLOPS__BATCH_JOB_QUEUE" in error.value.hint
    for name, value in (
        ("TRAIN_IMAGE", "train:1"),
        ("SAGEMAKER_ROLE", ROLE),
        ("SAGEMAKER_INSTANCE_TYPE", "ml.m5.xlarge"),
        ("BATCH_JOB_QUEUE", "trainings"),
        ("BATCH_JOB_DEFINITION", "train"),
    ):
        monkeypatch.setenv(f"AIRFLOW__MLOPS__{name}", value)
    assert run_task("sagemaker").config["RoleArn"] == ROLE
    assert run_task("batch").job_queue == "trainings"


def test_the_wait_for_a_machine_has_an_end():
    task = run_task(Batch(job_queue="q", job_definition="d", starts_within="30m"), timeout=3600)
    assert task.execution_timeout == timedelta(hours=1, minutes=50)


def test_what_cannot_be_is_refused_where_it_is_written():
    with pytest.raises(ConfigError, match="not a machine of SageMaker"):
        SageMaker(instance_type="g5.xlarge")
    with pytest.raises(ConfigError, match=r"takes 1 GPU\(s\), and ml.m5.xlarge has none"):
        run_task(SageMaker(image="i", role=ROLE, instance_type="ml.m5.xlarge"), resources=GPU(1))
    with pytest.raises(ConfigError, match="image of its job definition"):
        Batch(image="train:1")
    with pytest.raises(ConfigError, match="Did you mean 'sagemaker'"):
        Trainer("code:build", window="60d", launcher="sagemakr")
    with pytest.raises(ConfigError, match="Did you mean 'job_queue'") as error:
        Batch(job_queu="trainings")
    assert "operator" not in error.value.hint


def test_the_price_is_that_of_its_machine():
    with DAG("rides.train", schedule=None) as dag:
        launcher = SageMaker(image="i", role=ROLE, instance_type="ml.m5.xlarge", price_per_hour=0.23)
        training_tasks(launcher=launcher, model="rides", entrypoint="code:build", snapshot="s")
    assert dag.get_task("train.prepare").price_per_hour == 0.23


def test_another_image_or_definition_is_another_training():
    assert Batch(job_definition="train:3").trains_in == "job definition train:3"
    assert SageMaker(image="train:1").trains_in == Kubernetes(image="train:1").trains_in == "train:1"


def test_sagemaker_is_told_why_a_training_failed(tmp_path):
    say_failure("KeyError", tmp_path / "nowhere")
    say_failure("KeyError: no column rain" + " " * 2000, tmp_path)
    assert (tmp_path / "failure").read_text() == "KeyError: no column rain".ljust(800)
    assert [file.name for file in tmp_path.iterdir()] == ["failure"]


def of_the_guide(key: str) -> list[dict[str, Any]]:
    text = (ROOT / "docs" / "training" / "aws-permissions.md").read_text()
    blocks = [json.loads(block.partition("```")[0]) for block in text.split("```json")[1:]]
    return [block for block in blocks if key in block]


def test_the_job_definition_of_the_guide():
    [definition] = of_the_guide("jobDefinitionName")
    assert problems("batch", "RegisterJobDefinition", definition) == ""


def test_the_permissions_of_the_guide_are_of_operations_that_there_are():
    [policy], more = of_the_guide("Statement"), of_the_guide("Action")
    actions = [action for one in (*policy["Statement"], *more) for action in one["Action"]]
    for service, _, operation in (action.partition(":") for action in actions):
        known = botocore.session.get_session().get_service_model(service).operation_names
        assert operation in {*known, "PassRole", "ListBucket"}


def test_the_model_would_notice():
    asked = {"jobName": "a b", "jobQueue": "q", "jobDefinition": "d", "timeout": {"attemptDurationSeconds": "long"}}
    assert "attemptDurationSeconds" in problems("batch", "SubmitJob", asked)
    assert problems("batch", "RegisterJobDefinition", {"jobDefinitionName": "d", "type": "containr"})
