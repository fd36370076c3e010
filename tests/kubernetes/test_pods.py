"""Trainings in pods of a real Kubernetes: ``make test-kubernetes``.

It is built from Debian's sources (``cluster.sh``), with a GPU that is only counted. ``TEST_KUBECONFIG`` names another
cluster, ``TRAIN_IMAGE`` the image ``train`` that it has, and ``TEST_HOST`` how its pods reach this machine.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import pytest
from airflow.sdk.io.store import _STORE_CACHE
from moto.server import ThreadedMotoServer

from airflow_mlops import GPU, Kubernetes
from airflow_mlops.engine.data import shared
from airflow_mlops.exceptions import TransientError
from airflow_mlops.launchers import RemoteJob
from tests.airflow_home import airflow_home
from tests.conftest import ROOT
from tests.containers import compose
from tests.integration.test_remote_training import HOME, Worker
from tests.integration.test_s3_partitions import keys

pytestmark = pytest.mark.kubernetes
SCRIPT = Path(__file__).with_name("cluster.sh")
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}

DAGS = """
import json, os, sys
from pathlib import Path
from airflow.sdk import DAG
from airflow_mlops import GPU, Kubernetes
from airflow_mlops.operators.tensorflow_launch import training_tasks

TOLD = json.loads(os.environ["OF_THE_POD"])

def made(dag_id, **more):
    with DAG(dag_id, schedule=None) as dag:
        training_tasks(
            launcher=Kubernetes(**{**TOLD, **more}), resources=GPU(1, or_cpu=True), model="late", snapshot="snap1",
            entrypoint="remote_code:build", epochs=1, mlflow_conn_id=None, ledger_conn_id=None,
        )
    return dag

good = made("good")
nowhere = made("nowhere", node_selector={"zone": "nowhere"}, starts_within="10s")

if __name__ == "__main__":
    run = globals()[sys.argv[1]].test()
    Path(sys.argv[2]).write_text(json.dumps({one.task_id: str(one.state) for one in run.get_task_instances()}))
