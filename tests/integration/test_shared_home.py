"""A home folder in a bucket, from landed files to a published version; every task begins with an empty cache."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred

from airflow_mlops import FeatureService, Gate, Label, ModelPipeline, Partitions, Retrain, Trainer
from airflow_mlops.cli import main
from airflow_mlops.engine.data import shared
from airflow_mlops.engine.data.snapshots import load_snapshot, read_split
from airflow_mlops.engine.features.online.reader import OnlineReader
from airflow_mlops.engine.features.project.location import Location
from airflow_mlops.engine.history.load import load_history
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.exceptions import ConfigError, DataError
from airflow_mlops.operators import base
from airflow_mlops.operators.data import CheckPartitionOperator, SealPartitionOperator
from airflow_mlops.operators.feast import (
    FeastApplyOperator,
    FeastCheckParityOperator,
    FeastComputeFeaturesOperator,
    FeastGetTrainingDataOperator,
    FeastMaterializeOperator,
    FeastPlanMaterializationOperator,
    FeastRebuildTrainingDataOperator,
)
from airflow_mlops.operators.gx import GXValidateDataOperator
from airflow_mlops.operators.mlflow import (
    MLflowFetchApprovedModelOperator,
    MLflowJudgeModelOperator,
    MLflowRegisterModelOperator,
    MLflowRejudgeModelOperator,
)
from airflow_mlops.operators.retention import SweepHomeOperator
from airflow_mlops.operators.stage import StagePartitionOperator
from airflow_mlops.operators.tensorflow import TensorFlowEvaluateModelOperator, TensorFlowTrainOperator
from airflow_mlops.operators.tf_serving import TFServingPublishModelOperator
from airflow_mlops.sensors.data import PartitionArrivalSensor
from airflow_mlops.sensors.feast import FeastFeatureFreshnessSensor
from airflow_mlops.sensors.readiness import TrainingDataSensor
from airflow_mlops.ui.reports import report
from tests.integration.test_s3_partitions import client, connection, endpoint, keys  # noqa: F401  fixtures
from tests.rides import (
    DEFINITIONS,
    EVENT_TIMES,
    FEATURES,
    FIRST,
    MODEL,
    SERVICE,
    SETTINGS,
    TRANSFORM,
    UNITS,
    key_of,
    land,
    midnight,
)
from tests.serving_fixtures import running_server
from tests.training_fixtures import DAGS, mlflow_server

HOME = "s3://aws_default@lake/mlops"
DAYS = 6
LAST = key_of(DAYS - 1)

SUITES = """
import great_expectations.expectations as gxe


def rides():
    return [gxe.ExpectColumnValuesToBeBetween(column="km", min_value=0, max_value=100)]


def ends():
    return [gxe.ExpectColumnValuesToNotBeNull(column="ride_id")]


def snapshot():
    return [gxe.ExpectColumnValuesToNotBeNull(column="late")]
