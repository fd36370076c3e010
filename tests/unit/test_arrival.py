"""Waiting for a day to land: the engine's look, the sensor that looks first, the trigger that goes on looking."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSensorTimeout, AirflowSkipException, TaskDeferred

from airflow_mlops.engine.data.arrival import look, look_for
from airflow_mlops.engine.data.files import sha256
from airflow_mlops.exceptions import ConfigError, DataError
from airflow_mlops.layout import Layout
from airflow_mlops.partitioning import Partitioning
from airflow_mlops.sensors.data import PartitionArrivalSensor
from airflow_mlops.triggers.data import GRACE, PartitionArrivalTrigger
from tests.data_fixtures import KEY, landed, permission_lost


def sensor(home: Path, **kwargs) -> PartitionArrivalSensor:
    """A sensor as it is after rendering."""
    arguments = {"uri": "lake/departures", "key": KEY, "deferrable": True, "poke_interval": 0.05}
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
    trigger = sensor(home, poke_interval=0.01).trigger(deadline=time.time() + 0.05)

    async def event() -> dict:
        return (await anext(trigger.run())).payload

    with pytest.raises(AirflowSensorTimeout, match="partition 2013-01-15 complete in lake/departures"):
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
    with pytest.raises(AirflowSkipException, match=f"Partition {key} never lands: .* 2013-01-01 to 2013-12-31"):
        sensor.execute({})


def test_the_key_defaults_to_the_runs_partition():
    assert PartitionArrivalSensor(task_id="wait", uri="lake").key == "{{ partition_key }}"


# --- what else can be asked for ---------------------------------------------------------------------------


def promise(folder: Path, **change) -> dict:
    """Write the upstream's manifest of what is there, and return it."""
    files = [
        {
            "name": file.name,
            "bytes": file.stat().st_size,
            "rows": pq.read_metadata(file).num_rows,
            "sha256": sha256(file),
        }
        for file in sorted(folder.glob("*.parquet"))
    ]
    files[0].update(change)
    manifest = {"files": files, "written_by": "upstream"}
    (folder / "files.json").write_text(json.dumps(manifest))
    return manifest


@pytest.fixture
def parts(home) -> Path:
    """A landed day in four files, without a marker."""
    folder = landed(home / "lake")
    [file] = folder.glob("*.parquet")
    table = pq.read_table(file)
    for path in folder.iterdir():
        path.unlink()
    for n in range(4):
        pq.write_table(table.slice(n * 100, 100), folder / f"part-{n}.parquet")
    return folder


def missing(folder: Path, **asked) -> str:
    return look(folder.parent, KEY, **{"marker": None, **asked}).missing


def test_all_files_of_the_manifest_must_be_there(parts):
    assert missing(parts, manifest="files.json") == "no manifest 'files.json', 4 files"
    promise(parts)
    assert missing(parts, manifest="files.json") == ""
    (parts / "part-2.parquet").rename(parts / "gone")
    assert missing(parts, manifest="files.json") == (
        "3 of 4 files of the manifest are there ('part-2.parquet' is not there)"
    )
    (parts / "gone").rename(parts / "part-2.parquet")
    shutil.copy(parts / "part-2.parquet", parts / "part-4.parquet")
    assert missing(parts, manifest="files.json") == "'part-4.parquet' is not in the manifest"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bytes": 10**6}, "of 1000000 bytes"),
        ({"rows": 101}, "has 100 rows, not 101"),
        ({"sha256": "0" * 64}, "'part-0.parquet' has other bytes"),
    ],
)
def test_files_must_be_as_the_manifest_says(change, words, parts):
    promise(parts, **change)
    assert words in missing(parts, manifest="files.json")
    assert missing(parts, manifest="files.json").startswith("3 of 4 files of the manifest are there (")


@pytest.mark.parametrize(
    ("text", "words"),
    [('{"files": [', "EOF"), ("{}", "files: Field required"), ('{"files": [{"name": "x"}]}', "files.0.bytes: ")],
)
def test_a_damaged_manifest_is_refused(text, words, parts):
    (parts / "files.json").write_text(text)
    with pytest.raises(DataError, match="upstream's manifest cannot be read") as refused:
        missing(parts, manifest="files.json")
    assert "files.json" in refused.value.detail
    assert words in refused.value.detail


