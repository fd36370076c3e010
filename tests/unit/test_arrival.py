"""Waiting for a day to land: the engine's look, the sensor that looks first, the trigger that goes on looking."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSensorTimeout, TaskDeferred

from airflow_mlops.engine.data.arrival import look_for
from airflow_mlops.exceptions import ConfigError, DataError
from airflow_mlops.sensors.data import PartitionArrivalSensor
from airflow_mlops.triggers.data import PartitionArrivalTrigger
from tests.data_fixtures import KEY, landed, permission_lost


def sensor(home: Path, **kwargs) -> PartitionArrivalSensor:
    """A sensor as it is after rendering."""
    arguments = {"uri": "lake/departures", "key": KEY, "deferrable": True, "poll_interval": 0.05}
    return PartitionArrivalSensor(task_id="wait", home=str(home), **{**arguments, **kwargs})


def test_a_day_has_landed_when_its_marker_is_there(home):
    feed = home / "lake" / "departures"
    assert look_for(feed, KEY) is None  # not even the feed is there
    folder = landed(home / "lake")
    [file] = folder.glob("*.parquet")
    assert look_for(feed, KEY) == {"uri": str(folder), "files": 1, "bytes": file.stat().st_size}
    (folder / "_SUCCESS").unlink()
    assert look_for(feed, KEY) is None
    assert look_for(feed, "2013-01-16") is None


def test_an_empty_day_has_landed_too(home):
    """It is not waited for until the timeout: whoever reads it refuses it and says why."""
    folder = home / "lake" / "departures" / KEY
    folder.mkdir(parents=True)
    (folder / "_SUCCESS").touch()
    assert look_for(folder.parent, KEY) == {"uri": str(folder), "files": 0, "bytes": 0}


def test_lost_permission_is_not_mistaken_for_not_yet(home):
    feed = landed(home / "lake").parent
    with permission_lost(feed), pytest.raises(DataError, match="cannot be read"):
        look_for(feed, KEY)


def test_a_key_that_is_no_day_is_refused(home):
    with pytest.raises(ConfigError, match="not a partition key"):
        look_for(home, "2013-01-15T00:00:00+00:00")


def test_the_sensor_returns_at_once_when_the_day_is_there(home):
    folder = landed(home / "lake")
    result = sensor(home).execute({})
    assert result["uri"] == str(folder)
    assert json.loads(json.dumps(result)) == result
    assert sensor(home, uri=str(folder.parent)).execute({}) == result  # an absolute path needs no home


def test_the_sensor_defers_and_the_trigger_sees_the_day_land(home):
    waiting = sensor(home)
    with pytest.raises(TaskDeferred) as deferred:
        waiting.execute({})
    assert deferred.value.trigger.serialize()[1]["feed"] == str(home / "lake" / "departures")

    async def wait_while_it_lands() -> dict:
        events = deferred.value.trigger.run()
        event = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0.2)
        assert not event.done()
        await asyncio.to_thread(landed, home / "lake")
        return (await asyncio.wait_for(event, 30)).payload

    event = asyncio.run(wait_while_it_lands())
    assert waiting.execute_complete({}, event)["uri"] == str(home / "lake" / "departures" / KEY)


def test_the_sensor_gives_up_in_words(home):
    trigger = PartitionArrivalTrigger(feed=str(home), key=KEY, poll_interval=0.01, deadline=time.time() + 0.05)

    async def event() -> dict:
        return (await anext(trigger.run())).payload

    with pytest.raises(AirflowSensorTimeout, match="day 2013-01-15 complete in lake/departures"):
        sensor(home).execute_complete({}, asyncio.run(event()))


@pytest.mark.parametrize("key", [None, "None", ""])
def test_a_run_without_a_partition_key_is_told_how_to_get_one(key, home):
    with pytest.raises(AirflowFailException, match=r"This run has no partition key\.(.|\n)*Trigger the DAG with one"):
        sensor(home, key=key).execute({})


@pytest.mark.parametrize("key", ["2012-12-31", "2014-01-01"])
def test_a_day_that_never_lands_is_not_waited_for(key, home):
    sensor = PartitionArrivalSensor(
        task_id="wait", uri="lake/departures", key=key, first="2013-01-01", last="2013-12-31", home=str(home)
    )
    with pytest.raises(AirflowFailException, match=f"Day {key} never lands(.|\n)*2013-01-01 to 2013-12-31"):
        sensor.execute({})


def test_the_key_defaults_to_the_runs_partition():
    assert PartitionArrivalSensor(task_id="wait", uri="lake").key == "{{ partition_key }}"


def test_a_bucket_is_refused_in_words(home):
    with pytest.raises(AirflowFailException, match="uri is not a path"):
        sensor(home, uri="s3://lake/departures").execute({})
