"""The sensors and triggers on MLflow, against a real server."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSensorTimeout, TaskDeferred
from mlflow import MlflowClient

from airflow_mlops.engine.registry.connection import own_credentials
from airflow_mlops.engine.registry.registry import ERROR, Registry
from airflow_mlops.exceptions import ConfigError, TransientError
from airflow_mlops.hooks.mlflow import MLflowHook
from airflow_mlops.sensors.mlflow import MLflowAliasSensor, MLflowModelVersionTagSensor, MLflowRunSensor
from airflow_mlops.triggers import mlflow as triggers
from airflow_mlops.triggers.mlflow import MLflowAliasEventTrigger
from tests.integration.test_registry_versions import Plain, TaskInstance
from tests.training_fixtures import mlflow_server


@pytest.fixture(scope="module")
def client() -> MlflowClient:
    uri = mlflow_server()
    return MlflowClient(uri, uri)


@pytest.fixture
def plain(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> Plain:
    """A model with three versions, and the connection to it in place."""
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps({"conn_type": "mlflow", "host": mlflow_server()}))
    plain = Plain(client)
    for _ in range(2):
        plain.bare()
    plain.trained(auc=0.7)
    return plain


async def wait(sensor: Any, meanwhile: Callable[[], Any]) -> tuple[Any, dict[str, Any]]:
    """Run a sensor as worker and triggerer do between them; return its result and its links."""
    ti = TaskInstance()
    with pytest.raises(TaskDeferred) as deferred:
        sensor.execute({"ti": ti})
    path, kwargs = deferred.value.trigger.serialize()
    trigger = getattr(triggers, path.rpartition(".")[2])(**json.loads(json.dumps(kwargs)))
    events = trigger.run()
    told = asyncio.create_task(anext(events))
    await asyncio.sleep(0.1)
    await asyncio.to_thread(meanwhile)
    payload = json.loads(json.dumps((await told).payload))
    return sensor.execute_complete({"ti": ti}, payload), ti.pushed


def sensor(cls: type, **arguments: Any) -> Any:
    return cls(task_id="t", deferrable=True, poke_interval=0.05, timeout=30, **arguments)


async def test_alias_is_waited_for_and_then_another_version(plain: Plain):
    target = {"model": plain.name, "alias": "champion", "version": 3}
    run_id = plain.client.get_model_version(plain.name, "3").run_id
    result, links = await wait(sensor(MLflowAliasSensor, model=plain.name), lambda: plain.alias("champion", "3"))
    assert result == {**target, "run_id": run_id}
    assert links["mlflow_model_version_link"].endswith(f"#/models/{plain.name}/versions/3")
    assert sensor(MLflowAliasSensor, model=plain.name, other_than="2").execute({"ti": TaskInstance()}) == result
    other = sensor(MLflowAliasSensor, model=plain.name, other_than=3)
    result, _ = await wait(other, lambda: plain.alias("champion", "1"))
    assert result == {**target, "version": 1, "run_id": ""}


async def test_what_is_there_instead_is_said_when_the_wait_is_over(plain: Plain):
    plain.alias("champion", "1")
    gives_up = {"deferrable": True, "poke_interval": 0.05, "timeout": 0.1, "task_id": "t"}
    for waits, says in (
        (MLflowAliasSensor(model=f"{plain.name}x", **gives_up), rf"Did you mean '{plain.name}'\?"),
        (MLflowAliasSensor(model=plain.name, alias="champoin", **gives_up), r"'champion'\? Its aliases: champion → 1"),
        (MLflowAliasSensor(model=plain.name, other_than=1, **gives_up), "points to version 1"),
        (
            MLflowModelVersionTagSensor(model=plain.name, version="champion", tag="ok", value="yes", **gives_up),
            "version 1 of .* has no tag 'ok'",
        ),
    ):
        with pytest.raises(AirflowSensorTimeout, match=says):
            await wait(waits, lambda: None)


async def test_tag_is_waited_for_on_a_version_and_on_an_alias(plain: Plain):
    def tag(version: str, value: str) -> None:
        plain.client.set_model_version_tag(plain.name, version, "approved", value)

    asked = {"model": plain.name, "tag": "approved", "value": "yes"}
    tag("2", "no")
    result, links = await wait(sensor(MLflowModelVersionTagSensor, version=2, **asked), lambda: tag("2", "yes"))
    assert result == {**asked, "version": 2}
    assert links["mlflow_model_version_link"].endswith("/versions/2")
    later = sensor(MLflowModelVersionTagSensor, version="candidate", **asked)
    result, _ = await wait(later, lambda: plain.alias("candidate", "2"))
    assert result == {**asked, "version": 2}
    with pytest.raises(AirflowFailException, match="has no version 9"):
        sensor(MLflowModelVersionTagSensor, version=9, **asked).execute({"ti": TaskInstance()})


async def test_run_is_waited_for_and_one_that_failed_fails(plain: Plain):
    def run(**tags: str) -> str:
        return plain.client.create_run(plain.experiment, tags=tags, run_name="nightly").info.run_id

    good = run()
    result, links = await wait(
        sensor(MLflowRunSensor, run_id=good), lambda: plain.client.set_terminated(good, "FINISHED")
    )
    assert result == {"run_id": good, "experiment_id": plain.experiment, "status": "FINISHED"}
    assert links["mlflow_run_link"].endswith(f"#/runs/{good}")
    for status, tags, says in (
        ("FAILED", {ERROR: "The loss is NaN."}, "'nightly' failed(.|\n)*The loss is NaN"),
        ("KILLED", {}, "'nightly' was killed(.|\n)*does not say why"),
    ):
        bad = run(**tags)
        with pytest.raises(AirflowFailException, match=says):
            await wait(
                sensor(MLflowRunSensor, run_id=bad), lambda bad=bad, to=status: plain.client.set_terminated(bad, to)
            )
    with pytest.raises(AirflowFailException, match=r"no MLflow run 'nightly'(.|\n)*not its name"):
        sensor(MLflowRunSensor, run_id="nightly").execute({"ti": TaskInstance()})


async def test_mlflow_down_fails_the_first_look_and_is_waited_out_after_it(plain: Plain, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("AIRFLOW_CONN_DOWN", json.dumps({"conn_type": "mlflow", "host": "http://127.0.0.1:9"}))
    waits = sensor(MLflowAliasSensor, model=plain.name, mlflow_conn_id="down")
    with pytest.raises(TransientError, match="MLflow does not answer"):
        waits.execute({"ti": TaskInstance()})
    [event] = [event.payload async for event in waits.trigger(deadline=time.time() + 0.1).run()]
    assert event["status"] == "timeout"
    assert "MLflow does not answer" in event["seen"]


# --- every move of an alias -------------------------------------------------------------------------------


class Store(dict):
    """Airflow's store of an asset's state, as a trigger sees it; ``broken`` raises what it raises."""

    broken: Exception | None = None

    async def aget(self, key: str) -> Any:
        if self.broken:
            raise self.broken
        return self.get(key)

    async def aset(self, key: str, value: Any) -> None:
        if self.broken:
            raise self.broken
        self[key] = json.loads(json.dumps(value))

    @property
    def version(self) -> int | None:
        return next((kept["version"] for kept in self.values()), None)


class Watching:
    """A watcher's trigger that runs in the background, as in a triggerer."""

    def __init__(self, plain: Plain, store: Store | None) -> None:
        self.trigger = MLflowAliasEventTrigger(model=plain.name, poll_interval=0.05)
        self.trigger.asset_state_store = store
        self.told: list[dict[str, Any]] = []
        self.looks = 0
        ask = self.trigger._ask

        def counted(hook: MLflowHook) -> Any:
            self.looks += 1  # so that more than one says that one was taken in
            return ask(hook)

        self.trigger._ask = counted

    async def __aenter__(self) -> Watching:
        self.task = asyncio.create_task(self._listen(self.trigger.run()))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()

    async def _listen(self, events: AsyncIterator[Any]) -> None:
        async for event in events:
            self.told.append(json.loads(json.dumps(event.payload)))

    async def until(self, there: Callable[[], Any]) -> None:
        deadline = time.monotonic() + 30
        while not there():
            assert time.monotonic() < deadline
            assert not self.task.done(), self.task.exception()
            await asyncio.sleep(0.02)

    @property
    def versions(self) -> list[int]:
        return [payload["version"] for payload in self.told]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triggers, "_PERSISTED_AFTER", 0.05)


