"""No row of a person leaves the data layer, and no secret its connection.

Values that one row alone has, and a secret, are planted; then the tasks run from a landed day to a published model,
and everything that they leave outside partitions, snapshots and quarantine is searched: MLflow's database, artifacts
and log, trainings, registry cache, model store, reports, the ledger, XComs, rendered fields, logs and errors.
"""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, Asset
from airflow.sdk.execution_time.context import OutletEventAccessors

from airflow_mlops.engine.data.parquet import parquet_files
from airflow_mlops.engine.data.partitions import batch_hash
from airflow_mlops.engine.data.snapshots import read_split
from airflow_mlops.engine.serving.golden import GOLDEN_FILE, Golden
from airflow_mlops.engine.serving.model_store import publish
from airflow_mlops.engine.training.workdir import read_spec
from airflow_mlops.exceptions import MlopsError
from airflow_mlops.operators.data import CheckPartitionOperator
from airflow_mlops.operators.gx import GXValidateDataOperator
from airflow_mlops.operators.mlflow import (
    MLflowFetchApprovedModelOperator,
    MLflowJudgeModelOperator,
    MLflowRegisterModelOperator,
)
from airflow_mlops.operators.tensorflow import TensorFlowEvaluateModelOperator, TensorFlowTrainOperator
from tests.data_fixtures import EVENT_TIMES, KEY, landed, spoil
from tests.planted import files, found
from tests.training_fixtures import DAGS, FEATURES, PLANTED, copy_of, mlflow_folder, mlflow_server, trained

SECRET = "planted-secret-3f9c"
MODEL = "private"
CHALLENGER = Asset(name="m.challenger", uri="x-mlops://models/m/challenger")


