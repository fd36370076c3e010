"""The operators from snapshot to champion, against a real MLflow server and a real ledger."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from airflow.sdk import DAG, Asset
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from airflow.sdk.execution_time.context import OutletEventAccessors
from mlflow import MlflowClient

from airflow_mlops.cli import main
from airflow_mlops.contracts import Deployment
from airflow_mlops.engine.data.files import tree_hash
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.exceptions import ConfigError
from airflow_mlops.operators.mlflow import (
    MLflowFetchApprovedModelOperator,
    MLflowJudgeModelOperator,
    MLflowRegisterModelOperator,
    MLflowRejudgeModelOperator,
    MLflowSetAliasOperator,
)
from airflow_mlops.operators.tensorflow import TensorFlowEvaluateModelOperator, TensorFlowTrainOperator
from tests.training_fixtures import DAGS, make_snapshot, mlflow_server

CHALLENGER = Asset(name="m.challenger", uri="mlops://models/m/challenger")
GATES = [
    {"metric": "auc", "min": 0.6},
    {"metric": "auc", "vs": "champion", "max_drop": 0.01},
    {"metric": "log_loss", "max": 0.9, "by": {"column": "carrier", "min_n": 100}},
]


class TaskInstance:
    """The little of a task instance that the operators use."""

    dag_id = "m.train"
    run_id = "manual__1"

    def __init__(self) -> None:
        self.pushed: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value


class Pipeline:
    """One model's tasks, each executed as Airflow executes it, and what they hand on."""

    def __init__(self, home: Path, model: str) -> None:
        self.home, self.model = home, model
        self.dag = DAG("m.train", schedule=None)
        self.dag.fileloc = str(DAGS / "flight_delay.py")
        self.context: dict[str, Any] = {}

    def run(self, operator: type, /, **arguments: Any) -> Any:
        self.context = {"ti": TaskInstance(), "outlet_events": OutletEventAccessors()}
        task = operator(
            task_id=f"t{len(self.dag.task_ids)}", dag=self.dag, home=str(self.home), model=self.model, **arguments
        )
        result = task.execute(self.context)
        json.dumps(result, allow_nan=False)
        return result

    @property
    def links(self) -> dict[str, str]:
        return self.context["ti"].pushed

    def train(self, **changes: Any) -> Any:
        spec = {"snapshot": "snap1", "entrypoint": "flights.model:build", "seed": "7", "epochs": 2, "batch_size": 512}
        return self.run(TensorFlowTrainOperator, **(spec | changes))

    def judge(self, version: int, evaluation: str, gates: list[dict[str, Any]]) -> Any:
        return self.run(
            MLflowJudgeModelOperator, version=version, evaluation=evaluation, gates=gates, outlets=[CHALLENGER]
        )


@pytest.fixture
def tracking_uri() -> str:
    return mlflow_server()


@pytest.fixture
def ledger(home: Path, tracking_uri: str, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """The ledger, with the connections to it and to MLflow in place."""
    url = f"sqlite:///{home}/ledger.db"
    connections = {
        "mlflow_default": {"conn_type": "mlflow", "host": tracking_uri},
        "mlops_ledger_default": {"conn_type": "mlops_ledger", "host": url},
    }
    for name, connection in connections.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(connection))
    return Ledger(url)


