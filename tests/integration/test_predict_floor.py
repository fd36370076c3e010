"""The operators that predict, against a real MLflow and a real model server; and the DAG `<model>.batch_predict`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from airflow_mlops.contracts import Evaluation
from airflow_mlops.engine.data.snapshots import read_split
from airflow_mlops.engine.features.governance.apply import ensure_applied
from airflow_mlops.engine.registry.manifest import pack_manifest
from airflow_mlops.engine.registry.registry import CHAMPION, Registry
from airflow_mlops.engine.serving.saved_model import SavedModel
from airflow_mlops.engine.training.inputs import read_inputs
from airflow_mlops.exceptions import TransientError
from airflow_mlops.operators.predict import TensorFlowPredictOperator, TFServingPredictOperator
from tests.airflow_home import airflow_home
from tests.conftest import ROOT
from tests.model_server import FLAGS, ModelServer, config_text, free_ports, model_text
from tests.rides import A_DAY, MODEL, SERVICE, Rides, key_of
from tests.rides_serving import spec_of
from tests.training_fixtures import mlflow_server
from tests.warm_trainer import train

DAYS = 6
DATASET = f"{MODEL}.predictions"

SUITE = """
import great_expectations.expectations as gxe


def predictions():
    return [gxe.ExpectColumnValuesToBeBetween(column="probability", min_value=0, max_value=1, severity="critical")]


def impossible():
    return [gxe.ExpectColumnValuesToBeBetween(column="probability", min_value=2, max_value=3, severity="critical")]
