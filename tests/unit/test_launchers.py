"""Where a training runs: what is refused, what a cluster is told, and which tasks a DAG gets."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from typing import Any

import kubernetes_validate
import pytest
from airflow.sdk import DAG, TriggerRule
from kubernetes.client import ApiClient

from airflow_mlops import GPU, Kubernetes, Resources, Trainer
from airflow_mlops.exceptions import ConfigError
from airflow_mlops.launchers import Local, RemoteJob, launcher_of
from airflow_mlops.operators.tensorflow import TensorFlowTrainOperator
from airflow_mlops.operators.tensorflow_launch import TensorFlowPrepareTrainingOperator, training_tasks

HOME = "s3://aws_default@lake/mlops"
COMMAND = ["python", "-m", "airflow_mlops.engine.training.remote", HOME, "0123456789abcdef"]


@pytest.fixture(autouse=True)
def configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__MLOPS__HOME", HOME)
    monkeypatch.setenv("AIRFLOW__MLOPS__TRAIN_IMAGE", "train:1")


def tasks(**arguments: Any) -> DAG:
    with DAG("late.train", schedule=None) as dag:
        training_tasks(**{"model": "late", "snapshot": "s1", "entrypoint": "code:build", **arguments})
    return dag


def manifest(launcher: Kubernetes, gpus: int = 0) -> dict[str, Any]:
    """Return the pod that the provider's operator would ask for, as Kubernetes gets it."""
    from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator

    job = RemoteJob("late-0123456789abcdef", COMMAND, launcher.environment, gpus)
    operator = KubernetesPodOperator(task_id="run", **{"namespace": "ml", **launcher.arguments(job)})
    pod = ApiClient().sanitize_for_serialization(operator.build_pod_request_obj(dry_run=True))
    kubernetes_validate.validate(pod, "1.32", strict=True)
    return pod


def test_a_word_or_a_part_says_where_and_a_wrong_word_is_refused():
    assert launcher_of("local") == Local()
    assert launcher_of("kubernetes") == Kubernetes()
    mine = Kubernetes(image="mine:2")
    assert launcher_of(mine) is mine
    assert Trainer("code:build", window="60d", launcher=mine).launcher is mine
    with pytest.raises(ConfigError, match=r"no launcher 'kubernets'\. Did you mean 'kubernetes'"):
        Trainer("code:build", window="60d", launcher="kubernets")
    with pytest.raises(ConfigError, match="Did you mean 'memory'"):
        Kubernetes(memery="1Gi")
    with pytest.raises(ConfigError, match="first container"):
        Kubernetes(pod={"spec": {"containers": [{"name": "mine"}]}})


@pytest.mark.parametrize(
    "silly", [{"cpu": "0"}, {"cpu": "four"}, {"memory": "16GB"}, {"memory": "512m"}, {"memory": "0Gi"}], ids=str
)
def test_what_no_pod_can_ask_for_is_refused(silly: dict[str, str]):
    with pytest.raises(ConfigError, match="no quantity that a pod can ask for"):
        Kubernetes(**silly)


@pytest.mark.parametrize("fine", [{"cpu": "500m"}, {"cpu": "0.5"}, {"memory": "1.5Gi"}, {"memory": "512M"}], ids=str)
def test_quantities_as_kubernetes_has_them(fine: dict[str, str]):
    assert Kubernetes(**fine)