async def test_every_move_is_told_once_also_over_restarts(plain: Plain, quick: None):
    store = Store()
    async with Watching(plain, store) as watching:
        await watching.until(lambda: store.version == 0)
        plain.alias("champion", "3")
        await watching.until(lambda: store.version == 3)
    run_id = plain.client.get_model_version(plain.name, "3").run_id
    assert watching.told == [{"model": plain.name, "alias": "champion", "version": 3, "run_id": run_id}]

    async with Watching(plain, store) as again:  # nothing moved
        await again.until(lambda: again.looks > 2)
    assert again.told == []

    plain.alias("champion", "1")  # while no triggerer runs
    async with Watching(plain, store) as later:
        await later.until(lambda: store.version == 1)
        plain.client.delete_registered_model_alias(plain.name, "champion")
        await later.until(lambda: store.version == 0)
        plain.alias("champion", "1")
        await later.until(lambda: store.version == 1)
    assert later.versions == [1, 1]


async def test_killed_before_it_was_kept_a_move_is_told_again(plain: Plain, monkeypatch: pytest.MonkeyPatch):
    plain.alias("champion", "1")
    store = Store()
    async with Watching(plain, store) as watching:
        await watching.until(lambda: store.version == 1)
        plain.alias("champion", "2")
        await watching.until(lambda: watching.versions == [2])
    assert store.version == 1, "kept only when the triggerer has had time to write the event down"
    monkeypatch.setattr(triggers, "_PERSISTED_AFTER", 0.05)
    async with Watching(plain, store) as again:
        await again.until(lambda: store.version == 2)
    assert again.versions == [2]