def test_too_few_rows_and_half_written_files_are_waited_for(parts):
    assert missing(parts, min_rows=400) == ""
    assert missing(parts, min_rows=401) == "400 of at least 401 rows"
    half = parts / "part-1.parquet"
    half.write_bytes(half.read_bytes()[:-100])
    assert missing(parts, min_rows=100) == "'part-1.parquet' is not complete: it has no Parquet footer"
    half.write_bytes(b"")
    assert missing(parts, min_rows=100) == "'part-1.parquet' is not complete: it has no Parquet footer"
    promise_of_whole = {"files": [{"name": "part-1.parquet", "bytes": 0, "rows": 100}]}
    (parts / "files.json").write_text(json.dumps(promise_of_whole))
    assert "'part-1.parquet' has no Parquet footer" in missing(parts, manifest="files.json")


def test_what_changed_just_now_has_to_settle(parts):
    then = time.time() - 600
    for file in parts.iterdir():
        os.utime(file, (then, then))
    assert missing(parts, min_rows=1, settle=timedelta(minutes=9)) == ""
    assert missing(parts, min_rows=1, settle=timedelta(minutes=11)).startswith("last changed 60")
    (parts / "part-3.parquet").touch()
    assert missing(parts, min_rows=1, settle=timedelta(minutes=9)) == "last changed 0 s ago, 540 asked"


def test_everything_asked_for_must_hold(parts):
    asked = {"marker": "_DONE", "manifest": "files.json", "min_rows": 400, "settle": timedelta(minutes=1)}
    said = [missing(parts, **asked)]
    (parts / "_DONE").touch()
    said.append(missing(parts, **asked))
    for file in parts.iterdir():
        os.utime(file, (0, 0))
    said.append(missing(parts, **asked))
    promise(parts)
    os.utime(parts / "files.json", (0, 0))
    said += [missing(parts, **{**asked, "min_rows": 999}), missing(parts, **asked)]
    assert said == [
        "no marker '_DONE', 4 files; if none is written, say arrived='still'",
        "last changed 0 s ago, 60 asked",
        "no manifest 'files.json', 5 files",
        "400 of at least 999 rows",
        "",
    ]


def test_something_must_tell_when_a_day_is_complete(parts):
    with pytest.raises(ConfigError, match="Nothing tells when a day has landed"):
        missing(parts)


# --- what the sensor says ---------------------------------------------------------------------------------


def test_giving_up_says_what_was_missing(parts, home):
    promise(parts)
    (parts / "part-0.parquet").unlink()
    waiting = sensor(home, marker=None, manifest="files.json")
    with pytest.raises(AirflowSensorTimeout, match=r"3 of 4 files of the manifest are there \('part-0"):
        waiting.execute_complete({}, {"status": "timeout"})
    (home / "lake" / "departures" / KEY).rename(home / "away")
    promise(landed(home / "lake"))  # it came between the trigger's last look and this one
    assert waiting.execute_complete({}, {"status": "timeout"})["files"] == 1


class TaskInstance:
    def get_first_reschedule_date(self, context: object) -> datetime:
        return datetime.now(UTC) - timedelta(hours=3)


@pytest.mark.parametrize("mode", ["poke", "reschedule"])
def test_a_sensor_that_does_not_defer_says_the_same(mode, home):
    waiting = sensor(home, mode=mode, deferrable=False, timeout=0.01, poke_interval=0.02)
    says = (
        r"^Gave up waiting after 0 s\.\n  where: partition 2013-01-15 complete in lake/departures: nothing .*\n  fix: "
    )
    with pytest.raises(AirflowSensorTimeout, match=says):
        waiting.execute({"ti": TaskInstance()})
    skipping = sensor(home, mode=mode, deferrable=False, timeout=0.01, poke_interval=0.02, soft_fail=True)
    with pytest.raises(AirflowSkipException):
        skipping.execute({"ti": TaskInstance()})


def test_the_trigger_carries_every_setting(home):
    settings = {
        "marker": None,
        "manifest": "m.json",
        "settle": "5m",
        "late_after": "6h",
        "partitioning": "daily",
        "layout": "{key}/*",
        "lands": "",
        "ahead": False,
    }
    trigger = sensor(home, min_rows="42", **settings).trigger(deadline=1.0)
    _, carried = trigger.serialize()
    assert carried == {
        **settings,
        "min_rows": 42,
        "feed": str(home / "lake" / "departures"),
        "key": KEY,
        "poll_interval": 0.05,
        "deadline": 1.0,
        "since": pytest.approx(time.time(), abs=60),
        "told": False,
    }