"""


class Service:
    """Rides, and a model of them that is registered, champion, and on a model server."""

    def __init__(self, folder: Path, server: ModelServer, saved_model: Path, version: str) -> None:
        self.world, self.server, self.saved_model, self.version = Rides(folder), server, saved_model, version

    @property
    def environment(self) -> dict[str, str]:
        connections = {
            "feast_default": {"conn_type": "feast", "host": str(self.world.repo)},
            "mlflow_default": {"conn_type": "mlflow", "host": mlflow_server()},
            "mlops_ledger_default": {"conn_type": "mlops_ledger", "host": self.world.ledger.url},
            "tf_serving_default": {
                "conn_type": "tf_serving", "host": "127.0.0.1", "port": self.server.rest_port,
                "extra": json.dumps({"grpc_port": self.server.port, "timeout": 20}),
            },
        }  # fmt: skip
        found = {f"AIRFLOW_CONN_{name.upper()}": json.dumps(one) for name, one in connections.items()}
        return {**found, "AIRFLOW__MLOPS__HOME": str(self.world.home)}


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rides")
    world = Rides.make(folder, days=DAYS)
    ensure_applied(world.location, world.ledger)
    spec = spec_of(world.snapshot(as_of=DAYS), epochs=1)
    result = train(spec, world.home / "trainings" / "t")
    registry = Registry(mlflow_server())
    rated = Evaluation(snapshot_id=spec.snapshot.id, split="test", rows=1, metrics={"challenger": {"auc": 0.7}})
    manifest = pack_manifest(spec, result, parent_version=None, triggered_by="me")
    version = registry.register(registry.open_run(spec), result, manifest, rated).version
    registry.set_alias(MODEL, version, CHAMPION)
    base = folder / "store" / MODEL
    base.mkdir(parents=True)
    (base / version).symlink_to(result.saved_model)
    config = folder / "models.config"
    config.write_text(config_text(model_text(MODEL, base, [int(version)], stable=int(version))))
    (world.dags / "suites.py").write_text(SUITE)
    with ModelServer(f"--model_config_file={config}", *FLAGS) as server:
        server.wait_until_open()
        server.wait_for_states(MODEL, {int(version): "AVAILABLE"})
        yield Service(folder, server, Path(result.saved_model), version)


class TaskInstance:
    """As much of a running task as the operators look at."""

    def __init__(self) -> None:
        self.pushed: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value


@pytest.fixture
def run(service, monkeypatch):
    for name, value in service.environment.items():
        monkeypatch.setenv(name, value)
    dag = DAG("rides", schedule=None)
    dag.fileloc = str(service.world.dags / "rides.py")

    def run(operator: type, **changes: Any) -> Any:
        how = {
            "model": MODEL, "entity": "ride_id", "source_dataset": "rides", "service": SERVICE, "key": key_of(3),
            **changes,
        }  # fmt: skip
        run.ti = TaskInstance()
        found = operator(task_id=f"t{len(dag.task_ids)}", dag=dag, **how).execute({"ti": run.ti})
        assert json.loads(json.dumps(found)) == found
        return found

    return run


def test_champion_and_stable_give_the_same_and_what_training_sees(service, run):
    ours = run(TensorFlowPredictOperator, dataset="in_process", suite="suites:predictions", columns=["zone"])
    theirs = run(TFServingPredictOperator, dataset="served", batch_rows=16)
    assert run.ti.pushed["tf_serving_model_link"].endswith(f"/v1/models/{MODEL}")
    assert {name: ours[name] for name in ("dataset", "key", "rows", "model", "version", "nan")} == {
        "dataset": "in_process", "key": key_of(3), "rows": A_DAY, "model": MODEL, "version": service.version, "nan": {},
    }  # fmt: skip
    assert (theirs["version"], theirs["rows"]) == (service.version, A_DAY)
    store = service.world.store
    tables = [store.read([store.get(name, key_of(3))]) for name in ("in_process", "served")]
    assert tables[0]["ride_id"].equals(tables[1]["ride_id"])
    assert tables[0]["probability"].to_numpy() == pytest.approx(tables[1]["probability"].to_numpy(), abs=1e-6)
    snapshot = service.world.snapshot(as_of=5)
    test = read_split(snapshot, "test")
    with SavedModel(service.saved_model) as model:
        expected = model.run(read_inputs(test, snapshot.features))["probability"].ravel()
    found = dict(zip(tables[0]["ride_id"].to_pylist(), tables[0]["probability"].to_pylist(), strict=True))
    assert [found[ride] for ride in test["ride_id"].to_pylist()] == pytest.approx(expected.tolist(), abs=1e-6)
    assert run(TensorFlowPredictOperator, dataset="in_process", suite="suites:predictions", columns=["zone"]) == {
        **ours, "taken_up": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("operator", "nobody"),
    [(TensorFlowPredictOperator, {"alias": "nobody"}), (TFServingPredictOperator, {"version_label": "nobody"})],
)
def test_where_no_version_serves_yet_it_is_skipped_if_asked(run, operator, nobody):
    with pytest.raises(AirflowSkipException, match="Nothing is predicted"):
        run(operator, dataset="skipped", skip_unserved=True, **nobody)


def test_a_suite_that_blocks(service, run):
    with pytest.raises(AirflowFailException, match="probability"):
        run(TensorFlowPredictOperator, dataset="blocked", suite="suites:impossible")
    assert run.ti.pushed["gx_validation_report_link"]
    assert service.world.store.current("blocked", key_of(3)) is None


def test_rows_of_ones_own(service, run, tmp_path):
    rows = service.world.store.read([service.world.store.get("rides", key_of(3))]).slice(0, 12)
    own = service.world.home / "own"
    own.mkdir()
    pq.write_table(rows, own / "a.parquet")
    how = {"source_dataset": "", "event_time": "called_at", "version": service.version}
    of_files = run(TensorFlowPredictOperator, dataset="own", entities="own/*.parquet", **how)
    query = f"SELECT * FROM '{own}/a.parquet' ORDER BY ride_id DESC"
    of_query = run(TensorFlowPredictOperator, dataset="asked", entities=query, **how)
    folder = run(
        TensorFlowPredictOperator, dataset="folder", entities="own", **{**how, "version": ""},
        saved_model=str(service.saved_model),
    )  # fmt: skip
    assert of_files["rows"] == of_query["rows"] == folder["rows"] == 12
    assert len(folder["version"]) == 16, "a SavedModel without a number is not told by its hash"


@pytest.mark.parametrize(
    ("operator", "changes", "says"),
    [
        (TensorFlowPredictOperator, {"alias": "chamption"}, "No version of model .* has the alias 'chamption'"),
        (TensorFlowPredictOperator, {"version": "99"}, "99"),
        (TensorFlowPredictOperator, {"version": "v1"}, "'v1' is not a version of a model"),
        (TensorFlowPredictOperator, {"model": "nobodys"}, "No version of model 'nobodys'"),
        (TensorFlowPredictOperator, {"saved_model": "/nowhere"}, "no SavedModel to predict with"),
        (TFServingPredictOperator, {"version": 99}, "does not have this model or version"),
        (TFServingPredictOperator, {"version_label": "stabel"}, "stabel"),
        (TFServingPredictOperator, {"service": ""}, r"lacks \d of the model's inputs(.|\n)*service="),
        (TFServingPredictOperator, {"entities": "own"}, "of a sealed dataset, or one's own"),
        (TFServingPredictOperator, {"source_dataset": ""}, "of a sealed dataset, or one's own"),
        (TFServingPredictOperator, {"key": "None"}, "no partition key"),
        (TFServingPredictOperator, {"key": "2024-13-01"}, "not a partition key"),
        (TFServingPredictOperator, {"key": "2023-01-01"}, "There is no partition 2023-01-01 of 'rides'"),
        (TFServingPredictOperator, {"source_dataset": "ridse"}, "There is no partition"),
        (TFServingPredictOperator, {"dataset": "../x"}, "cannot be the name of a dataset"),
        (TFServingPredictOperator, {"batch_rows": 0}, "a positive number at a time"),
        (TFServingPredictOperator, {"in_flight": 0}, "in_flight"),
    ],
)
def test_what_cannot_be_predicted_fails_at_once(run, operator, changes, says):
    with pytest.raises(AirflowFailException, match=says):
        run(operator, **{"dataset": "never", **changes})


def test_a_server_that_is_down_is_worth_a_retry(run, monkeypatch):
    [port] = free_ports(1)
    extra = json.dumps({"grpc_port": port, "timeout": 1})
    monkeypatch.setenv(
        "AIRFLOW_CONN_DOWN", json.dumps({"conn_type": "tf_serving", "host": "localhost", "extra": extra})
    )
    with pytest.raises(TransientError, match="does not answer"):
        run(TFServingPredictOperator, tf_serving_conn_id="down")


# --- in Airflow -------------------------------------------------------------------------------------------

PIPELINE = """
import json, sys
from datetime import date
from pathlib import Path

