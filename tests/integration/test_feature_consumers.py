"""Who reads which feature; and a version whose features have moved on does not serve again. Ledger alone."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from airflow.sdk.exceptions import AirflowFailException

from airflow_mlops.engine.features.governance.apply import apply_repo, last_applied
from airflow_mlops.engine.features.governance.consumers import (
    KIND,
    Override,
    check_features,
    consumers,
    in_service,
    read_by,
    record_model,
    unused,
)
from airflow_mlops.engine.features.materialization.watermarks import Watermark, pointer_name
from airflow_mlops.engine.features.project.location import Location
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.serving.golden import Golden
from airflow_mlops.exceptions import ConfigError, GateError
from airflow_mlops.hooks.tf_serving import TFServingHook
from airflow_mlops.operators.tf_serving import (
    TFServingLoadVersionOperator,
    TFServingPromoteVersionOperator,
    TFServingPublishModelOperator,
    TFServingRollbackOperator,
)
from airflow_mlops.sensors.tf_serving import TFServingVersionSensor
from tests.governed_features import edit, governed, ledger_of, register, serve, snapshot_of
from tests.serving_fixtures import INPUTS, make_saved_model


@pytest.fixture
def location(tmp_path) -> Location:
    return governed(tmp_path)


@pytest.fixture
def ledger(location) -> Ledger:
    return ledger_of(location)


def break_service(location: Location, ledger: Ledger) -> None:
    """Change what shop_v1 means, as if nothing served: what somebody does who applies with Feast alone."""
    edit(location, "n * p if", "n + p if")
    apply_repo(location, ledger)


# --- who reads what -----------------------------------------------------------------------------------------


def test_consumers_of_each_feature(location, ledger):
    repo = apply_repo(location, ledger)
    register(ledger, 3)
    register(ledger, 4)
    register(ledger, 1, model="other")
    serve(ledger, 4, previous=3)
    found = {feature: [str(one) for one in readers] for feature, readers in consumers(ledger, repo).items()}
    readers = ["other 1", "turnover 3 (tf_serving_default: previous)", "turnover 4 (tf_serving_default: stable)"]
    assert found == {
        "shop_sales:sales": readers,
        "shop_sales:visits": [],
        "item_price:price": readers,  # behind the on-demand view
        "basket_worth:worth": readers,
    }


def test_what_nobody_uses(location, ledger):
    edit(location, "shop_v1 = ", 'lonely = FeatureView(name="lonely", entities=[shop], ttl=timedelta(days=1), '
         'source=source("lonely"), schema=[Field(name="a", dtype=Int64), Field(name="b", dtype=Int64)], '
         "tags=OWNED)\n\n\nshop_v1 = ")  # fmt: skip
    repo = apply_repo(location, ledger)
    nothing = ("no feature service reads it", "no model was trained on it", "no served model reads it")
    assert {one.name: one.lacks for one in unused(ledger, repo)} == {
        "lonely": nothing,
        "shop_sales:visits": nothing,
        "shop_sales:sales": nothing[1:],
        "item_price": nothing[1:],
        "basket_worth": nothing[1:],
    }
    register(ledger, 3)
    assert {one.name: one.lacks for one in unused(ledger, repo)} == {
        "lonely": nothing,
        "shop_sales:visits": nothing,
        "shop_sales:sales": nothing[2:],
        "item_price": nothing[2:],
        "basket_worth": nothing[2:],
    }
    serve(ledger, 3)
    assert {one.name: one.lacks for one in unused(ledger, repo)} == {"lonely": nothing, "shop_sales:visits": nothing}


def test_a_feature_of_a_removed_service_is_still_known_by_its_models(location, ledger):
    apply_repo(location, ledger)
    register(ledger, 3)
    edit(location, 'name="shop_v1"', 'name="shop_v2"')
    repo = apply_repo(location, ledger)
    assert [str(one) for one in consumers(ledger, repo)["shop_sales:sales"]] == ["turnover 3"]


def test_registration_is_written_down_once_and_by_name_when_the_service_is_gone(location, ledger):
    apply_repo(location, ledger)
    snapshot = snapshot_of(ledger)
    for _ in range(2):
        record_model(ledger, "turnover", 3, snapshot)
    assert len(ledger.facts(KIND)) == 1
    assert read_by(ledger, "turnover", 3).features == (
        "shop_sales:sales",
        "item_price:price",
        "basket_worth:worth",
    )
    edit(location, 'name="shop_v1"', 'name="shop_v2"')
    repo = apply_repo(location, ledger)
    record_model(ledger, "turnover", 4, snapshot)
    assert read_by(ledger, "turnover", 4).features == ("weekday", "sales", "worth")
    assert [str(one) for one in consumers(ledger, repo)["basket_worth:worth"]] == ["turnover 3", "turnover 4"]


def test_where_a_version_is_in_service(ledger):
    serve(ledger, 4, previous=3)
    name = "deployment:other_server:turnover"
    assert ledger.swap(name, {"server": "other_server", "model": "turnover", "loaded": [4, 5], "stable": 4}, None)
    assert in_service(ledger) == {
        ("turnover", 3): ("tf_serving_default: previous",),
        ("turnover", 4): ("other_server: stable", "tf_serving_default: stable"),
        ("turnover", 5): ("other_server: loaded",),
    }


# --- may it serve -------------------------------------------------------------------------------------------


def test_a_version_on_what_it_was_trained_on_may_serve(location, ledger):
    apply_repo(location, ledger)
    register(ledger, 3, code="aaaa")
    check_features(ledger, "turnover", 3)
    edit(location, "tags={**OWNED},  # tags of shop_sales", 'tags={**OWNED, "team": "a"},')
    edit(
        location, 'Field(name="visits", dtype=Int64)', 'Field(name="visits", dtype=Int64), Field(name="m", dtype=Int64)'
    )
    apply_repo(location, ledger)
    assert ledger.swap(pointer_name("shops", "shop_sales"), Watermark(code="aaaa").to_value(), None)
    check_features(ledger, "turnover", 3)


def test_a_service_that_is_gone(location, ledger):
    apply_repo(location, ledger)
    register(ledger, 3)
    edit(location, 'name="shop_v1"', 'name="shop_v2"')
    apply_repo(location, ledger)
    with pytest.raises(GateError, match=r"version 3 of 'turnover'(.|\n)*the service is gone; there are: shop_v2"):
        check_features(ledger, "turnover", 3)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("n * p if", "n + p if", "types, order, keys, TTL or code"),
        ("timedelta(days=7)", "timedelta(days=1)", "types, order, keys, TTL or code"),
        (
            'features=[shop_sales[["sales"]], basket_worth]',
            "features=[shop_sales, basket_worth]",
            "with shop_sales:visits",
        ),
        ('features=[shop_sales[["sales"]], basket_worth]', "features=[basket_worth]", "without shop_sales:sales"),
        ('tags={**OWNED, "model": "turnover"}', 'tags={**OWNED, "status": "blocked"}', "the service is blocked"),
    ],
)
def test_a_service_that_means_something_else(location, ledger, old, new, said):
    apply_repo(location, ledger)
    register(ledger, 3)
    edit(location, old, new)
    apply_repo(location, ledger)
    with pytest.raises(GateError) as error:
        check_features(ledger, "turnover", 3)
    assert "'shop_v1' of Feast project 'shops'" in error.value.detail
    assert said in error.value.detail
    assert "snapshot-of-shop_v1" in error.value.hint


def test_online_values_of_other_code(location, ledger):
    """Same names, same types, another transformation."""
    apply_repo(location, ledger)
    register(ledger, 3, code="aaaa")
    for view, code in (("shop_sales", "aaaa"), ("item_price", "bbbb")):
        assert ledger.swap(pointer_name("shops", view), Watermark(code=code).to_value(), None)
    with pytest.raises(GateError, match="online values of 'item_price' are computed by code bbbb, trained on aaaa"):
        check_features(ledger, "turnover", 3)


def test_a_version_from_before_this_was_recorded_is_let_through_with_a_warning(location, ledger, caplog):
    apply_repo(location, ledger)
    check_features(ledger, "turnover", 3)
    assert "Nothing was recorded of the features of version 3 of 'turnover'" in caplog.text


def test_a_project_that_others_apply_is_let_through_with_a_warning(location, ledger, tmp_path, caplog):
    apply_repo(location, ledger)
    elsewhere = Ledger(f"sqlite:///{tmp_path}/elsewhere.db")
    record_model(elsewhere, "turnover", 3, snapshot_of(ledger, code="aaaa"))
    check_features(elsewhere, "turnover", 3)
    assert "Feast project 'shops' was not applied with this ledger" in caplog.text


def test_an_override_needs_a_name_and_a_reason(location, ledger):
    assert Override.of("", "  ") is None
    for who, reason in (("kim", ""), ("", "because")):
        with pytest.raises(ConfigError, match="needs a name and a reason"):
            Override.of(who, reason)
    apply_repo(location, ledger)
    register(ledger, 3)
    check_features(ledger, "turnover", 3, Override("kim", "no need"))
    assert ledger.facts("feature_override") == []
    break_service(location, ledger)
    check_features(ledger, "turnover", 3, Override("kim", "the newer one is down"))
    [fact] = ledger.facts("feature_override")
    assert (fact.subject, fact.key) == ("turnover", "3")
    assert fact.payload["who"] == "kim"
    assert fact.payload["reason"] == "the newer one is down"
    assert "the service means something else now" in fact.payload["changes"][0]


# --- a real server ------------------------------------------------------------------------------------------


@dataclass
class TaskInstance:
    """As much of a running task as the operators look at."""

    dag_id: str = "turnover.runbook"
    run_id: str = "manual__1"
    xcoms: dict[str, Any] = field(default_factory=dict)

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcoms[key] = value


@dataclass
class Run:
    """As much of a DAG run as the operators look at."""

    run_id: str = "manual__1"
    triggering_user_name: str = "ann"


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {version: make_saved_model(folder / str(version), 0.3 * version) for version in (1, 2)}


@pytest.fixture
def deployed(location, ledger, server, models, monkeypatch, request) -> str:  # noqa: PLR0917  fixtures
    """A model with version 2 in service and version 1 behind it, both trained on shop_v1 as it is applied."""
    monkeypatch.setenv("AIRFLOW_CONN_TF_SERVING_DEFAULT", server.connection())
    connection = {"conn_type": "mlops_ledger", "host": ledger.url}
    monkeypatch.setenv("AIRFLOW_CONN_MLOPS_LEDGER_DEFAULT", json.dumps(connection))
    model = request.node.name.partition("[")[0]
    apply_repo(location, ledger)
    for version, source in models.items():
        register(ledger, version, model=model)
        put_into_service(model, version, source)
    return model


def put_into_service(model: str, version: int, source: Path, **override: str) -> None:
    target = {"model": model, "version": version, "require_verdict": False}
    context = {"ti": TaskInstance(), "dag_run": Run()}
    TFServingPublishModelOperator(task_id="publish", source=str(source), **target, **override).execute(context)
    TFServingLoadVersionOperator(task_id="load", **target).execute(context)
    TFServingVersionSensor(
        task_id="wait", model=model, version=version, poke_interval=0.05, timeout=30, deferrable=False
    ).execute(context)
    TFServingPromoteVersionOperator(task_id="promote", **target, **override).execute(context)


def roll_back(model: str, run_id: str = "manual__1", **arguments: str) -> dict[str, Any]:
    rollback = TFServingRollbackOperator(task_id="rollback", model=model, **arguments)
    return rollback.execute({"ti": TaskInstance(run_id=run_id), "dag_run": Run()})


def answers_as(model: str, golden: Golden) -> bool:
    """Is it this version's answers that callers get?"""
    arrays = {
        name: np.array(values, dtype=object if INPUTS[name] == "string" else None)
        for name, values in golden.inputs.items()
    }
    with TFServingHook().get_conn() as client:
        answer = client.predict(model, arrays, label="stable")["probability"].tolist()
    return answer == pytest.approx(golden.outputs["probability"], abs=1e-6)


