"""The Airflow floor of serving against a real server: operators, the deferrable sensor, the hook, the link."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSensorTimeout, TaskDeferred

from airflow_mlops.contracts import RegisteredModel, Verdict, VerdictStatus
from airflow_mlops.engine.data.files import tree_hash
from airflow_mlops.engine.evaluation.approvals import record_verdict
from airflow_mlops.engine.serving.deployments import deployments, moves
from airflow_mlops.engine.serving.golden import Golden
from airflow_mlops.exceptions import ConfigError, TransientError
from airflow_mlops.hooks.ledger import LedgerHook
from airflow_mlops.hooks.tf_serving import TFServingHook
from airflow_mlops.operators.tf_serving import (
    TFServingLoadVersionOperator,
    TFServingPinVersionOperator,
    TFServingPromoteVersionOperator,
    TFServingPublishModelOperator,
    TFServingRollbackOperator,
    TFServingUnpinVersionOperator,
    TFServingVerifyVersionOperator,
)
from airflow_mlops.sensors.tf_serving import TFServingVersionSensor
from airflow_mlops.triggers.tf_serving import TFServingVersionTrigger
from tests.serving_fixtures import INPUTS, free_port, make_saved_model


@dataclass
class TaskInstance:
    """As much of a running task as the operators look at."""

    dag_id: str = "flight_delay.deploy"
    run_id: str = "manual__1"
    xcoms: dict[str, Any] = field(default_factory=dict)

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcoms[key] = value


@dataclass
class Run:
    """As much of a DAG run as the operators look at."""

    run_id: str = "manual__1"
    triggering_user_name: str | None = "ann"


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {version: make_saved_model(folder / str(version), 0.3 * version) for version in (1, 2)}


@pytest.fixture
def connections(server, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_TF_SERVING_DEFAULT", server.connection())
    ledger = {"conn_type": "mlops_ledger", "host": f"sqlite:///{tmp_path}/ledger.db"}
    monkeypatch.setenv("AIRFLOW_CONN_MLOPS_LEDGER_DEFAULT", json.dumps(ledger))


@pytest.fixture
def ti() -> TaskInstance:
    return TaskInstance()


@pytest.fixture
def context(ti) -> dict[str, Any]:
    return {"ti": ti, "dag_run": Run()}


def answer(model: str, rows: dict[str, list[Any]]) -> list[float]:
    """Return what callers get."""
    arrays = {
        name: np.array(values, dtype=object if INPUTS[name] == "string" else None) for name, values in rows.items()
    }
    with TFServingHook().get_conn() as client:
        return client.predict(model, arrays, label="stable")["probability"].tolist()


async def wait(sensor: TFServingVersionSensor, context: dict[str, Any]) -> Any:
    """Run a sensor as worker and triggerer do between them."""
    try:
        return sensor.execute(context)
    except TaskDeferred as deferred:
        path, kwargs = deferred.trigger.serialize()
        assert path == "airflow_mlops.triggers.tf_serving.TFServingVersionTrigger"
        trigger = TFServingVersionTrigger(**json.loads(json.dumps(kwargs)))
        [event] = [event async for event in trigger.run()]
        return sensor.execute_complete(context, json.loads(json.dumps(event.payload)))


def passed(model: str, version: int, content: str) -> None:
    """Let a version have passed its gates."""
    registered = RegisteredModel(model=model, version=str(version), run_id="r", experiment_id="1", source="s")
    verdict = Verdict(model=model, status=VerdictStatus.PASS, checks=(), inputs_hash="h")
    record_verdict(LedgerHook().get_conn(), registered, verdict, snapshot_id="s", content=content)


async def deploy(model: str, version: int, source: Path, context: dict[str, Any]) -> list[dict[str, Any]]:
    """Run the tasks of a deploy DAG and return their manifests, as they come back from XCom."""
    target = {"model": model, "version": str(version)}
    passed(model, version, tree_hash(source))
    sensor = TFServingVersionSensor(task_id="wait", deferrable=True, poke_interval=0.05, timeout=30, **target)
    manifests = [
        TFServingPublishModelOperator(task_id="publish", source=str(source), **target).execute(context),
        TFServingLoadVersionOperator(task_id="load", **target).execute(context),
        await wait(sensor, context),
        TFServingVerifyVersionOperator(task_id="verify", **target).execute(context),
        TFServingPromoteVersionOperator(task_id="promote", **target).execute(context),
    ]
    return json.loads(json.dumps(manifests))


async def test_deploy_twice_and_roll_back(connections, server, models, context, ti):
    golden = {version: Golden.read(source) for version, source in models.items()}
    await deploy("flights", 1, models[1], context)
    assert answer("flights", golden[1].inputs) == pytest.approx(golden[1].outputs["probability"])

    published, loaded, available, verified, promoted = await deploy("flights", 2, models[2], context)
    assert published == {"model": "flights", "version": 2, "path": str(server.base / "flights" / "2")}
    assert loaded == {"model": "flights", "version": 2, "loaded": [1, 2]}
    assert available == {"model": "flights", "version": 2}
    assert verified == {"model": "flights", "version": 2, "rows": 4, "max_difference": pytest.approx(0, abs=1e-6)}
    assert promoted == {"model": "flights", "version": 2, "previous": 1}
    assert answer("flights", golden[1].inputs) == pytest.approx(golden[2].outputs["probability"])

    rollback = TFServingRollbackOperator(task_id="rollback", model="flights", reason="late flights")
    manifest = {"model": "flights", "version": 1, "from_version": 2, "until": None}
    assert rollback.execute(context) == manifest
    assert rollback.execute(context) == manifest, "a retry went back twice"
    assert answer("flights", golden[1].inputs) == pytest.approx(golden[1].outputs["probability"])
    [state] = deployments(LedgerHook().get_conn(), "flights")
    assert str(state.pin) == "version 1 is pinned by ann until it is lifted: late flights"
    assert ti.xcoms["tf_serving_model_link"] == f"http://127.0.0.1:{server.rest_port}/v1/models/flights"


def test_no_way_around_the_gate(connections, server, models, context, tmp_path):
    """Neither an unjudged version nor other bytes than those that were judged get near callers, whichever the task."""
    target = {"model": "gated", "version": 1}
    publish = {"task_id": "publish", "source": str(models[1]), **target}
    with pytest.raises(AirflowFailException, match=r"has not passed its gates(.|\n)*never judged"):
        TFServingPublishModelOperator(**publish).execute(context)
    passed("gated", 1, tree_hash(models[2]))
    with pytest.raises(AirflowFailException, match="is not what passed its gates"):
        TFServingPublishModelOperator(**publish).execute(context)
    assert not (server.base / "gated" / "1").exists()

    TFServingPublishModelOperator(**publish, require_verdict=False).execute(context)
    for task in (TFServingLoadVersionOperator, TFServingPromoteVersionOperator):
        with pytest.raises(AirflowFailException, match="is not what passed its gates"):
            task(task_id="t", **target).execute(context)
        if task is TFServingLoadVersionOperator:
            task(task_id="t", **target, require_verdict=False).execute(context)
    TFServingPromoteVersionOperator(task_id="promote", **target, require_verdict=False, passed=["a drill"]).execute(
        context
    )
    assert moves(LedgerHook().get_conn(), "tf_serving_default", "gated")[0].overrides == (
        "no verdict was required",
        "a drill",
    )


def test_pin_and_unpin(connections, server, context, ti):
    ledger = LedgerHook().get_conn()
    value = {"server": "tf_serving_default", "model": "pinned", "stable": 3}
    assert ledger.swap("deployment:tf_serving_default:pinned", value, None)
    pin = TFServingPinVersionOperator(task_id="pin", model="pinned", until="2999-01-01T00:00:00Z")
    assert pin.execute(context) == {
        "model": "pinned",
        "version": 3,
        "pinned": True,
        "who": "ann",
        "reason": "no reason was given",
        "until": "2999-01-01T00:00:00+00:00",
    }
    unpin = TFServingUnpinVersionOperator(task_id="unpin", model="pinned", who="bob", reason="repaired")
    assert unpin.execute(context)["pinned"] is False
    assert [(move.action, move.why) for move in moves(ledger, "tf_serving_default", "pinned")] == [
        ("unpin", "bob: repaired"),
        ("pin", "ann: no reason was given"),
    ]


async def test_a_version_given_up_fails_at_once_with_the_servers_words(connections, server, models, context):
    await deploy("fragile", 1, models[1], context)
    (server.base / "fragile" / "2").mkdir()
    load = {"task_id": "load", "model": "fragile", "version": 2}
    with pytest.raises(AirflowFailException, match="has not passed its gates"):
        TFServingLoadVersionOperator(**load).execute(context)
    TFServingLoadVersionOperator(**load, require_verdict=False).execute(context)
    assert moves(LedgerHook().get_conn(), "tf_serving_default", "fragile")[0].overrides == ("no verdict was required",)
    sensor = TFServingVersionSensor(
        task_id="wait", model="fragile", version=2, deferrable=True, poke_interval=0.05, timeout=30
    )
    with pytest.raises(AirflowFailException, match=r"not fit to serve(.|\n)*NOT_FOUND(.|\n)*Version 1 keeps serving"):
        await wait(sensor, context)
    assert "versions: 2" not in server.config_file.read_text().partition('"fragile"')[2].partition("config {")[0]
    assert answer("fragile", Golden.read(models[1]).inputs)


async def test_waiting_for_what_never_comes_ends(connections, context):
    sensor = TFServingVersionSensor(
        task_id="wait", model="nothing", version=1, deferrable=True, poke_interval=0.05, timeout=0.2
    )
    started = time.monotonic()
    with pytest.raises(AirflowSensorTimeout, match="version 1 of 'nothing' AVAILABLE"):
        await wait(sensor, context)
    assert time.monotonic() - started < 5


def test_the_sensor_also_waits_in_the_worker(connections, context):
    sensor = TFServingVersionSensor(task_id="wait", model="nothing", version=1, poke_interval=0.05, timeout=0.2)
    with pytest.raises(AirflowSensorTimeout):
        sensor.execute(context)


@pytest.mark.parametrize("version", ["", "None", "0", "-1", "v2", "1.0"])
def test_a_version_that_is_none_is_explained(connections, context, version):
    with pytest.raises(AirflowFailException, match=r"is not a version of a model(.|\n)*XCom"):
        TFServingLoadVersionOperator(task_id="load", model="flights", version=version).execute(context)


@pytest.mark.parametrize("model", ["../flights", "a/b", ".."])
def test_a_model_name_stays_inside_the_store(connections, context, model):
    with pytest.raises(AirflowFailException, match="cannot be the name of a model"):
        TFServingLoadVersionOperator(task_id="load", model=model, version=1).execute(context)


def test_a_missing_source_is_explained(connections, context, tmp_path):
    with pytest.raises(AirflowFailException, match="no SavedModel to publish"):
        TFServingPublishModelOperator(
            task_id="publish", model="flights", version=9, source=str(tmp_path / "nowhere")
        ).execute(context)


def test_a_server_that_is_down_is_worth_a_retry(connections, server, context, monkeypatch):
    connection = json.loads(server.connection())
    connection["extra"] = json.dumps({**json.loads(connection["extra"]), "grpc_port": free_port(), "timeout": 1})
    monkeypatch.setenv("AIRFLOW_CONN_TF_SERVING_DEFAULT", json.dumps(connection))
    with pytest.raises(TransientError, match=r"does not answer(.|\n)*fix:"):
        TFServingLoadVersionOperator(task_id="load", model="flights", version=1).execute(context)


@pytest.mark.parametrize("field", ["model_base_path", "model_config_file"])
def test_a_connection_without_its_paths_is_explained(connections, server, context, monkeypatch, field):
    connection = json.loads(server.connection())
    connection["extra"] = json.dumps({**json.loads(connection["extra"]), field: ""})
    monkeypatch.setenv("AIRFLOW_CONN_TF_SERVING_DEFAULT", json.dumps(connection))
    with pytest.raises(AirflowFailException, match=f"does not say its {field}"):
        TFServingLoadVersionOperator(task_id="load", model="flights", version=1).execute(context)


def test_the_test_button(connections, server):
    assert TFServingHook().test_connection() == (
        True,
        f"The model server at 127.0.0.1:{server.grpc_port} answers.",
    )


def test_the_server_says_its_tensorflow_and_the_connection_may(connections, server, monkeypatch):
    assert TFServingHook().tensorflow_version() == version("tensorflow")
    connection = json.loads(server.connection())
    connection["extra"] = json.dumps({**json.loads(connection["extra"]), "tensorflow_version": "1.15.5"})
    monkeypatch.setenv("AIRFLOW_CONN_TF_SERVING_DEFAULT", json.dumps(connection))
    assert TFServingHook().tensorflow_version() == "1.15.5"
    for wrong in ("latest", "2,21"):
        connection["extra"] = json.dumps({**json.loads(connection["extra"]), "tensorflow_version": wrong})
        monkeypatch.setenv("AIRFLOW_CONN_TF_SERVING_DEFAULT", json.dumps(connection))
        with pytest.raises(ConfigError, match=f"tensorflow_version='{wrong}' .* is no version"):
            TFServingHook().tensorflow_version()


def test_a_server_that_need_not_load_the_model_gets_none(connections, server, models, monkeypatch, tmp_path):
    source = tmp_path / "model"
    shutil.copytree(models[1], source)
    (source / "assets.extra" / "manifest.json").write_text(json.dumps({"versions": {"tensorflow": "2.21.0"}}))
    connection = json.loads(server.connection())
    connection["extra"] = json.dumps({**json.loads(connection["extra"]), "tensorflow_version": "1.15.5"})
    monkeypatch.setenv("AIRFLOW_CONN_TF_SERVING_DEFAULT", json.dumps(connection))
    passed("aged", 1, tree_hash(source))
    with pytest.raises(AirflowFailException, match=r"TensorFlow 1\.15\.5 need not load a model of TensorFlow 2\.21\.0"):
        TFServingPublishModelOperator(task_id="p", model="aged", version=1, source=str(source)).execute(
            {"ti": TaskInstance()}
        )
    assert not (server.base / "aged" / "1").exists()