def test_a_day_is_there_when_each_of_its_hours_is(home):
    feed = home / "lake" / "departures"
    for hour in range(23):
        folder = feed / f"{KEY}T{hour:02}00Z"
        folder.mkdir(parents=True)
        (folder / "a.csv").write_text("at,x\n")
        (folder / "_SUCCESS").touch()
    waiting = sensor(home, lands="hourly", deferrable=False, timeout=0)
    asked = {"layout": Layout("{key}/*", Partitioning("hourly"))}
    missing = look(feed, KEY, **asked).missing
    assert (
        missing
        == f"23 of 24 pieces are complete; of {KEY}T2300Z: nothing is there: there are "
        + ", ".join(f"'{KEY}T{hour:02}00Z'" for hour in range(3))
        + " …"
    )
    with pytest.raises(AirflowSensorTimeout, match="23 of 24 pieces are complete"):
        waiting.execute({"ti": TaskInstance()})
    (feed / f"{KEY}T2200Z").rename(feed / f"{KEY}T2300Z")
    assert f"of {KEY}T2200Z: " in look(feed, KEY, **asked).missing
    (feed / f"{KEY}T2200Z").mkdir()
    (feed / f"{KEY}T2200Z" / "_SUCCESS").touch()
    assert look(feed, KEY, **asked).arrival == {"uri": str(feed), "files": 23, "bytes": 23 * 5}


def test_what_is_there_when_its_week_begins_is_late_from_then_on(home):
    now = datetime.now(UTC)
    monday = (now - timedelta(days=now.weekday())).replace(hour=0, minute=0, second=0, microsecond=0)
    for ahead, after in ((True, 0), (False, 7)):
        due = (monday + timedelta(days=after)).timestamp() + 2 * 3600
        asked = {"since": monday.timestamp(), "ahead": ahead, "partitioning": "weekly"}
        with time_is(due - 1):
            assert late(home, f"{monday:%Y-%m-%d}", **asked).poll() is None
        with time_is(due + 1), pytest.raises(DataError, match="is late") as refused:
            late(home, f"{monday:%Y-%m-%d}", **asked).poll()
        assert f"of the {'beginning' if ahead else 'end'} of the partition" in refused.value.detail


def test_a_number_of_rows_is_one(home):
    with pytest.raises(AirflowFailException, match="'many' is not a number of rows"):
        sensor(home, min_rows="many").execute({})


def late(home: Path, key: str, since: float, **more) -> PartitionArrivalTrigger:
    waiting = sensor(home, key=key, late_after="2h", **more)
    waiting._since = since
    return waiting.trigger(deadline=time.time() + 60)


def test_a_day_that_lands_later_than_promised_fails_as_late(home):
    """Not at its timeout, and with the promise in the message."""
    now = datetime.now(UTC)
    yesterday = f"{now - timedelta(days=1):%Y-%m-%d}"
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0).timestamp()
    with time_is(midnight + 2 * 3600 - 1):
        assert late(home, yesterday, since=midnight - 9).poll() is None
    with time_is(midnight + 2 * 3600 + 1), pytest.raises(DataError, match=f"Partition {yesterday} is late") as refused:
        late(home, yesterday, since=midnight - 9).poll()
    assert "promised it within 2h of the end of the partition; nothing is there" in refused.value.detail
    with pytest.raises(AirflowFailException, match="is late"):
        sensor(home).execute_complete({}, asyncio.run(event_of(late(home, KEY, since=time.time() - 7201))))


def test_a_day_long_past_that_never_landed_is_not_waited_for_for_hours(home):
    now = time.time()
    with time_is(now + GRACE - 1):
        assert late(home, KEY, since=now).poll() is None
    with time_is(now + GRACE + 1), pytest.raises(DataError, match="is late") as refused:
        late(home, KEY, since=now).poll()
    assert "within 15 minutes of the first look" in refused.value.detail
    unpromised = sensor(home, timeout=24 * 3600).trigger(deadline=now + 24 * 3600)
    assert unpromised.deadline == pytest.approx(now + GRACE, abs=60), "nor where nothing was promised"
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    assert sensor(home, key=today, timeout=24 * 3600).trigger(deadline=now + 99).deadline == now + 99
    landed(home / "lake")
    with time_is(now + GRACE + 1):
        assert late(home, KEY, since=now).poll() is not None  # it is there: nothing to complain of


def test_the_first_look_of_a_rescheduled_sensor_was_in_an_earlier_process(home):
    waiting = sensor(home, mode="reschedule", deferrable=False, late_after="2h")
    with pytest.raises(AirflowFailException, match="is late"):
        waiting.execute({"ti": TaskInstance()})


async def event_of(trigger: PartitionArrivalTrigger) -> dict:
    return (await anext(trigger.run())).payload


@contextmanager
def time_is(moment: float) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("airflow_mlops.triggers.data.time.time", lambda: moment)
        yield