async def test_without_a_place_in_the_store_it_starts_from_what_is_there(plain: Plain, quick: None):
    plain.alias("champion", "1")
    shared = Store()
    shared.broken = ValueError("Task has 2 concrete inlets and outlets")
    for store in (None, shared):
        async with Watching(plain, store) as watching:
            await watching.until(lambda watching=watching: watching.looks > 1)
            plain.alias("champion", "2")
            await watching.until(lambda watching=watching: watching.versions == [2])
        plain.alias("champion", "1")


async def test_trouble_is_waited_out_and_the_connection_may_be_corrected(
    plain: Plain, quick: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    right = os.environ["AIRFLOW_CONN_MLFLOW_DEFAULT"]
    plain.alias("champion", "1")
    store = Store()
    async with Watching(plain, store) as watching:
        await watching.until(lambda: store.version == 1)
    for wrong in ({"conn_type": "http", "host": "x"}, {"conn_type": "mlflow", "host": "http://127.0.0.1:9"}):
        monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps(wrong))
        async with Watching(plain, store) as watching:
            await watching.until(lambda watching=watching: watching.trigger._said)
            plain.alias("champion", "2")
            monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", right)
            await watching.until(lambda: store.version == 2)
        assert watching.versions == [2]
        plain.alias("champion", "1")
        async with Watching(plain, store) as watching:
            await watching.until(lambda: store.version == 1)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"poll_interval": timedelta(minutes=1)}, "number of seconds"),
        ({"poll_interval": 0}, "number of seconds"),
        ({"model": "{{ var.value.model }}"}, "nothing is rendered"),
        ({"alias": ""}, "needs a model and an alias"),
    ],
)
def test_a_watcher_that_could_see_nothing_is_refused_when_the_file_is_parsed(changes: dict[str, Any], says: str):
    with pytest.raises(ConfigError, match=says):
        MLflowAliasEventTrigger(**{"model": "m", **changes})


def test_each_connection_keeps_its_credentials(monkeypatch: pytest.MonkeyPatch):
    """Many connections share a triggerer, and MLflow's client takes credentials from the environment."""
    seen: list[str] = []

    class Recorder(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append(self.headers.get("Authorization", ""))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: Any) -> None:
            pass

    servers = [HTTPServer(("127.0.0.1", 0), Recorder) for _ in range(3)]
    for server in servers:
        Thread(target=server.serve_forever, daemon=True).start()
    said = ({"token": "one"}, {"username": "me", "password": "two"}, {})
    registries = [
        Registry(f"http://127.0.0.1:{server.server_port}", lookups_only=True, **credentials)
        for server, credentials in zip(servers, said, strict=True)
    ]
    for registry in [*registries, *registries]:
        registry.check()
    for server in servers:
        server.shutdown()
    assert seen == ["Bearer one", "Basic bWU6dHdv", ""] * 2
    there = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_TRACKING_")}
    with own_credentials():
        Registry(mlflow_server(), username="me", password="two")
        assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "two"
    assert {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_TRACKING_")} == there == {}