"""


class Cluster(NamedTuple):
    """A cluster: its kubeconfig, the image that trains, and how its pods reach this machine."""

    kubeconfig: Path
    image: str
    host: str

    def kubectl(self, *command: str, stdin: str = "") -> str:
        done = subprocess.run(
            ["kubectl", "--kubeconfig", str(self.kubeconfig), *command],
            input=stdin, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def pod(self, name: str) -> dict[str, Any]:
        return dict(json.loads(self.kubectl("get", "pod", name, "-o", "json")))

    def wait_for(self, name: str, *phases: str, timeout: float = 180) -> dict[str, Any]:
        deadline = time.monotonic() + timeout
        while (pod := self.pod(name))["status"]["phase"] not in phases:
            assert time.monotonic() < deadline, json.dumps(pod["status"], indent=1) + self.kubectl("get", "events")
            time.sleep(0.5)
        return pod

    def wait_for_log(self, name: str, text: str, timeout: float = 180) -> str:
        deadline = time.monotonic() + timeout
        while text not in (log := self.kubectl("logs", name) if self.pod(name)["status"]["phase"] != "Pending" else ""):
            assert time.monotonic() < deadline, log
            time.sleep(0.5)
        return log


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    if given := os.environ.get("TEST_KUBECONFIG"):
        yield Cluster(Path(given), os.environ["TRAIN_IMAGE"], os.environ.get("TEST_HOST", "10.77.0.1"))
        return
    folder = ROOT / ".mlops" / "kubernetes"
    do = partial(subprocess.run, check=True, stdout=sys.stderr)
    do(["bash", str(SCRIPT), "build", str(folder)])
    compose.build(["train"], print)
    image = f"localhost/airflow-mlops/train:{compose._version()}"
    try:
        do(["bash", str(SCRIPT), "up", str(folder), image])
        yield Cluster(folder / "kubeconfig", image, "10.77.0.1")
    finally:
        do(["bash", str(SCRIPT), "down", str(folder)])


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadedMotoServer]:
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(ip_address="0.0.0.0", port=0, verbose=False)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def worker(tmp_path: Path, server: ThreadedMotoServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    endpoint = f"http://127.0.0.1:{server.get_host_and_port()[1]}"
    told = {"AIRFLOW__MLOPS__HOME": HOME, "AIRFLOW__MLOPS__CACHE": str(tmp_path / "cache"), **CREDENTIALS}
    extra = {"endpoint_url": endpoint, "region_name": "us-east-1"}
    connection = {"conn_type": "aws", "login": "test", "password": "test", "extra": extra}
    for name, value in {**told, "AIRFLOW_CONN_AWS_DEFAULT": json.dumps(connection)}.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="lake")
    _STORE_CACHE.clear()
    shared._shares.clear()
    yield Worker(tmp_path, endpoint)
    shared._shares.clear()


def launcher(cluster: Cluster, worker: Worker, **more: Any) -> Kubernetes:
    port = worker.endpoint.rpartition(":")[2]
    environment = {**CREDENTIALS, "AWS_ENDPOINT_URL": f"http://{cluster.host}:{port}", **more.pop("environment", {})}
    told = {"image": cluster.image, "namespace": "default", "image_pull_policy": "IfNotPresent", **more}
    return Kubernetes(environment=environment, **told)


def test_a_dag_trains_in_a_pod_and_one_that_is_never_scheduled_says_why(
    cluster: Cluster, worker: Worker, tmp_path: Path
):
    file = worker.dags / "pods.py"
    file.write_text(DAGS)
    pod = launcher(cluster, worker)
    told = {name: getattr(pod, name) for name in ("image", "namespace", "environment", "image_pull_policy")}
    connection = {"conn_type": "kubernetes", "extra": {"kube_config_path": str(cluster.kubeconfig)}}
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(airflow_home(tmp_path / "airflow")),
        "AIRFLOW__CORE__DAGS_FOLDER": str(worker.dags),
        "AIRFLOW_CONN_KUBERNETES_DEFAULT": json.dumps(connection),
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
        "OF_THE_POD": json.dumps(told),
        "PYTHONPATH": str(ROOT),
    }

    def run(dag_id: str) -> tuple[dict[str, str], str]:
        found = tmp_path / f"{dag_id}.json"
        command = [sys.executable, str(file), dag_id, str(found)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, check=False)
        said = done.stdout + done.stderr
        assert found.exists(), said[-8000:]
        return json.loads(found.read_text()), said

    states, said = run("good")
    assert set(states.values()) == {"success"}, said[-8000:]
    assert "epoch 1/1" in said  # from the pod's log
    assert json.loads(cluster.kubectl("get", "pods", "-o", "json"))["items"] == []

    states, said = run("nowhere")
    assert states["train.run"] == "failed"
    assert "didn't match Pod's node affinity" in said or "didn't match node selector" in said, said[-8000:]


def test_a_gpu_is_counted_an_evicted_pod_saves_and_the_next_goes_on(cluster: Cluster, worker: Worker):
    from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
    from kubernetes.client import ApiClient

    def start(prepared: dict[str, Any], **environment: str) -> str:
        pod = launcher(cluster, worker, environment=environment)
        arguments = pod.arguments(RemoteJob(prepared["name"], prepared["command"], pod.environment, gpus=1))
        operator = KubernetesPodOperator(task_id=f"{prepared['name']}{time.time_ns()}", **arguments)
        manifest = ApiClient().sanitize_for_serialization(operator.build_pod_request_obj(dry_run=True))
        manifest["spec"]["containers"][0]["env"] += [
            {"name": name, "value": value} for name, value in environment.items()
        ]
        cluster.kubectl("create", "-f", "-", stdin=json.dumps(manifest))
        return str(prepared["name"])

    first = worker.prepare(gpu=GPU(1, or_cpu=True))
    second = worker.prepare(gpu=GPU(1, or_cpu=True), epochs=1)
    one = start(first, SLOW="3")
    cluster.wait_for_log(one, "rows to train on")
    other = start(second)
    deadline = time.monotonic() + 60
    while "Insufficient nvidia.com/gpu" not in json.dumps(cluster.pod(other)["status"]):
        assert time.monotonic() < deadline, cluster.pod(other)["status"]
        time.sleep(0.5)
    # The same training is not started twice, by whomever.
    with pytest.raises(AssertionError, match="already exists"):
        start(first)

    time.sleep(8)  # it trains, and saves now and then
    eviction = {"apiVersion": "policy/v1beta1", "kind": "Eviction", "metadata": {"name": one, "namespace": "default"}}
    path = f"/api/v1/namespaces/default/pods/{one}/eviction"
    cluster.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))
    cluster.kubectl("wait", "--for=delete", f"pod/{one}", "--timeout=60s")
    with pytest.raises(TransientError, match="SIGTERM"):
        worker.collect(first)

    # Its GPU is free: the second one comes to its turn.
    cluster.wait_for(other, "Succeeded")
    assert worker.collect(second)["epochs"] == 1
    cluster.kubectl("delete", "pod", other)

    one = start(first)
    cluster.wait_for(one, "Succeeded")
    log = cluster.kubectl("logs", one)
    assert "Going on from a checkpoint" in log
    assert worker.collect(first)["epochs"] == 8
    assert not keys(boto3.client("s3", endpoint_url=worker.endpoint), f"mlops/checkpoints/{first['job']}")
    cluster.kubectl("delete", "pod", one)
