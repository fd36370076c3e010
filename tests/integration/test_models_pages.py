"""The pages without a server: whom they show what, an empty ledger, one that is down, MLflow that is gone."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from airflow.api_fastapi.core_api.security import get_user
from fastapi.testclient import TestClient

from airflow_mlops.engine.data.parquet import parquet_files
from airflow_mlops.engine.data.partitions import PartitionStore, batch_hash
from airflow_mlops.engine.data.profiles.collect import profile_table
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.ui import access, pages
from airflow_mlops.ui.app import create_app
from tests.overview_fixtures import MARKUP, SERVER, Story, day, tell

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
        dags: tuple[str, ...] = (), readable: tuple[str, ...] | None = None, url: str = "", running: str = ""
    ) -> TestClient:
        monkeypatch.setattr(pages, "open_ledger", lambda: Ledger(url) if url else ledger)
        app = create_app()
        there = {name: access.Dag(name, paused=False, next_run=None, schedule="") for name in dags}
        may = frozenset(dags if readable is None else readable)
        app.dependency_overrides[access.access] = lambda: Allowed(None, there, may, frozenset({running}))  # type: ignore[arg-type]
        app.dependency_overrides[get_user] = lambda: None
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
    "path", ["", "/versions/6", "/compare?one=4&two=6", "/data/orders", "/training", "/versions/6/registry"]
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


def test_how_columns_are_distributed_now_and_were_when_it_was_trained(
    open_as: Open, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Numbers are drawn; texts that may be about a person are not named."""
    monkeypatch.setenv("AIRFLOW__MLOPS__HOME", str(tmp_path))
    store = PartitionStore.under(tmp_path, ledger)
    revisions = {}
    for n, key in enumerate(("2026-01-01", "2026-01-02")):
        folder = tmp_path / "lake" / key
        folder.mkdir(parents=True)
        times = [datetime.fromisoformat(f"{key}T10:00:00+00:00")] * 50
        names = [f"Anna of the {k}th" for k in range(50)]
        table = pa.table({"at": times, "price": [float(k + 40 * n) for k in range(50)], "name": names})
        pq.write_table(table, folder / "rows.parquet", write_page_checksum=True)
        hashed = batch_hash(parquet_files(folder))
        made = store.seal("orders", key, folder, event_time="at", batch_hash=hashed, suite_hash="s")
        store.write_profile(
            "orders", key, made.revision, profile_table(table, dataset="orders", key=key, revision=made.revision)
        )
        revisions[key] = made.revision
    story = Story(ledger, "shop")
    story.version(1, 1, 0.7)
    story.told({"server": SERVER, "model": "shop", "stable": 1, "loaded": [1]})
    seen = {"partitions": {"orders": {"2026-01-01": revisions["2026-01-01"]}}, "label_cut": None, "exclusions": []}
    ledger.record("snapshot", "shop", seen, key="s1")
    page = open_as().get("/models/shop/data/orders")
    assert page.status_code == 200
    assert "Bars: 2026-01-02, the last partition." in page.text
    assert "Orange: 2026-01-01, the last one that version 1 saw." in page.text
    assert page.text.count('class="line"') >= 2, "the distribution of then is drawn over that of now"
    assert "from 40 to 89" in page.text
    assert "Anna" not in page.text
