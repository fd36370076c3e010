"""Partitions and landing feeds on a real S3 server (moto's), by a plain UPath and by Airflow's path and connection."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests
from airflow.sdk import ObjectStoragePath
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred
from airflow.sdk.io.store import _STORE_CACHE
from moto.server import ThreadedMotoServer
from upath import UPath

from airflow_mlops.contracts import Profile
from airflow_mlops.engine.data.arrival import look_for
from airflow_mlops.engine.data.parquet import parquet_files
from airflow_mlops.engine.data.partitions import PartitionStore, batch_hash
from airflow_mlops.engine.data.retention import sweep_partitions
from airflow_mlops.engine.data.storage import on_disk
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.exceptions import ConfigError, DataError, TransientError
from airflow_mlops.operators.base import path_of
from airflow_mlops.sensors.data import PartitionArrivalSensor
from tests.data_fixtures import DAY, KEY, landed, sealed, spoil

NOW = datetime(2013, 3, 1, tzinfo=UTC)
Bucket = Callable[[str], Any]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    _host, port = server.get_host_and_port()
    yield f"http://127.0.0.1:{port}"
    server.stop()


@pytest.fixture
def client(endpoint, monkeypatch) -> Any:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    requests.post(f"{endpoint}/moto-api/reset", timeout=10)
    client = boto3.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket="lake")
    return client


@pytest.fixture
def connection(client, endpoint, monkeypatch) -> str:
    extra = {"endpoint_url": endpoint, "region_name": "us-east-1"}
    value = {"conn_type": "aws", "login": "test", "password": "test", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(value))
    _STORE_CACHE.clear()  # it keeps what earlier connections opened, as long as the process lives
    return "aws_default"


@pytest.fixture(params=["UPath", "ObjectStoragePath"])
def bucket(request, endpoint, connection) -> Bucket:
    """Return how to open a path below the bucket."""
    if request.param == "UPath":
        return lambda path: UPath(f"s3://lake/{path}", endpoint_url=endpoint)
    return lambda path: ObjectStoragePath(f"s3://{connection}@lake/{path}")


def upload(client: Any, folder: Path, prefix: str) -> None:
    for file in sorted(folder.iterdir(), key=lambda file: file.name == "_SUCCESS"):
        client.upload_file(str(file), "lake", f"{prefix}/{file.name}")


def keys(client: Any, prefix: str = "") -> list[str]:
    listed = client.list_objects_v2(Bucket="lake", Prefix=prefix).get("Contents", [])
    return [found["Key"] for found in listed]


def seal(store: PartitionStore, folder: Any, key: str = KEY):
    hashed = batch_hash(parquet_files(folder))
    return store.seal("departures", key, folder, event_time="sched_dep_utc", batch_hash=hashed, suite_hash="suite")


def test_a_day_from_landing_to_retention(bucket, client, home):
    """Everything that a store does, all of it in the bucket."""
    feed, ledger = bucket("landing"), Ledger(f"sqlite:///{home / 'ledger.db'}")
    store = PartitionStore(bucket("sealed"), ledger)
    assert look_for(feed, KEY) is None
    folder = landed(home / "lake")
    upload(client, folder, f"landing/{KEY}")
    arrival = look_for(feed, KEY)
    [file] = folder.glob("*.parquet")
    assert arrival == {"uri": str(feed / KEY), "files": 1, "bytes": file.stat().st_size}

    old = seal(store, feed / KEY)
    assert keys(client, "sealed") == [
        f"sealed/departures/{KEY}/{old.revision}/{name}" for name in ("departures.parquet", "manifest.json")
    ] + [f"sealed/departures/{KEY}/{name}.json" for name in ("current", "decided")]
    assert old.uri == str(bucket("sealed") / "departures" / KEY / old.revision)
    assert old.receipt.written_at is not None and old.receipt.written_at.tzinfo is not None
    stamps = {name: client.head_object(Bucket="lake", Key=name)["LastModified"] for name in keys(client, "sealed")}
    upload(client, folder, f"landing/{KEY}")  # the same bytes, with another time
    assert seal(store, feed / KEY) == old
    assert {name: client.head_object(Bucket="lake", Key=name)["LastModified"] for name in stamps} == stamps
    assert old.files == sealed(home).files  # the same revision as on this machine
    assert old.revision == sealed(home).revision

    upload(client, spoil(folder, lambda frame: frame.iloc[3:]), f"landing/{KEY}")
    new = seal(store, feed / KEY)
    assert store.get("departures", KEY) == new
    assert {found.revision for found in store.revisions("departures", KEY)} == {old.revision, new.revision}
    assert store.read([old]).num_rows == new.rows + 3
    changed = store.diff("departures", KEY, old.revision, new.revision, unique=["flight_id"])
    assert (changed.rows_added, changed.rows_removed, changed.rows_changed) == (0, 3, 0)
    assert store.keys("departures") == [KEY]
    assert store.list("departures", DAY, DAY) == [new]
    assert store.list("departures", date(2013, 1, 16), None) == []
    assert store.watermark("departures", DAY) == datetime(2013, 1, 16, tzinfo=UTC)
    assert store.profile(new) is None
    profile = Profile(dataset="departures", revisions={KEY: new.revision}, rows=new.rows, columns={})
    store.write_profile("departures", KEY, new.revision, profile)
    assert store.profile(new) == profile

    swept = sweep_partitions(store, ledger, "departures", timedelta(days=365), now=NOW)
    assert [found.revision for found in swept.removed] == [old.revision]
    with pytest.raises(DataError, match=f"Revision {old.revision} .* is missing"):
        store.get("departures", KEY, old.revision)
    sweep_partitions(store, ledger, "departures", timedelta(days=7), now=NOW)
    assert keys(client, "sealed") == [f"sealed/departures/{KEY}/{name}.json" for name in ("decided", "removed")]


def test_the_feed_in_a_bucket_and_the_store_at_home_and_the_other_way_round(bucket, client, home):
    folder = landed(home / "lake")
    upload(client, folder, f"landing/{KEY}")
    here = seal(PartitionStore.under(home), bucket("landing") / KEY)
    there = seal(PartitionStore(bucket("sealed")), folder)
    assert here.revision == there.revision
    assert here.uri.startswith(str(home))
    table = PartitionStore(bucket("sealed")).read([there])
    assert table.equals(PartitionStore.under(home).read([here]))
    with on_disk(parquet_files(bucket("landing") / KEY)) as files:
        assert batch_hash(files) == batch_hash(parquet_files(folder))
    assert not files[0].exists()


@pytest.mark.parametrize("step", [1, 2, 3])
def test_an_upload_that_breaks_off_shows_nothing_and_a_rerun_heals_it(step, bucket, client, home, monkeypatch):
    """Two data files, the manifest, then current.json: it dies before the second, the third and the fourth."""
    folder = landed(home / "lake")
    [file] = folder.glob("*.parquet")
    file.with_name("more.parquet").write_bytes(file.read_bytes())
    store = PartitionStore(bucket("sealed"))
    fs = store.root.fs
    put_file, done = fs.put_file, []

    def dying(*arguments: Any) -> None:
        if len(done) == step:
            raise KeyboardInterrupt
        done.append(put_file(*arguments))

    def dead(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fs, "put_file", dying)
        patch.setattr(fs, "pipe_file", dead)
        with pytest.raises(KeyboardInterrupt):
            seal(store, folder)
    assert len(keys(client, "sealed")) == step
    with pytest.raises(DataError, match="There is no partition"):
        store.get("departures", KEY)
    assert store.keys("departures") == store.list("departures", None, None) == []
    assert len(store.revisions("departures", KEY)) == (1 if step == 3 else 0)
    partition = seal(store, folder)
    assert store.get("departures", KEY) == partition
    assert store.read([partition]).num_rows == partition.rows


def test_a_sweep_that_breaks_off_is_finished_by_the_next(bucket, client, home, monkeypatch):
    ledger = Ledger(f"sqlite:///{home / 'ledger.db'}")
    store = PartitionStore(bucket("sealed"), ledger)
    partition = seal(store, landed(home / "lake"))
    fs = store.root.fs
    rm = fs.rm

    def dying(path: str, **more: Any) -> None:
        if path.endswith(partition.revision):
            raise KeyboardInterrupt
        rm(path, **more)

    with monkeypatch.context() as patch:
        patch.setattr(fs, "rm", dying)
        with pytest.raises(KeyboardInterrupt):
            sweep_partitions(store, ledger, "departures", timedelta(days=7), now=NOW)
    assert f"sealed/departures/{KEY}/{partition.revision}/departures.parquet" in keys(client)
    with pytest.raises(DataError, match="is missing"):
        store.get("departures", KEY, partition.revision)
    sweep_partitions(store, ledger, "departures", timedelta(days=7), now=NOW)
    left = [name for name in keys(client, "sealed") if not name.endswith("/decided.json")]
    assert left == [f"sealed/departures/{KEY}/removed.json"]


def test_a_damaged_object_is_refused_and_sealing_again_heals_it(bucket, client, home):
    store, folder = PartitionStore(bucket("sealed")), landed(home / "lake")
    partition = seal(store, folder)
    name = f"sealed/departures/{KEY}/{partition.revision}/departures.parquet"
    for damage in (
        lambda: client.put_object(Bucket="lake", Key=name, Body=b"PAR1"),
        lambda: client.delete_object(Bucket="lake", Key=name),
    ):
        damage()
        with pytest.raises(DataError, match="A file of partition 2013-01-15"):
            store.read([partition])
        assert seal(store, folder) == partition
        assert store.read([partition]).num_rows == partition.rows


def test_a_poll_sees_what_landed_since_the_last_one(bucket, client, home):
    """s3fs would list the folder from memory."""
    feed, folder = bucket("landing"), landed(home / "lake")
    (file,) = folder.glob("*.parquet")
    for name, body in ((file.name, file.read_bytes()), ("_SUCCESS", b"")):
        assert look_for(feed, KEY) is None
        assert look_for(feed, KEY, marker=None, min_rows=10**6) is None
        client.put_object(Bucket="lake", Key=f"landing/{KEY}/{name}", Body=body)
    assert look_for(feed, KEY) is not None


def test_settling_goes_by_the_storages_clock(bucket, client, home, monkeypatch):
    upload(client, landed(home / "lake"), f"landing/{KEY}")
    assert look_for(bucket("landing"), KEY, settle=timedelta(hours=1)) is None
    monkeypatch.setattr("airflow_mlops.engine.data.storage.datetime", None)  # this machine's clock is not asked
    deadline = time.time() + 20
    while look_for(bucket("landing"), KEY, settle=timedelta(seconds=2)) is None:
        assert time.time() < deadline
        time.sleep(0.3)


# --- what cannot be reached -------------------------------------------------------------------------------


def everything(store: PartitionStore, feed: Any, folder: Path) -> list[Callable[[], Any]]:
    return [
        lambda: look_for(feed, KEY),
        lambda: parquet_files(feed / KEY),
        lambda: seal(store, folder),
        lambda: store.get("departures", KEY),
        lambda: store.keys("departures"),
        lambda: store.revisions("departures", KEY),
    ]


def test_a_bucket_that_is_not_there(endpoint, client, home):
    root = UPath("s3://leak/x", endpoint_url=endpoint)
    for step in everything(PartitionStore(root), root, landed(home / "lake")):
        with pytest.raises(DataError, match="no such bucket") as refused:
            step()
        assert "s3://leak/x" in refused.value.detail
        assert refused.value.__cause__ is None and refused.value.__suppress_context__


def test_wrong_credentials(endpoint, bucket, client, home):
    folder = landed(home / "lake")
    requests.post(f"{endpoint}/moto-api/reset-auth", data=b"0", timeout=10)  # from now on moto looks at them
    try:
        for step in everything(PartitionStore(bucket("x")), bucket("x"), folder):
            with pytest.raises(DataError, match="cannot be read or written") as refused:
                step()
            detail = refused.value.detail
            assert "lake/x" in detail
            assert "Access Key Id you provided does not exist" in detail or detail.endswith("Forbidden")  # to a HEAD
            assert refused.value.__suppress_context__
            if isinstance(bucket("x"), ObjectStoragePath):
                assert "Airflow connection 'aws_default'" in refused.value.hint
    finally:
        requests.post(f"{endpoint}/moto-api/reset-auth", data=b"inf", timeout=10)


def test_a_server_that_is_down_is_asked_again_later(client):
    nowhere = UPath("s3://lake/x", endpoint_url="http://127.0.0.1:9", config_kwargs={"retries": {"max_attempts": 0}})
    nowhere.fs.retries = 1
    with pytest.raises(TransientError, match="does not answer"):
        look_for(nowhere, KEY)


# --- the sensor -------------------------------------------------------------------------------------------


def sensor(**more: Any) -> PartitionArrivalSensor:
    arguments = {"uri": "s3://aws_default@lake/landing", "key": KEY, "deferrable": True, "poke_interval": 0.05}
    return PartitionArrivalSensor(task_id="wait", **{**arguments, **more})


def test_the_sensor_waits_for_a_bucket_by_its_connection(connection, client, home):
    waiting = sensor(settle="1s", min_rows=10)
    with pytest.raises(TaskDeferred) as deferred:
        waiting.execute({})
    trigger = deferred.value.trigger
    assert trigger.serialize()[1]["feed"] == "s3://aws_default@lake/landing"

    async def wait_while_it_lands() -> dict:
        event = asyncio.ensure_future(anext(trigger.run()))
        await asyncio.sleep(0.2)
        assert not event.done()
        await asyncio.to_thread(lambda: upload(client, landed(home / "lake"), f"landing/{KEY}"))
        return (await asyncio.wait_for(event, 30)).payload

    event = asyncio.run(wait_while_it_lands())
    assert waiting.execute_complete({}, event)["uri"] == f"s3://aws_default@lake/landing/{KEY}"


def test_the_sensor_says_that_the_bucket_is_not_there(connection):
    with pytest.raises(AirflowFailException, match=r"no such bucket(.|\n)*s3://aws_default@leak/landing"):
        sensor(uri="s3://aws_default@leak/landing").execute({})


def test_a_connection_that_is_not_there_is_not_replaced_by_the_machines_credentials(connection, client, home):
    upload(client, landed(home / "lake"), f"landing/{KEY}")
    with pytest.raises(AirflowFailException, match=r"no Airflow connection 'nope_conn'(.|\n)*AIRFLOW_CONN_NOPE_CONN"):
        sensor(uri="s3://nope_conn@lake/landing").execute({})
    trigger = sensor(uri="s3://aws_default@lake/landing").trigger(deadline=0)
    settings = {**trigger.serialize()[1], "feed": "s3://nope_conn@lake/landing"}

    async def event() -> dict:
        return (await anext(type(trigger)(**settings).run())).payload

    said = asyncio.run(event())
    assert (said["status"], said["retryable"]) == ("error", False)
    assert said["headline"] == "There is no Airflow connection 'nope_conn'."


@pytest.mark.parametrize("scheme", ["gs", "nope"])
def test_a_storage_that_nothing_opens_is_named(scheme):
    with pytest.raises(ConfigError, match=rf"cannot be opened here(.|\n)*{scheme}://b/x(.|\n)*gs: google"):
        path_of(f"{scheme}://b/x")