def test_a_pod_as_kubernetes_wants_it():
    launcher = Kubernetes(
        image="train:1",
        namespace="ml",
        environment={"AWS_ENDPOINT_URL": "http://storage:9000"},
        cpu="2",
        memory="8Gi",
        node_selector={"gpu": "a100"},
        tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        service_account_name="trainer",
        secrets=["bucket"],
        labels={"team": "flights"},
        image_pull_policy="IfNotPresent",
        saves_within="2m",
        pod={
            "spec": {
                "priorityClassName": "low",
                "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory"}}],
                "containers": [{"name": "base", "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}]}],
            }
        },
    )
    pod = manifest(launcher, gpus=2)
    metadata, spec = pod["metadata"], pod["spec"]
    assert (metadata["name"], metadata["namespace"]) == ("late-0123456789abcdef", "ml")
    assert metadata["labels"]["team"] == "flights"
    assert spec["restartPolicy"] == "Never"
    assert spec["nodeSelector"] == {"gpu": "a100"}
    assert spec["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert spec["terminationGracePeriodSeconds"] == 120
    assert spec["priorityClassName"] == "low"
    assert spec["serviceAccountName"] == "trainer"
    [container] = spec["containers"]
    assert container["image"] == "train:1"
    assert container["imagePullPolicy"] == "IfNotPresent"
    assert container["command"] == COMMAND
    assert container["resources"] == {
        "limits": {"nvidia.com/gpu": "2", "memory": "8Gi"},
        "requests": {"cpu": "2", "memory": "8Gi"},
    }
    assert container["env"] == [{"name": "AWS_ENDPOINT_URL", "value": "http://storage:9000"}]
    assert container["envFrom"] == [{"secretRef": {"name": "bucket"}}]
    assert container["volumeMounts"] == [{"name": "shm", "mountPath": "/dev/shm"}]


def test_a_pod_that_says_nothing_asks_for_nothing():
    [container] = manifest(Kubernetes(image="train:1"))["spec"]["containers"]
    assert container["resources"] == {"limits": {}, "requests": {}}
    assert "envFrom" not in container or container["envFrom"] == []


def test_elsewhere_it_is_three_tasks_and_none_of_them_is_on_a_gpu_worker():
    dag = tasks(launcher=Kubernetes(image="mine:2"), resources=GPU(2, retries=5), timeout=3600)
    assert dag.task_ids == ["train.prepare", "train.run", "train.collect"]
    prepare, run, collect = dag.tasks
    assert run.upstream_task_ids == {"train.prepare"}
    assert collect.upstream_task_ids == {"train.prepare", "train.run"}
    assert {task.queue for task in dag.tasks} == {"default"}
    assert {task.pool for task in dag.tasks} == {"default_pool"}
    assert prepare.image == run.image == "mine:2"
    assert run.container_resources == {"limits": {"nvidia.com/gpu": "2"}, "requests": {}}
    assert run.deferrable
    assert run.reattach_on_restart
    assert not run.random_name_suffix
    assert run.retry_policy.retries == 5
    assert run.execution_timeout > timedelta(hours=2)
    assert collect.trigger_rule == TriggerRule.ALL_DONE_MIN_ONE_SUCCESS


@pytest.mark.parametrize("launcher", ["local", "kubernetes"])
def test_gpus_may_be_said_as_the_operator_has_them(launcher: str):
    same = [tasks(launcher=launcher, **said).tasks for said in ({"gpu": GPU(2)}, {"resources": GPU(2)})]
    one, other = ([(task.task_id, task.pool_slots, getattr(task, "gpu", None)) for task in made] for made in same)
    assert one == other


def test_other_resources_are_of_the_three_tasks():
    dag = tasks(launcher="kubernetes", resources=Resources(queue="cpu", pool="small"))
    assert {(task.queue, task.pool) for task in dag.tasks} == {("cpu", "small")}
    assert dag.get_task("train.run").image == "train:1"


def test_on_the_worker_it_is_the_one_task_as_ever():
    [task] = tasks(resources=GPU(1), timeout=60).tasks
    assert isinstance(task, TensorFlowTrainOperator)
    assert (task.task_id, task.queue, task.pool_slots, task.gpu) == ("train", "gpu", 1, GPU(1))
    assert task.execution_timeout == timedelta(minutes=6)


def test_what_cannot_run_elsewhere_is_refused_when_the_dag_is_read(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ConfigError, match="'/srv/mlops'"):
        tasks(launcher="kubernetes", home="/srv/mlops")
    monkeypatch.delenv("AIRFLOW__MLOPS__TRAIN_IMAGE")
    with pytest.raises(ConfigError, match="has no image"):
        tasks(launcher="kubernetes")
    monkeypatch.setenv("AIRFLOW__MLOPS__HOME", "/srv/mlops")
    with pytest.raises(ConfigError, match="one machine"):
        tasks(launcher=Kubernetes(image="train:1"))


def test_a_provider_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "airflow.providers.cncf.kubernetes.operators.pod", None)
    with pytest.raises(ConfigError, match=r"airflow-mlops\[kubernetes\]"):
        tasks(launcher="kubernetes")


def test_the_task_that_prepares_takes_no_gpu_even_if_it_is_told_of_one():
    with DAG("d", schedule=None):
        task = TensorFlowPrepareTrainingOperator(task_id="t", model="m", image="train:1", gpu=GPU(1))
    assert (task.queue, task.pool) == ("default", "default_pool")


def test_a_dag_that_trains_on_the_worker_loads_no_client_of_a_cluster():
    code = (
        "import sys; from airflow.sdk import DAG\n"
        "from airflow_mlops.operators.tensorflow_launch import training_tasks\n"
        "with DAG('d', schedule=None): training_tasks(model='m', snapshot='s', entrypoint='a:b')\n"
        "assert not [m for m in sys.modules if m.split('.')[0] in ('kubernetes', 'kubernetes_asyncio', 'boto3')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_launchers_know_nothing_of_airflow():
    code = (
        "import sys; from airflow_mlops.launchers import Kubernetes, RemoteJob\n"
        "Kubernetes(image='x').arguments(RemoteJob('n', ['a'], {}, 1)); assert 'airflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