def test_from_snapshot_to_champion_and_again(home: Path, ledger: Ledger, tracking_uri: str):
    make_snapshot(home)
    pipeline = Pipeline(home, "whole_way")

    training = pipeline.train()
    assert training["training"] == str(home / "trainings" / training["spec_hash"][:16])
    assert training["epochs"] == 2
    progress = pipeline.links["progress"]
    assert (progress["epoch"], progress["examples_left"]) == (2, 0)
    shown = ledger.pointer("training:whole_way")
    assert shown is not None
    assert shown.value["run_id"] == "manual__1"
    client = MlflowClient(tracking_uri)
    [live] = client.search_runs([client.get_experiment_by_name("whole_way").experiment_id])
    assert pipeline.links["mlflow_run_link"].endswith(live.info.run_id)
    assert live.info.status == "FINISHED"
    assert live.info.end_time - live.info.start_time > 1000 * training["seconds"]
    assert len(client.get_metric_history(live.info.run_id, "epoch/loss")) == 2
    started = time.monotonic()
    assert pipeline.train() == training
    assert time.monotonic() - started < 2

    evaluated = pipeline.run(TensorFlowEvaluateModelOperator, training=training["training"], slices=["carrier"])
    assert evaluated["metrics"]["challenger"]["auc"] > 0.6
    assert evaluated["champion_version"] is None

    def register() -> Any:
        return pipeline.run(
            MLflowRegisterModelOperator,
            training=training["training"],
            evaluation=evaluated["uri"],
            owner="me@example.com",
        )

    registered = register()
    assert register() == registered
    assert registered["version"] == 1
    [read] = ledger.facts("model_features", "whole_way")
    assert (read.key, read.payload["service"], read.payload["snapshot"]) == ("1", "flight_delay_v1", "snap1")
    assert pipeline.links == {
        "mlflow_run_link": f"{tracking_uri}/#/experiments/{registered['experiment_id']}/runs/{registered['run_id']}",
        "mlflow_model_version_link": f"{tracking_uri}/#/models/whole_way/versions/1",
    }

    assert registered["run_id"] == live.info.run_id
    assert len(client.get_metric_history(live.info.run_id, "epoch/loss")) == 2, "nothing twice"
    assert client.get_run(registered["run_id"]).data.tags["mlops.owner"] == "me@example.com"
    assert client.get_experiment(registered["experiment_id"]).tags["mlops.owner"] == "me@example.com"
    assert client.get_registered_model("whole_way").tags["mlops.owner"] == "me@example.com"

    judged = pipeline.judge(1, evaluated["uri"], GATES)
    assert pipeline.judge(1, evaluated["uri"], GATES) == judged
    assert judged["status"] == "PASS"
    assert pipeline.context["outlet_events"][CHALLENGER].extra == {
        "model": "whole_way",
        "version": 1,
        "status": "PASS",
        "run_id": registered["run_id"],
    }
    other = home / "trainings" / "another"
    shutil.copytree(training["training"], other)
    spec = json.loads((other / "spec.json").read_text())
    (other / "spec.json").write_text(json.dumps({**spec, "seed": spec["seed"] + 1}))
    with pytest.raises(AirflowFailException, match="The evaluation is not of version 1"):
        pipeline.judge(1, str(other / Path(evaluated["uri"]).name), GATES)
    (fact,) = ledger.facts("verdict", "whole_way")
    assert fact.payload["version"] == 1
    assert fact.payload["source"] == registered["source"]
    assert fact.payload["inputs_hash"] == judged["inputs_hash"]
    assert fact.payload["checks"][1]["reason"] == "no champion yet"

    fetched = pipeline.run(MLflowFetchApprovedModelOperator, version="", server="s")
    assert fetched == {
        "model": "whole_way",
        "version": 1,
        "saved_model": str(home / "registry" / "whole_way" / "1"),
        "passed": [],
    }
    assert fact.payload["content"] == tree_hash(Path(fetched["saved_model"])), "the verdict is about these bytes"
    assert (Path(fetched["saved_model"]) / "assets.extra" / "manifest.json").exists()
    assert pipeline.run(MLflowSetAliasOperator, version="1", alias="champion")["version"] == 1
    assert MlflowClient(tracking_uri).get_model_version_by_alias("whole_way", "champion").version == "1"

    again = pipeline.run(TensorFlowEvaluateModelOperator, training=training["training"])
    assert again["champion_version"] == "1"
    assert again["metrics"]["champion"] == again["metrics"]["challenger"]

    # Judged again, as it was: the verdict repeats. By command too.
    rejudged = pipeline.run(MLflowRejudgeModelOperator, version="1")
    assert rejudged == {"model": "whole_way", "version": 1, "status": "PASS", "repeats": True, "reasons": []}
    place = ["--home", str(home), "--ledger", ledger.url]
    assert main(["rejudge", "whole_way", "1", *place]) == 0
    assert main(["rejudge", "whole_way", "7", *place]) == 1

    # A gate that fails: every failed check is named, and the last verdict counts.
    with pytest.raises(AirflowFailException) as failed:
        pipeline.judge(1, evaluated["uri"], [*GATES, {"metric": "auc", "min": 0.99}])
    assert "Version 1 of 'whole_way' failed 1 of" in str(failed.value)
    assert "auc min: 0." in str(failed.value)
    assert "asked >= 0.99" in str(failed.value)
    assert MlflowClient(tracking_uri).get_model_version("whole_way", "1").tags["mlops.verdict"] == "FAIL"
    with pytest.raises(AirflowFailException, match="No version of 'whole_way' is approved"):
        pipeline.run(MLflowFetchApprovedModelOperator)
    with pytest.raises(AirflowFailException, match="A binary has no metric 'rmse'"):
        pipeline.judge(1, evaluated["uri"], [{"metric": "rmse", "max": 1.0}])

    # Approved, but rolled back on this server: not deployed again unless asked for.
    pipeline.judge(1, evaluated["uri"], GATES)
    rolled_back = Deployment(server="s", model="whole_way", stable=9, rolled_back=(1,))
    assert ledger.swap("deployment:s:whole_way", rolled_back.model_dump(mode="json"), None)
    with pytest.raises(AirflowSkipException, match="was rolled back on s"):
        pipeline.run(MLflowFetchApprovedModelOperator, server="s")
    assert "was rolled back on s" in pipeline.context["ti"].pushed["held"]
    asked = pipeline.run(MLflowFetchApprovedModelOperator, server="s", version="1")
    assert asked == {**fetched, "passed": ["it had been rolled back: asked for by number"]}