from airflow.sdk import DAG
from airflow_mlops import BatchPredict, FeatureService, Label, ModelPipeline, Partitions, Trainer
from airflow_mlops.operators.predict import TFServingPredictOperator

def feed(name, at):
    return Partitions(f"lake/{name}", event_time=at, suite="suites:predictions", start=date(2024, 3, 1))

rides = ModelPipeline(
    model="ride_delay", source=feed("rides", "called_at"), entity="ride_id",
    label=Label("late", source=feed("ends", "ended_at")),
    features=FeatureService("rides_v1", transform="ride_features:compute", suite="suites:predictions", keys=["zone"]),
    train=Trainer("code:build", window="20d"),
    batch=BatchPredict(columns=["zone"], suite="suites:predictions"),
)
globals().update(rides.dags())
with DAG("mapped", schedule=None) as mapped:
    TFServingPredictOperator.partial(
        task_id="predict", model="ride_delay", entity="ride_id", source_dataset="rides", service="rides_v1",
        dataset="mapped",
    ).expand(key=["2024-03-03", "2024-03-04", "2024-03-09"])

if __name__ == "__main__":
    found = []
    for dag, conf in ((ride_delay_batch_predict, {"key": "2024-03-05"}), (mapped, {})):
        run = dag.test(run_conf=conf)
        found.append(sorted(str(task.state) for task in run.get_task_instances()))
    Path(sys.argv[1]).write_text(json.dumps(found))
"""


def test_in_real_runs(service):
    folder = service.world.dags
    (folder / "rides.py").write_text(textwrap.dedent(PIPELINE))
    environment = {
        **os.environ,
        **service.environment,
        "PYTHONPATH": str(ROOT),
        "AIRFLOW_HOME": str(airflow_home(folder.parent / "airflow")),
        "AIRFLOW__CORE__DAGS_FOLDER": str(folder),
    }
    answer = folder.parent / "found.json"
    command = [sys.executable, folder / "rides.py", answer]
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=400, check=False
    )
    assert answer.exists(), done.stdout[-4000:] + done.stderr[-4000:]
    store = service.world.store
    assert json.loads(answer.read_text()) == [["success"], ["failed", "success", "success"]], done.stdout[-6000:]
    assert store.get(DATASET, "2024-03-05").rows == A_DAY
    assert "zone" in store.get(DATASET, "2024-03-05").columns
    assert store.keys("mapped") == ["2024-03-03", "2024-03-04"], (
        "a day that is not there is predicted, or holds up others"
    )
