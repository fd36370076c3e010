"""The operators of the features DAG with the landing feed and the sealed partitions on S3, by Airflow's connection."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import timedelta

import pytest
from airflow.sdk import DAG

from airflow_mlops import Checks
from airflow_mlops.operators.base import partition_store
from airflow_mlops.operators.data import CheckPartitionOperator, SealPartitionOperator
from airflow_mlops.operators.feast import FeastComputeFeaturesOperator
from airflow_mlops.operators.gx import GXValidateDataOperator
from airflow_mlops.sensors.data import PartitionArrivalSensor
from tests.data_fixtures import DAY, EVENT_TIMES, landed
from tests.feast_fixtures import REPO
from tests.integration.test_gx_floor import TaskInstance
from tests.integration.test_s3_partitions import client, connection, endpoint, keys, upload  # noqa: F401  fixtures

FLIGHTS = Checks(slices=["carrier"], unique=["flight_id"])
CHECKS = {"departures": FLIGHTS, "arrivals": FLIGHTS, "weather": Checks(slices=["origin"])}


@pytest.fixture
def floor(home, code_path, connection, monkeypatch):  # noqa: F811
    """Run a task of the features DAG on a home folder that holds no partitions."""
    monkeypatch.setenv("AIRFLOW__MLOPS__HOME", str(home))
    monkeypatch.setenv("AIRFLOW__MLOPS__PARTITIONS", f"s3://{connection}@lake/sealed")
    monkeypatch.setenv("AIRFLOW_CONN_FEAST_DEFAULT", json.dumps({"conn_type": "feast", "host": str(REPO)}))
    ledger = {"conn_type": "mlops_ledger", "host": f"sqlite:///{home}/ledger.db"}
    monkeypatch.setenv("AIRFLOW_CONN_MLOPS_LEDGER_DEFAULT", json.dumps(ledger))
    dag = DAG("flight_delay.features", schedule=None)
    dag.fileloc = f"{code_path}/flight_delay.py"

    def execute(cls, **arguments):
        operator = cls(task_id=f"t{len(dag.tasks)}", dag=dag, **arguments)
        return operator.execute({"ti": TaskInstance()})

    return execute


def test_a_day_goes_from_a_bucket_through_every_task_to_features(floor, home, client):  # noqa: F811
    key = str(DAY)
    for feed, event_time in EVENT_TIMES.items():
        upload(client, landed(home / "upstream", feed, DAY), f"landing/{feed}/{key}")
        arrival = floor(PartitionArrivalSensor, uri=f"s3://aws_default@lake/landing/{feed}", key=key)
        day = {"dataset": feed, "key": key}
        validation = floor(GXValidateDataOperator, data=arrival["uri"], suite=f"flights.expectations:{feed}", **day)
        common = {"uri": arrival["uri"], "event_time": event_time, "validation": validation, **day}
        checked = floor(CheckPartitionOperator, checks=asdict(CHECKS[feed]), **common)
        sealed = floor(SealPartitionOperator, **common)
        assert checked["rows"] == sealed["rows"] == validation["rows"]
    store = partition_store(home)
    assert not (home / "partitions").exists()
    profile = store.profile(store.get("departures", key))
    assert profile is not None
    assert sum(one.rows for one in profile.slices["carrier"].values()) == profile.rows
    assert f"sealed/departures/{key}/current.json" in keys(client, "sealed")
    computed = floor(
        FeastComputeFeaturesOperator,
        transform="flight_features:compute",
        datasets=list(EVENT_TIMES),
        history="7d",
        start=str(DAY),
        key=key,
    )
    assert computed["views"]["origin_weather"] == store.get("weather", key).rows
    assert store.watermark("departures", DAY).date() == DAY + timedelta(days=1)