"""


class TaskInstance:
    """The little of a task instance that the operators use."""

    dag_id, run_id = "ride_delay.train", "manual__1"

    def __init__(self) -> None:
        self.pushed: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value


class Floor:
    """Tasks on workers that share nothing but the bucket: each finds an empty cache."""

    def __init__(self, folder: Path) -> None:
        self.cache, self.repo, self.dags = folder / "cache", folder / "repo", folder / "dags"
        self.pushed: dict[str, Any] = {}
        self.repo.mkdir()
        self.dags.mkdir()
        # Feast's SQLite files are of one machine: workers share a registry and an online store by other means.
        (self.repo / "feature_store.yaml").write_text(SETTINGS.replace("${MLOPS_HOME}/feast", f"{folder}/feast"))
        (folder / "feast").mkdir()
        for name, text in (("definitions", DEFINITIONS), ("ride_features", FEATURES), ("ride_units", UNITS)):
            (self.repo / f"{name}.py").write_text(text)
        (self.dags / "ride_suites.py").write_text(SUITES)
        (self.dags / "flights").symlink_to(DAGS / "flights")
        self.dag = DAG("ride_delay.train", schedule=None)
        self.dag.fileloc = str(self.dags / "rides.py")

    def wipe(self) -> None:
        """Begin as a worker that has never worked."""
        shutil.rmtree(self.cache, ignore_errors=True)
        shared._shares.clear()

    def run(self, cls: type, /, **arguments: Any) -> Any:
        self.wipe()
        task = cls(task_id=f"t{len(self.dag.task_ids)}", dag=self.dag, **arguments)
        instance = TaskInstance()
        result = task.execute({"ti": instance, "outlet_events": {}, "dag_run": None})
        self.pushed = instance.pushed
        return json.loads(json.dumps(result))

    def day(self, n: int) -> None:
        """Take a landed day through the features DAG."""
        key = key_of(n)
        for dataset, event_time in EVENT_TIMES.items():
            day = {"dataset": dataset, "key": key, "event_time": event_time}
            assert self.run(PartitionArrivalSensor, uri=f"lake/{dataset}", key=key)["files"] == 1
            staged = self.run(StagePartitionOperator, uri=f"lake/{dataset}", **day)
            validation = self.run(
                GXValidateDataOperator, data=staged["uri"], suite=f"ride_suites:{dataset}", dataset=dataset, key=key
            )
            if n == 0:
                self.run(CheckPartitionOperator, uri=staged["uri"], validation=validation, checks={}, **day)
            self.run(SealPartitionOperator, uri=staged["uri"], validation=validation, **day)
        computed = self.run(
            FeastComputeFeaturesOperator,
            transform=TRANSFORM,
            datasets=list(EVENT_TIMES),
            history="2d",
            start=str(FIRST),
            key=key,
        )
        assert computed["views"]["zone_delays"] > 0 or n == 0


@pytest.fixture
def floor(tmp_path, connection, monkeypatch) -> Iterator[Floor]:  # noqa: F811
    floor = Floor(tmp_path)
    monkeypatch.setenv("AIRFLOW__MLOPS__HOME", HOME)
    monkeypatch.setenv("AIRFLOW__MLOPS__CACHE", str(floor.cache))
    connections = {
        "FEAST_DEFAULT": {"conn_type": "feast", "host": str(floor.repo)},
        "MLOPS_LEDGER_DEFAULT": {"conn_type": "mlops_ledger", "host": f"sqlite:///{tmp_path}/ledger.db"},
    }
    for name, value in connections.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{name}", json.dumps(value))
    yield floor
    shared._shares.clear()


def upload(client: Any, folder: Path, dataset: str, n: int) -> None:  # noqa: F811
    """Land a day in the bucket: rides as Parquet, ends as CSV, which has to be staged."""
    [file] = land(folder, dataset, n).iterdir()
    name, body = "rows.parquet", file.read_bytes()
    if dataset == "ends":
        name, text = "rows.csv", io.BytesIO()
        pc.write_csv(pq.read_table(file), text)
        body = text.getvalue()
    client.put_object(Bucket="lake", Key=f"mlops/lake/{dataset}/{key_of(n)}/{name}", Body=body)
    client.put_object(Bucket="lake", Key=f"mlops/lake/{dataset}/{key_of(n)}/_SUCCESS", Body=b"")


def test_from_landed_files_to_a_published_version(floor, client, tmp_path, monkeypatch):  # noqa: F811
    tracking_uri = mlflow_server()
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps({"conn_type": "mlflow", "host": tracking_uri}))
    floor.run(FeastApplyOperator)
    for n in range(DAYS):
        for dataset in EVENT_TIMES:
            upload(client, tmp_path / "upstream", dataset, n)
        floor.day(n)
    day = f"mlops/partitions/rides/{key_of(0)}"
    assert f"{day}/current.json" in keys(client, day)

    # online
    chunks = floor.run(FeastPlanMaterializationOperator, service=SERVICE, key=LAST)
    assert chunks
    for chunk in chunks:
        assert floor.run(FeastMaterializeOperator, chunk=chunk)["rows"] is not None
    assert floor.run(FeastPlanMaterializationOperator, service=SERVICE, key=LAST) == []
    freshness = floor.run(FeastFeatureFreshnessSensor, service=SERVICE, key=LAST, max_age="26h")
    assert set(freshness) == {"zone_delays", "last_ride"}
    floor.run(FeastCheckParityOperator, service=SERVICE, source_dataset="rides", sample_rows=20)

    # a training set
    sources = [{"dataset": name, "start": str(FIRST)} for name in EVENT_TIMES]
    ready = floor.run(TrainingDataSensor, sources=sources, as_of="", model=MODEL)
    assert ready["as_of"] == midnight(DAYS).isoformat()
    asked = {
        "model": MODEL, "entity": "ride_id", "source_dataset": "rides", "event_time": "called_at", "keys": ["zone"],
        "service": SERVICE, "label_dataset": "ends", "label_column": "late", "matures_after": "1d", "window": "60d",
        "validation": "1d", "test": "1d", "start": str(FIRST), "as_of": ready["as_of"], "transform": TRANSFORM,
    }  # fmt: skip
    snapshot = floor.run(FeastGetTrainingDataOperator, **asked)
    assert floor.run(FeastGetTrainingDataOperator, **asked) == snapshot
    assert f"mlops/snapshots/{snapshot['id']}/manifest.json" in keys(client, "mlops/snapshots")
    validation = floor.run(
        GXValidateDataOperator, data=snapshot["uri"], suite="ride_suites:snapshot", dataset="s", key="k"
    )
    page = floor.pushed["gx_validation_report_link"].rpartition("/")[2].removesuffix(".html")

    # trained, judged, registered
    training = floor.run(
        TensorFlowTrainOperator,
        model=MODEL,
        snapshot=snapshot["id"],
        validation=validation,
        entrypoint="flights.model:build",
        epochs=2,
        batch_size=64,
    )
    evaluation = floor.run(TensorFlowEvaluateModelOperator, model=MODEL, training=training["training"])
    registered = floor.run(
        MLflowRegisterModelOperator, model=MODEL, training=training["training"], evaluation=evaluation["uri"]
    )
    gates = [{"metric": "auc", "min": 0.1}]
    judged = {"model": MODEL, "version": registered["version"]}
    floor.run(MLflowJudgeModelOperator, evaluation=evaluation["uri"], gates=gates, **judged)
    assert floor.run(MLflowRejudgeModelOperator, **judged)["repeats"]

    # and published, where the model server reads
    fetched = floor.run(MLflowFetchApprovedModelOperator, model=MODEL, server="s")
    with running_server(tmp_path / "server") as server:
        monkeypatch.setenv("AIRFLOW_CONN_TF_SERVING_DEFAULT", server.connection())
        published = floor.run(TFServingPublishModelOperator, source=fetched["saved_model"], **judged)
        assert (Path(published["path"]) / "saved_model.pb").is_file()

    # A report, by an API server that has never worked either.
    floor.wipe()
    assert b"<html" in Path(report(page).path).read_bytes()[:500]
    with pytest.raises(DataError, match="no report"):
        report("nothing")

    # A lost snapshot, whose manifest only the training has, is built again, the same byte for byte.
    before = read_split(load_snapshot(base.open_home(), snapshot["id"]), "train")
    for key in keys(client, f"mlops/snapshots/{snapshot['id']}"):
        client.delete_object(Bucket="lake", Key=key)
    again = floor.run(
        FeastRebuildTrainingDataOperator, snapshot=snapshot["id"], source_dataset="rides", label_dataset="ends"
    )
    assert again == snapshot
    assert read_split(load_snapshot(base.open_home(), snapshot["id"]), "train").equals(before)
    # What is of one machine never got there.
    assert {key.split("/")[1] for key in keys(client, "mlops/")} == {
        "features", "lake", "partitions", "registry", "reports", "snapshots", "staged", "trainings",
    }  # fmt: skip
    assert not [key for key in keys(client, "mlops/") if "/." in key or "/profiles/" in key]


def test_the_triggerer_waits_with_the_address_of_the_home(floor, client):  # noqa: F811
    sensor = TrainingDataSensor(
        task_id="wait", dag=floor.dag, deferrable=True, as_of=midnight(1).isoformat(), poke_interval=0.05, timeout=0,
        sources=[{"dataset": "rides", "start": str(FIRST)}],
    )  # fmt: skip
    with pytest.raises(TaskDeferred) as deferred:
        sensor.execute({"ti": TaskInstance()})
    path, settings = deferred.value.trigger.serialize()
    assert settings["home"] == HOME
    floor.wipe()

    async def event() -> Any:
        return (await anext(type(deferred.value.trigger)(**settings).run())).payload

    assert asyncio.run(event())["status"] == "timeout"
    assert path.endswith("TrainingDataTrigger")


def test_commands_read_the_same_home(floor, client, tmp_path, capsys):  # noqa: F811
    upload(client, tmp_path / "upstream", "rides", 0)
    day = {"dataset": "rides", "key": key_of(0)}
    data = {"data": f"{HOME}/lake/rides/{key_of(0)}", "suite": "ride_suites:rides"}
    validation = floor.run(GXValidateDataOperator, **data, **day)
    floor.run(
        SealPartitionOperator, uri=f"lake/rides/{key_of(0)}", event_time="called_at", validation=validation, **day
    )
    floor.wipe()
    assert main(["partitions", "rides", "--home", HOME]) == 0
    assert key_of(0) in capsys.readouterr().out
    assert main(["sweep", "--keep", "9d", "--home", HOME]) == 0
    assert "0 files, folders and revisions would go" in capsys.readouterr().out
    assert floor.run(SweepHomeOperator, keep="9d")["removed"] == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_history_is_loaded_by_forked_workers(workers, floor, client, tmp_path, monkeypatch):  # noqa: F811
    """A connection to S3 does not survive a fork, and a path of Airflow forgets its own when it is pickled."""
    monkeypatch.syspath_prepend(str(floor.dags))
    for n in range(2):
        for dataset in EVENT_TIMES:
            upload(client, tmp_path / "upstream", dataset, n)

    def feed(name: str) -> Partitions:
        suite = f"ride_suites:{name}"
        return Partitions(f"lake/{name}", event_time=EVENT_TIMES[name], suite=suite, start=FIRST, dataset=name)

    pipeline = ModelPipeline(
        model=MODEL, source=feed("rides"), entity="ride_id", gates=[Gate("auc", min=0.5)],
        label=Label("late", source=feed("ends"), matures_after="1d"),
        features=FeatureService(SERVICE, transform=TRANSFORM, suite="ride_suites:snapshot", history="2d"),
        train=Trainer("flights.model:build", window="60d", validation="1d", test="1d"), retrain=Retrain(cron=None),
    )  # fmt: skip
    floor.wipe()
    home, ledger = base.open_home(), Ledger(f"sqlite:///{tmp_path}/ledger.db")
    loaded = load_history(
        pipeline, FIRST, midnight(1).date(), location=Location(floor.repo, home), ledger=ledger, workers=workers,
        store=base.partition_store(home, ledger), code_path=str(floor.dags), locate=partial(base.beneath, home),
    )  # fmt: skip
    assert (loaded.sealed, loaded.computed, loaded.refused) == (4, 2, [])


def test_a_home_whose_connection_is_not_there(floor):
    with pytest.raises(AirflowFailException, match="no Airflow connection 'nope_conn'"):
        floor.run(FeastApplyOperator, home="s3://nope_conn@lake/mlops")


def test_homes_do_not_mix_in_a_cache(floor, monkeypatch):
    one, other = base.cache_of(HOME), base.cache_of(f"{HOME}-2")
    assert one != other
    assert one == base.cache_of(f"{HOME}/")
    assert one.parent == floor.cache
    monkeypatch.delenv("AIRFLOW__MLOPS__CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    assert base.cache_of(HOME) == Path("/c/airflow-mlops/homes") / one.name
    monkeypatch.setenv("AIRFLOW__MLOPS__HOME", "")
    with pytest.raises(ConfigError, match="not configured"):
        base.open_home()


def test_what_a_reader_of_features_needs_is_not_in_the_home(floor):
    """The online store is where Feast's settings say; the cache may be lost."""
    floor.run(FeastApplyOperator)
    floor.wipe()
    assert OnlineReader(Location(floor.repo, base.open_home()), SERVICE).plan.stored
