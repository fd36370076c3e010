"""The pages without a server: whom they show what, an empty ledger, one that is down, MLflow that is gone."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from airflow.api_fastapi.common.db.common import _get_session
from airflow.api_fastapi.core_api.security import get_user
from airflow.models import import_all_models
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from fastapi.testclient import TestClient
from mlflow import MlflowClient
from mlflow.entities import Metric
from sqlalchemy import create_engine, insert
from sqlalchemy.orm import Session

from airflow_mlops.engine.features.project.schema import feature_file
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.ledger.models import FactRow
from airflow_mlops.engine.retraining.requests import ask, start
from airflow_mlops.ui import access, pages, profiles
from airflow_mlops.ui.app import create_app
from airflow_mlops.ui.drawing import direction
from tests.overview_fixtures import MARKUP, NOW, Story, day, seal_rows, tell

DOWN = "postgresql+psycopg2://x:planted-secret@127.0.0.1:1/x"
Open = Callable[..., TestClient]


class Allowed(access.Access):
    """What a user may do is said by the test."""

    def may_trigger(self, dag_id: str) -> bool:
        return dag_id in self.readable

    def may_change_assets(self) -> bool:
        return True


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(f"sqlite:///{tmp_path}/ledger.db")


@pytest.fixture
def open_as(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Return a browser of somebody who may read some of the DAGs there are."""

    def opened(
        dags: tuple[str, ...] = (),
        readable: tuple[str, ...] | None = None,
        url: str = "",
        *,
        running: str = "",
        failed: str = "",
        sealed: tuple[str, ...] = (),
    ) -> TestClient:
        monkeypatch.setattr(pages, "open_ledger", lambda: Ledger(url) if url else ledger)
        app = create_app()
        there = {name: access.Dag(name, paused=False, next_run=None, schedule="") for name in dags}
        may = frozenset(dags if readable is None else readable)
        made = Allowed(None, there, may, frozenset({running}), frozenset({failed}))  # type: ignore[arg-type]
        app.dependency_overrides[access.access] = lambda: made
        app.dependency_overrides[get_user] = lambda: None
        app.dependency_overrides[_get_session] = lambda: None
        monkeypatch.setattr(pages, "worked_on", lambda *_: {})
        monkeypatch.setattr(pages, "sealed_by", lambda *_: sealed)
        return TestClient(app, headers={"Accept": "text/html"}, raise_server_exceptions=False)

    return opened


def test_an_empty_ledger_says_how_to_begin(open_as: Open):
    answer = open_as().get("/models")
    assert answer.status_code == 200
    assert "There is no model yet." in answer.text


def test_a_model_is_there_as_soon_as_its_dags_are(open_as: Open):
    client = open_as(("shop.train", "shop.deploy", "other"))
    assert "/mlops/models/shop" in client.get("/models").text
    page = client.get("/models/shop")
    assert page.status_code == 200
    assert "No version yet." in page.text
    assert 'href="/dags/shop.train">train</a>, ' in page.text


def test_partitions_are_shown_before_anything_is_trained_on_them(open_as: Open, ledger: Ledger):
    story = Story(ledger, "hotel")
    story.data()
    with ledger.transaction(write=True) as connection:
        connection.execute(insert(FactRow), story.facts)
    dags = ("shop.train", "shop.backfill", "shop.features")
    page = open_as(dags, sealed=("orders",)).get("/models/shop").text
    assert f'data-key="{day(1)}"' in page
    assert f"orders {day(20)} blocked" in page
    assert open_as(dags, sealed=("orders",)).get("/models/shop/data/orders").status_code == 200
    page = open_as(dags, sealed=("refunds",)).get("/models/shop").text
    assert "Nothing was sealed yet" in page
    assert 'data-dag="shop.backfill"' in page, "the past can be loaded"


def test_a_ledger_that_is_down_is_said_and_its_secret_is_not(open_as: Open):
    client = open_as(("shop.train",), url=DOWN)
    for path in ("/models", "/models/shop", "/models/shop/versions/1"):
        answer = client.get(path)
        assert answer.status_code == 503, path
        assert "The ledger&#39;s database does not answer." in answer.text
        assert "planted-secret" not in answer.text
    assert "/mlops/models/shop" in client.get("/models").text, "what has a DAG is still listed"


def test_a_version_whose_run_is_gone_is_shown_all_the_same(
    open_as: Open, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tell(ledger, "shop")
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", f'{{"conn_type": "mlflow", "host": "sqlite:///{tmp_path}/m.db"}}')
    client = open_as()
    assert "trained on" in client.get("/models/shop/versions/6").text
    told = client.get("/models/shop/versions/6/registry", headers={"Accept": "application/json"})
    assert told.status_code == 404
    assert "'shop'" in told.json()["headline"]


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/versions/6",
        "/compare?one=4&two=6",
        "/data/orders",
        "/training",
        "/versions/6/registry",
        "/curves?version=6",
        "/features/per_day",
    ],
)
def test_who_may_not_read_a_model_is_refused_every_page_of_it(open_as: Open, ledger: Ledger, path: str):
    """One DAG that may not be read is enough; and whether there is such a model is not told either."""
    tell(ledger, "shop")
    client = open_as(("shop.train", "shop.deploy", "hotel.train"), ("shop.train", "hotel.train"))
    assert client.get(f"/models/shop{path}").status_code == 403
    assert client.get(f"/models/nothing{path}").status_code == 403
    listed = client.get("/models").text
    assert "/models/hotel" in listed
    assert "/models/shop" not in listed