class Story:
    """Tasks of one home, and all that they said."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.dag = DAG("private.train", schedule=None)
        self.dag.fileloc = str(DAGS / "flight_delay.py")
        self.said: list[str] = []

    dag_id, run_id = "private.train", "manual__1"

    def xcom_push(self, key: str, value: Any) -> None:
        self.said.append(json.dumps(value))

    def run(self, operator: type, **arguments: Any) -> Any:
        task = operator(task_id=f"t{len(self.dag.task_ids)}", dag=self.dag, home=str(self.home), **arguments)
        self.said += [repr(getattr(task, name)) for name in task.template_fields]
        try:
            result = task.execute({"ti": self, "outlet_events": OutletEventAccessors()})
        except Exception as error:
            self.said += traceback.format_exception(error)
            raise
        self.said.append(json.dumps(result))
        return result


@pytest.fixture
def story(home: Path, monkeypatch: pytest.MonkeyPatch) -> Story:
    connections = {
        "mlflow_default": {"conn_type": "mlflow", "host": mlflow_server(), "login": "me", "password": SECRET},
        "mlflow_down": {"conn_type": "mlflow", "host": f"http://me:{SECRET}@127.0.0.1:9", "password": SECRET},
        "mlops_ledger_default": {"conn_type": "mlops_ledger", "host": f"sqlite:///{home}/ledger.db"},
        "ledger_down": {"conn_type": "mlops_ledger", "host": "127.0.0.1", "port": 9, "password": SECRET, "login": "me"},
        "feast_default": {"conn_type": "feast", "host": str(DAGS.parent / "feature_repo")},
    }
    for name, connection in connections.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(connection))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return Story(home)


def test_nothing_planted_is_found_outside_the_data(story: Story, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    home = story.home
    planted = [*day_of_a_feed(story), *model_of_a_snapshot(story), SECRET]
    story.said.append(caplog.text)
    assert len("\n".join(story.said)) > 10_000, "what was said was collected"
    assert len(list((home / "reports").glob("*.html"))) == 2

    everything = [*left_outside_the_data(home), ("what tasks said", "\n".join(story.said).encode())]
    assert {"mlflow.db", "ledger.db", "saved_model.pb"} <= {Path(name).name for name, _ in everything}
    assert found(planted, everything) == []

    # The search finds rows where they are: in the golden predictions as they were made of test rows once.
    golden = home / "models" / MODEL / "1" / GOLDEN_FILE
    rows = read_split(read_spec(trained().path).snapshot, "test").slice(0, 32)
    golden.write_text(json.dumps({"inputs": rows.select(list(FEATURES)).to_pydict(), "outputs": {}}))
    assert {name for name, _ in found(planted, left_outside_the_data(home))} == {str(golden)}


def day_of_a_feed(story: Story) -> list[str]:
    """Validate and check a landed day that is refused for what was planted; return what was."""
    ids = [f"{PLANTED}id-{n}" for n in range(4)]

    def plant(frame: Any) -> Any:
        frame.loc[frame.index[:4], "carrier"] = ids
        frame.loc[frame.index[:4], "tailnum"] = ids
        frame.loc[frame.index[0], "dep_delay"] = 98765.4321
        return frame

    folder = spoil(landed(story.home / "lake"), plant)
    of_day = {"dataset": "departures", "key": KEY}
    with pytest.raises(Exception, match="do not hold"):
        story.run(GXValidateDataOperator, suite="flights.expectations:departures", data=str(folder), **of_day)
    with pytest.raises(Exception, match="schema_casing on 'carrier'"):
        story.run(
            CheckPartitionOperator,
            uri=str(folder),
            event_time=EVENT_TIMES["departures"],
            validation={"batch_hash": batch_hash(parquet_files(folder)), "suite_hash": "suite"},
            checks={"slices": ["carrier", "origin"], "contract": "flights.contracts:departures"},
            **of_day,
        )
    return ids


def model_of_a_snapshot(story: Story) -> list[str]:
    """Evaluate, register, judge, fetch and publish a model whose training rows have planted values; return those."""
    workdir = copy_of(trained(), story.home / "trainings" / "t1")
    spec = read_spec(workdir.path)
    (workdir.path / "spec.json").write_text(spec.model_copy(update={"model": MODEL}).to_json())
    result = json.loads(workdir.result.read_text())
    workdir.result.write_text(json.dumps(result | {"spec_hash": read_spec(workdir.path).hash}))
    training = {"model": MODEL, "training": str(workdir.path)}

    evaluated = story.run(TensorFlowEvaluateModelOperator, **training, slices=["carrier", "aircraft_landed_in"])
    registered = story.run(MLflowRegisterModelOperator, **training, evaluation=evaluated["uri"])
    by = {"metric": "log_loss", "max": 9.0, "by": {"column": "aircraft_landed_in", "min_n": 1}}
    judging = {"model": MODEL, "version": registered["version"], "evaluation": evaluated["uri"]}
    story.run(MLflowJudgeModelOperator, **judging, gates=[{"metric": "auc", "min": 0.5}, by], outlets=[CHALLENGER])
    fetched = story.run(MLflowFetchApprovedModelOperator, model=MODEL)
    publish(Path(fetched["saved_model"]), story.home / "models" / MODEL, registered["version"])
    for conns in ({"mlflow_conn_id": "mlflow_down"}, {"ledger_conn_id": "ledger_down"}):
        with pytest.raises(MlopsError, match="fix:"):
            story.run(MLflowRegisterModelOperator, **training, evaluation=evaluated["uri"], **conns)
    with pytest.raises(Exception, match="no snapshot"):
        story.run(TensorFlowTrainOperator, model=MODEL, snapshot="none", entrypoint="flights.model:build")

    planted: list[str] = []
    for split in ("train", "test"):
        rows = read_split(spec.snapshot, split)
        texts = [text for text in rows["aircraft_landed_in"].to_pylist() if text and text.startswith(PLANTED)]
        planted += [*texts[:10], *rows[spec.snapshot.entity].to_pylist()[-10:]]
        for name in [name for name, kind in FEATURES.items() if kind == "double"]:
            planted += [repr(number)[:8] for number in rows[name].to_pylist()[:32] if number and abs(number) > 1]
    assert len(planted) > 500
    assert len(Golden.read(workdir.saved_model).outputs["probability"]) == 32
    return planted


def left_outside_the_data(home: Path) -> Iterator[tuple[str, bytes]]:
    """Yield every file that is not of the data layer, and all that MLflow has."""
    yield from files(home)
    yield from files(mlflow_folder())