def test_failed_training_is_a_failed_run_in_mlflow(home: Path, ledger: Ledger, tracking_uri: str):
    make_snapshot(home, rows=100)
    pipeline = Pipeline(home, "broken")
    with pytest.raises(AirflowFailException) as failed:
        pipeline.train(model_params={"hiden": [8]})
    assert "hiden" in str(failed.value)
    client = MlflowClient(tracking_uri)
    (run,) = client.search_runs([client.get_experiment_by_name("broken").experiment_id])
    assert run.info.status == "FAILED"
    assert "hiden" in run.data.tags["mlops.error"]
    assert run.data.tags["airflow.run_id"] == "manual__1"
    assert pipeline.links["mlflow_run_link"].endswith(run.info.run_id)


def test_killed_task_ends_its_child(home: Path, ledger: Ledger):
    make_snapshot(home, rows=100)
    dag = DAG("m.train", schedule=None)
    dag.fileloc = str(DAGS / "flight_delay.py")
    task = TensorFlowTrainOperator(
        task_id="t", dag=dag, home=str(home), model="m", snapshot="snap1", entrypoint="flights.model:build"
    )
    caught: list[BaseException] = []

    def run() -> None:
        try:
            task.execute({"ti": TaskInstance()})
        except Exception as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    deadline = time.monotonic() + 20
    children: list[psutil.Process] = []
    while not children and time.monotonic() < deadline:
        running = psutil.Process().children()
        children = [child for child in running if "airflow_mlops.engine.training.runner" in child.cmdline()]
        time.sleep(0.05)
    task.on_kill()
    thread.join(20)
    assert children
    assert not children[0].is_running()
    assert "killed by SIG" in str(caught[0])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"snapshot": "None"}, "snapshot is empty after rendering"),
        ({"snapshot": "nowhere"}, "There is no snapshot 'nowhere'"),
        ({"epochs": "many"}, "epochs: Input should be a valid integer"),
        ({"epochs": "0"}, "epochs: Input should be greater than 0"),
    ],
)
def test_bad_rendered_values_fail_at_once(home: Path, ledger: Ledger, changes: dict[str, str], says: str):
    make_snapshot(home, rows=20)
    with pytest.raises(AirflowFailException, match=says):
        Pipeline(home, "bad").train(**changes)


def test_what_trains_nothing_is_refused_at_parse_time():
    with pytest.raises(ConfigError, match="epochs=3 and batch_size=0 train nothing"):
        TensorFlowTrainOperator(task_id="t", model="m", epochs=3, batch_size=0)


def test_evaluation_without_a_training_fails_at_once(home: Path, ledger: Ledger):
    with pytest.raises(AirflowFailException, match="no finished training"):
        Pipeline(home, "bad").run(TensorFlowEvaluateModelOperator, training=str(home / "trainings" / "none"))
