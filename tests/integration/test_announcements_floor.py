"""The Airflow floor of announcements: what the sensor shows while it holds, and what asset events leave behind."""

from __future__ import annotations

import json
import logging
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException, AirflowSensorTimeout, TaskDeferred
from airflow.sdk.execution_time.comms import AssetEventDagRunReferenceResult
from airflow.sdk.execution_time.context import TriggeringAssetEventsAccessor

from airflow_mlops.assets import announcements_asset, partitions_asset
from airflow_mlops.engine.data.announcements import announce, announced
from airflow_mlops.engine.data.sources import announcements
from airflow_mlops.links.gx import GXValidationReportLink
from airflow_mlops.operators.announcements import RecordAnnouncementsOperator
from airflow_mlops.sensors.readiness import TrainingDataSensor
from airflow_mlops.templates.sources import sources_dag
from airflow_mlops.triggers.readiness import TrainingDataTrigger
from tests.small_days import ledger_of, seal_day, seal_days
from tests.unit.test_pipeline import pipeline

SOURCES = [{"dataset": name, "start": "2013-01-01"} for name in ("departures", "arrivals")]
AS_OF = "2013-01-04T23:30:00-05:00"  # 2013-01-05 in UTC


class Pushed:
    """What a task pushed: the part of a task instance that the sensor talks to."""

    def __init__(self) -> None:
        self.xcoms: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcoms[key] = value