def test_what_one_may_not_start_is_off(open_as: Open, ledger: Ledger):
    tell(ledger, "shop")
    client = open_as(("shop.train", "shop.runbook", "shop.rollback", "shop.roll_through"))
    assert "You may not start" not in client.get("/models/shop").text
    Allowed.may_trigger = lambda self, dag_id: dag_id == "shop.train"  # type: ignore[method-assign]
    try:
        page = client.get("/models/shop").text
        assert page.count("You may not start runs of shop.runbook.") == 2
        assert page.count("You may not start runs of shop.roll") == 2
    finally:
        Allowed.may_trigger = lambda self, dag_id: dag_id in self.readable  # type: ignore[method-assign]


def test_nothing_that_is_told_becomes_markup(open_as: Open, ledger: Ledger):
    tell(ledger, MARKUP, MARKUP, dataset=MARKUP)
    client = open_as()
    name = httpx.URL("http://x").copy_with(path=f"/models/{MARKUP}").raw_path.decode()
    for path in ("/models", name, f"{name}/versions/6", f"{name}/compare?one=4&two=6"):
        answer = client.get(path)
        assert answer.status_code == 200, path
        assert "<img src=x" not in answer.text
        assert "onerror=alert(1)&gt;" in answer.text


def test_what_is_not_there_is_said_with_what_is_near(open_as: Open, ledger: Ledger):
    tell(ledger, "shop")
    client = open_as()
    for path, words in (
        ("/models/shpo", "Did you mean &#39;shop&#39;?"),
        ("/models/shop/versions/61", "There is no version 61"),
        ("/models/shop/data/ordres", "Did you mean &#39;orders&#39;?"),
        ("/models/shop/features/per_dya", "Did you mean &#39;per_day&#39;?"),
        ("/models/shop/compare?one=1&two=99", "There is no version 99"),
        ("/nothing", "There is no such page."),
    ):
        answer = client.get(path)
        assert answer.status_code == 404, path
        assert words in answer.text
    assert client.get("/models/shop/compare?one=x&two=2").status_code == 422


def test_a_period_is_chosen_by_its_beginning(open_as: Open, ledger: Ledger):
    tell(ledger, "shop")
    client = open_as()
    assert f'data-key="{day(1)}"' in client.get(f"/models/shop/data/orders?period={day(1)[:4]}").text
    assert client.get(f"/models/shop/data/orders?period={MARKUP}").status_code == 200


def test_how_far_runs_have_come_with_their_partitions():
    import_all_models()
    engine = create_engine("sqlite://")
    waits = (
        ("2026-01-05", "failed"),
        ("2026-01-05", "deferred"),  # tried again by another run
        ("2026-01-06", "failed"),
        ("2026-01-07", "success"),
        ("2026-01-08", None),
        ("2025-12-31", "success"),
        ("2026-01-09", "skipped"),
        ("9026-01-09", "deferred"),
    )
    for table in (DagRun.__table__, TaskInstance.__table__):
        table.create(engine)
    with Session(engine) as session:
        for n, (key, state) in enumerate(waits):
            run = {"dag_id": "shop.features", "run_id": f"r{n}"}
            made = {"id": n, "run_type": "manual", "run_after": NOW, "log_template_id": None, "partition_key": key}
            session.execute(insert(DagRun.__table__).values(**run, **made))
            task = {"task_id": "orders.wait", "pool": "p", "map_index": -1, "state": state, "id": uuid4()}
            session.execute(insert(TaskInstance.__table__).values(**run, **task))
        found = access.worked_on(session, "shop.features", "orders", "2026")
        assert found == {
            "2026-01-05": "awaited",
            "2026-01-06": "missing",
            "2026-01-07": "arrived",
            "2026-01-08": "awaited",
        }
        assert access.worked_on(session, "shop.features", "refunds") == {}
        assert access.worked_on(session, "hotel.features", "orders") == {}


def test_two_hundred_models_load_at_once(open_as: Open, ledger: Ledger):
    names = [f"model_{n:03}" for n in range(200)]
    client = open_as(tuple(f"{name}.train" for name in names))
    tell(ledger, names[7])
    listed = client.get("/models").text
    assert listed.count("<tr data-state") == 200
    assert listed.count('<svg class="spark"') == 1