def test_rollback_with_feast_down_and_unchanged_features(deployed, location, models):
    shutil.rmtree(location.repo)
    shutil.rmtree(location.home / "feast")
    assert roll_back(deployed) == {"model": deployed, "version": 1, "from_version": 2, "until": None}
    assert answers_as(deployed, Golden.read(models[1]))


def test_rollback_to_features_that_have_moved_on_is_refused_and_can_be_overridden(deployed, location, ledger, models):
    deployment = f"deployment:tf_serving_default:{deployed}"
    state = ledger.pointer(deployment)
    assert ledger.swap(deployment, {**state.value, "loaded": [], "stable": None, "previous": None}, state)
    break_service(location, ledger)  # let in because nothing seems to serve
    assert ledger.swap(deployment, state.value, ledger.pointer(deployment))

    with pytest.raises(AirflowFailException, match=r"version 1 of(.|\n)*means something else now(.|\n)*override"):
        roll_back(deployed)
    assert answers_as(deployed, Golden.read(models[2])), "what served went on serving"
    with pytest.raises(AirflowFailException, match="needs a name and a reason"):
        roll_back(deployed, override_by="kim")

    override = {"override_by": "kim", "override_reason": "version 2 is worse"}
    back = {"model": deployed, "version": 1, "from_version": 2, "until": None}
    assert roll_back(deployed, **override) == back
    assert roll_back(deployed, **override) == back, "a retry went back twice"
    assert answers_as(deployed, Golden.read(models[1]))
    [fact] = ledger.facts("feature_override", deployed)
    assert fact.payload["who"] == "kim"


def test_publishing_and_promoting_a_version_whose_features_have_moved_on(deployed, location, ledger, models):
    model = f"{deployed}_late"
    register(ledger, 1, model=model)
    edit(location, 'name="shop_v1"', 'name="shop_v2"')
    with pytest.raises(ConfigError, match="is read by"):
        apply_repo(location, ledger)  # versions 1 and 2 of the deployed model read it
    for pointer in ledger.pointers("deployment:"):
        assert ledger.swap(pointer, {"server": "s", "model": "m"}, ledger.pointer(pointer))
    apply_repo(location, ledger)
    with pytest.raises(AirflowFailException, match="the service is gone"):
        put_into_service(model, 1, models[1])
    target = {"task_id": "promote", "model": model, "version": 1}
    put_into_service(model, 1, models[1], override_by="kim", override_reason="a drill")
    assert [fact.payload["reason"] for fact in ledger.facts("feature_override", model)] == ["a drill", "a drill"]
    TFServingPromoteVersionOperator(**target).execute({"ti": TaskInstance()})  # it serves already: nothing to ask
    assert last_applied(location, ledger).services.keys() == {"shop_v2"}