@pytest.fixture
def own(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four sealed days of both datasets, and the connection to the ledger."""
    monkeypatch.setenv("AIRFLOW__MLOPS__HOME", str(home))
    connection = {"conn_type": "mlops_ledger", "host": ledger_of(home).url}
    monkeypatch.setenv("AIRFLOW_CONN_MLOPS_LEDGER_DEFAULT", json.dumps(connection))
    for dataset in ("departures", "arrivals"):
        seal_days(home, dataset, 4)
    return home


def sensor(**changes: Any) -> TrainingDataSensor:
    return TrainingDataSensor(task_id="t", **{"sources": SOURCES, "as_of": AS_OF, "deferrable": True, **changes})


# --- the sensor -------------------------------------------------------------------------------------------


def test_ready_data_passes_at_once(own: Path):
    result = sensor().execute({"ti": Pushed()})
    assert result["as_of"] == "2013-01-05T00:00:00+00:00"
    assert result["watermarks"] == dict.fromkeys(("departures", "arrivals"), result["as_of"])


async def test_it_holds_visibly_and_goes_on(own: Path, caplog: pytest.LogCaptureFixture):
    """Not sealed, then degraded, then well: each change of reasons is logged once."""
    ledger, task = ledger_of(own), Pushed()
    announce(ledger, "arrivals", "degraded", "half of the gates", "ann")
    late = "2013-01-06T00:00:00+00:00"
    with pytest.raises(TaskDeferred) as deferred:
        sensor(as_of=late).execute({"ti": task})
    assert [reason.partition(" ")[0] for reason in task.xcoms["holding"]] == ["departures:", "arrivals:", "arrivals:"]

    class Watched(TrainingDataTrigger):
        steps = 0

        def poll(self):
            found = super().poll()
            self.steps += 1
            if self.steps == 3:  # the first two saw the same
                seal_day(own, "departures", date(2013, 1, 5))
                seal_day(own, "arrivals", date(2013, 1, 5))
            if self.steps == 4:
                announce(ledger, "arrivals", "ok", "mended", "ann")
            return found

    _, arguments = deferred.value.trigger.serialize()
    trigger = Watched(**{**json.loads(json.dumps(arguments)), "poll_interval": 0.01})
    with caplog.at_level(logging.INFO, logger="airflow_mlops.triggers.readiness"):
        [event] = [event.payload async for event in trigger.run()]
    assert event["status"] == "success"
    assert sensor().execute_complete({}, event)["watermarks"]["arrivals"] == late
    lines = [record.getMessage() for record in caplog.records if record.name == "airflow_mlops.triggers.readiness"]
    assert len(lines) == 3
    assert "partition 2013-01-05 is not sealed" in lines[0]
    assert lines[1].startswith("Training holds: arrivals: degraded since ")
    assert lines[1].endswith("by ann: half of the gates")
    assert lines[2] == "Training holds: no longer"


def test_the_reasons_are_in_the_message_when_it_gives_up(own: Path):
    announce(ledger_of(own), "departures", "degraded", "half of the gates", "ann")
    with pytest.raises(AirflowSensorTimeout, match=r"departures: degraded since .* by ann: half of the gates"):
        sensor().execute_complete({"ti": Pushed()}, {"status": "timeout"})


def test_what_came_at_the_last_moment_counts(own: Path):
    assert sensor().execute_complete({"ti": Pushed()}, {"status": "timeout"})["watermarks"]


async def test_a_ledger_that_is_down_keeps_it_waiting_until_the_timeout(own: Path, monkeypatch):
    connection = {"conn_type": "mlops_ledger", "host": "127.0.0.1", "port": 9, "login": "nobody", "schema": "nothing"}
    monkeypatch.setenv("AIRFLOW_CONN_MLOPS_LEDGER_DEFAULT", json.dumps(connection))
    task = Pushed()
    with pytest.raises(TaskDeferred) as deferred:
        sensor(poke_interval=0.01, timeout=0.2).execute({"ti": task})
    assert "database does not answer" in task.xcoms["holding"][0]
    assert [event.payload async for event in deferred.value.trigger.run()] == [{"status": "timeout", "seen": ""}]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"as_of": "2013-01-05T00:00:00"}, "Write it with its time zone"),
        ({"as_of": "soon"}, "is not a moment"),
        ({"sources": [{"dataset": "departures", "start": "January"}]}, "start='January' is not a day"),
    ],
)
def test_what_cannot_work_fails_at_once_in_words(own: Path, changes: dict[str, Any], words: str):
    with pytest.raises(AirflowFailException, match=words):
        sensor(**changes).execute({"ti": Pushed()})


async def test_the_trigger_says_that_there_is_no_connection(own: Path):
    arguments = {"home": str(own), "sources": SOURCES, "as_of": AS_OF, "model": None, "ledger_conn_id": "nowhere"}
    trigger = TrainingDataTrigger(**arguments, poll_interval=1, deadline=time.time() + 60)
    [event] = [event.payload async for event in trigger.run()]
    assert (event["status"], event["headline"]) == ("error", "There is no Airflow connection 'nowhere'.")


# --- announcements by asset events ------------------------------------------------------------------------

SOON = datetime.now(UTC) + timedelta(minutes=1)


def event(dataset: str, minute: int, extra: dict[str, Any], dag: str | None = None) -> AssetEventDagRunReferenceResult:
    asset = announcements_asset(dataset)
    return AssetEventDagRunReferenceResult.model_validate(
        {
            "asset": {"name": asset.name, "uri": asset.uri, "extra": {}},
            "extra": extra,
            "source_task_id": dag and "t",
            "source_dag_id": dag,
            "source_run_id": dag and "r",
            "source_map_index": -1 if dag else None,
            "source_aliases": [],
            "timestamp": SOON + timedelta(minutes=minute),
        }
    )


def record(*events: AssetEventDagRunReferenceResult) -> dict[str, Any]:
    with DAG("d", schedule=None):
        operator = RecordAnnouncementsOperator(task_id="t")
    result = operator.execute({"triggering_asset_events": TriggeringAssetEventsAccessor.build(events)})
    assert json.loads(json.dumps(result)) == result, "an XCom is JSON"
    return result


def test_events_are_recorded_in_the_order_in_which_they_were_made(own: Path):
    result = record(
        event("departures", 2, {"state": "ok", "reason": "mended"}),
        event("departures", 1, {"state": "degraded", "reason": "late"}, dag="lake"),
        event("arrivals", 3, {"state": "degraded", "reason": "half"}),
    )
    assert result == {"states": {"departures": "ok", "arrivals": "degraded"}, "recorded": 3, "skipped": 0}
    told = announcements(ledger_of(own), "departures")
    assert [(one.state, one.reason) for one in told] == [("ok", "mended"), ("degraded", "late")]
    assert told[0].who.startswith("Airflow's REST API")
    assert told[1].who.startswith("DAG lake, ")


def test_recording_again_changes_nothing(own: Path):
    events = [event("departures", n, {"state": state, "reason": "x"}) for n, state in enumerate(("degraded", "ok"))]
    record(*events)
    before = announcements(ledger_of(own), "departures")
    assert record(*events) == {"states": {}, "recorded": 0, "skipped": 2}
    assert announcements(ledger_of(own), "departures") == before


def test_an_event_does_not_undo_what_a_person_said_after_it(own: Path):
    announce(ledger_of(own), "departures", "ok", "seen and mended", "ann")
    assert record(event("departures", -5, {"state": "degraded", "reason": "late"}))["skipped"] == 1
    assert announced(ledger_of(own), "departures").who == "ann"


def test_events_that_say_nothing_clear_fail_after_the_others_are_recorded(own: Path):
    with pytest.raises(AirflowFailException) as failed:
        record(
            event("departures", 1, {"state": "degarded", "reason": "typo"}),
            event("arrivals", 2, {}),
            event("departures", 3, {"state": "degraded", "reason": "half"}),
        )
    words = str(failed.value)
    assert "2 of 3 announcements" in words
    assert "Did you mean 'degraded'?" in words
    assert "arrivals at " in words
    assert announced(ledger_of(own), "departures").reason == "half"
    assert announced(ledger_of(own), "arrivals") is None


def test_other_assets_are_none_of_its_business(own: Path):
    other = event("departures", 1, {"state": "degraded", "reason": "x"})
    asset = partitions_asset("departures")
    other.asset.name, other.asset.uri = asset.name, asset.uri
    assert record(other)["recorded"] == 0


def test_the_dag_listens_to_both_sources_and_either_wakes_it():
    dag = sources_dag(pipeline())
    assert dag.dag_id == "m.sources"
    condition = dag.timetable.asset_condition
    assert type(condition).__name__ == "AssetAny"
    uris = {asset.uri for asset in condition.objects}
    assert uris == {"x-mlops://announcements/departures", "x-mlops://announcements/arrivals"}
    [task] = dag.tasks
    assert task.execution_timeout


# --- the link to a report ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "stored"),
    [
        ("", "/mlops/reports/x.html"),
        ("https://example.com/", "/mlops/reports/x.html"),
        ("https://example.com/airflow/", "/airflow/mlops/reports/x.html"),
    ],
)
def test_a_report_is_linked_below_the_path_of_airflow(monkeypatch: pytest.MonkeyPatch, base: str, stored: str):
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", base)
    task = Pushed()
    GXValidationReportLink.persist({"ti": task}, "/mlops/reports/x.html")
    assert task.xcoms == {"gx_validation_report_link": stored}
    GXValidationReportLink.persist({"ti": task}, "https://reports.example.com/x.html")
    assert task.xcoms == {"gx_validation_report_link": "https://reports.example.com/x.html"}