def test_a_training_is_followed(open_as: Open, ledger: Ledger):
    tell(ledger, "shop")
    client = open_as(running="shop.train manual__1")
    assert client.get("/models/shop/training").text.strip() == ""
    told = {"epoch": 2, "epochs": 5, "examples": 400, "examples_left": 600, "examples_per_second": 123.4}
    told |= {"seconds_left": 90.0, "metrics": {"loss": 0.41}, "usage": {"gpu_percent": 87.0}}
    ledger.swap("training:shop", {**told, "dag_id": "shop.train", "run_id": "manual__1"}, None)
    page = client.get("/models/shop/training").text
    for words in ("epoch 2 of 5", "600 rows left", "2 min left", "loss 0.41", "gpu_percent 87", 'data-running="yes"'):
        assert words in page
    assert "Training now" in client.get("/models/shop").text
    assert "Training now" not in open_as().get("/models/shop").text, "it stopped early, or failed"


def test_which_way_the_key_metric_is_better_is_said(open_as: Open, ledger: Ledger):
    tell(ledger, "shop")
    for path in ("/models", "/models/shop"):
        assert "more is better" in open_as().get(path).text
    assert (direction("log_loss"), direction("made_up")) == ("less is better", "")


def test_a_training_that_failed_has_no_verdict_of_another(open_as: Open, ledger: Ledger):
    tell(ledger, "shop")
    card = re.compile(r"<h2>Last training</h2>(.*?)</section>", re.DOTALL)
    assert 'class="badge PASS"' in card.search(open_as().get("/models/shop").text)[1]  # type: ignore[index]
    request = ask(ledger, "shop", "hand", "look", key="look", who="ann")
    start(ledger, request, "shop.train manual__2")
    for state, has in (("failed", True), ("ended", False)):
        client = open_as(failed="shop.train manual__2" if has else "")
        shown = card.search(client.get("/models/shop").text)[1]  # type: ignore[index]
        assert (f"{state}; hand: look" in shown, ">failed<" in shown, "PASS" in shown) == (True, has, False)
        assert f"{state}; hand: look" in client.get("/models").text


def test_how_columns_are_distributed_now_and_were_when_it_was_trained(
    open_as: Open, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Numbers are drawn; texts that may be about a person are not named."""
    monkeypatch.setenv("AIRFLOW__MLOPS__HOME", str(tmp_path))
    tell(ledger, "shop")
    seal_rows(ledger, tmp_path, "shop")
    page = open_as().get("/models/shop/data/orders")
    assert page.status_code == 200
    assert f"Bars: {day(1)}, the last partition." in page.text
    assert f"Orange: {day(4)}, the last one that version 6 saw." in page.text
    price = page.text[page.text.index("<h3>price") : page.text.index("<h3>pieces")]
    assert 'class="line"' in price, "the distribution of then is drawn over that of now"
    now, then = (float(one) for one in re.search(r"mean ([\d.]+), then ([\d.]+)", price).groups())
    assert 1.25 < now / then < 1.41
    rate = page.text[page.text.index("<h3>rate") : page.text.index("<h3>buyer")]
    assert re.search(r"(9|10|11)\.\d% missing, then 0.0%", rate)
    assert ">DK<" in page.text, "slices were declared"
    assert "Nearly every row has a value of its own" in page.text
    assert "Anna" not in page.text
    page = open_as().get("/models/shop/features/per_day")
    assert f"Orange: {day(4)}, the last one that version 6 saw." in page.text
    assert "<h3>rate" in page.text
    assert 'href="/mlops/models/shop/features/per_day"' in open_as().get("/models/shop").text
    monkeypatch.setattr(profiles, "_LARGEST", 10)
    assert "too large to look at here" in open_as().get("/models/shop/features/per_day").text
    feature_file(tmp_path, "per_day", "x").parent.rename(tmp_path / "gone")
    assert "Its features are not computed here." in open_as().get("/models/shop/features/per_day").text


def test_curves_come_from_mlflow_or_it_is_said_why_not(open_as: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    where = f"sqlite:///{tmp_path}/m.db"
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", f'{{"conn_type": "mlflow", "host": "{where}"}}')
    mlflow = MlflowClient(where, where)
    mlflow.create_registered_model("shop")
    for epochs in (3, 1):
        run = mlflow.create_run(mlflow.create_experiment(f"e{epochs}", str(tmp_path))).info.run_id
        losses = [Metric("epoch/loss", 1 / (n + 1), n, n) for n in range(epochs)]
        mlflow.log_batch(run, metrics=[*losses, Metric("auc", 0.7, 0, 0)])
        mlflow.create_model_version("shop", str(tmp_path), run)
    client = open_as()
    told = client.get("/models/shop/curves?version=1&version=2").json()
    assert told["curves"] == {"loss": {"1": {"1": 1.0, "2": 0.5, "3": pytest.approx(1 / 3)}}}
    assert told["problems"] == {"2": "its run in MLflow has no metrics by epoch."}
    told = client.get("/models/shop/curves?version=1&version=9").json()
    assert "has no version 9" in told["problems"]["9"]
    assert list(told["curves"]["loss"]) == ["1"]
    assert client.get("/models/shop/curves").status_code == 422
