"""Tables through Airflow: a hand-written DAG, the tasks of a pipeline, a history in bulk, and no password anywhere."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, TaskDeferred

from airflow_mlops import FeatureService, Gate, Label, ModelPipeline, SQLSource, Trainer
from airflow_mlops.engine.backfill.make import plan_backfill
from airflow_mlops.engine.backfill.run import begin, execute
from airflow_mlops.engine.backfill.survey import Site
from airflow_mlops.engine.backfill.verify import verify
from airflow_mlops.engine.data.exclusions import exclude
from airflow_mlops.engine.data.files import sha256
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.history.load import load_history
from airflow_mlops.exceptions import ConfigError, TransientError
from airflow_mlops.hooks.databases import database
from airflow_mlops.operators.data import SealPartitionOperator
from airflow_mlops.operators.extract import ExtractPartitionOperator
from airflow_mlops.operators.gx import GXValidateDataOperator
from airflow_mlops.sensors.data import PartitionEndSensor
from tests import rides
from tests.rides import EVENT_TIMES, FIRST, SERVICE, Rides
from tests.table_fixtures import PASSWORD, Postgres

KEY = "2013-01-15"
DAYS = 4
CODE = """
import great_expectations.expectations as gxe

def suite():
    return [gxe.ExpectTableRowCountToBeBetween(min_value=1, max_value=1000)]

def views():
    return [gxe.ExpectColumnValuesToBeBetween(column="zone_late_rate", min_value=0, max_value=1)]
"""


@pytest.fixture
def shop(monkeypatch, tmp_path) -> Postgres:
    """A database with orders, its Airflow connection, and a ledger."""
    shop = Postgres()
    address = {
        "conn_type": "postgres", "host": shop.host, "login": shop.schema, "password": PASSWORD, "schema": "postgres",
    }  # fmt: skip
    monkeypatch.setenv("AIRFLOW_CONN_SHOP_DB", json.dumps(address))
    ledger = {"conn_type": "mlops_ledger", "host": f"sqlite:///{tmp_path / 'ledger.db'}"}
    monkeypatch.setenv("AIRFLOW_CONN_MLOPS_LEDGER_DEFAULT", json.dumps(ledger))
    shop.run(
        "CREATE TABLE orders AS SELECT n AS id, '2013-01-15 00:00+00'::timestamptz + n * interval '1 hour' AS "
        "ordered_at, 'a' AS shop FROM generate_series(0, 47) n"
    )
    return shop


def extract(home: Path, **changes: object) -> ExtractPartitionOperator:
    arguments = {
        "dataset": "orders", "sql_conn_id": "shop_db", "event_time": "ordered_at", "table": "orders", "key": KEY,
    }  # fmt: skip
    with DAG("orders", schedule=None) as dag:
        dag.fileloc = str(home.parent / "orders.py")
        return ExtractPartitionOperator(task_id="extract", home=str(home), **arguments | changes)


def test_a_dag_of_ones_own(shop, home, tmp_path):
    (tmp_path / "orders_suites.py").write_text(CODE)

    def run() -> dict:
        with DAG("orders", schedule=None) as dag:
            dag.fileloc = str(tmp_path / "orders.py")
            extracted = extract(home).execute({})
            uri = extracted["uri"]
            validation = GXValidateDataOperator(
                task_id="validate", data=uri, suite="orders_suites:suite", dataset="orders", key=KEY, home=str(home)
            )
            validation.on_report = None
            result = validation.perform({"ti": Pushed()})
            return SealPartitionOperator(
                task_id="seal", dataset="orders", uri=uri, event_time="ordered_at", validation=result, key=KEY,
                home=str(home),
            ).execute({})  # fmt: skip

    first = run()
    assert first["rows"] == 24
    assert run()["revision"] == first["revision"]
    shop.run("INSERT INTO orders VALUES (99, '2013-01-15 10:30+00', 'late')")
    second = run()
    assert (second["rows"], second["revision"] != first["revision"]) == (25, True)
    store = PartitionStore.under(home)
    assert len(store.revisions("orders", KEY)) == 2
    assert store.get("orders", KEY).receipt.uri == "shop_db:orders"


class Pushed:
    """Takes what a task pushes."""

    dag_id, run_id, task_id, map_index, try_number = "orders", "r", "t", -1, 1

    def xcom_push(self, *_: object, **__: object) -> None:
        pass


# --- no password anywhere ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"table": "oders"},
        {"event_time": "at"},
        {"table": "", "query": "SELECT 1/0 AS ordered_at WHERE {start} < {end}"},
        {"table": "", "query": "SELECT * FROM orders WHERE {start} < {end}"},
    ],
)
def test_a_password_is_in_no_log_xcom_or_manifest(shop, home, caplog, changes):
    caplog.set_level(logging.DEBUG)
    task = extract(home, **changes)
    said = ""
    try:
        said = json.dumps(task.execute({}))
    except AirflowFailException as error:
        said = str(error)
        assert "fix:" in said
        assert error.__cause__ is None
    found = [said, caplog.text, *(str(getattr(task, name)) for name in task.template_fields)]
    found += [file.read_text() for file in home.rglob("*.json")]
    for text in found:
        assert PASSWORD not in text
        assert "sw0rdfish" not in text


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        ({"host": "127.0.0.1", "port": 9}, TransientError, "does not answer"),
        ({"password": "sw0rdfish@/wrong", "host": "127.0.0.1", "port": 9}, TransientError, "does not answer"),
        ({"schema": "nowhere"}, ConfigError, "refuses the login"),
        ({"login": "nobody"}, ConfigError, "refuses the login"),
        ({"conn_type": "http"}, ConfigError, "is none of a database"),
        ({"conn_type": "oracle9"}, ConfigError, "No provider of Airflow knows connections of type 'oracle9'"),
    ],
)
def test_a_connection_that_does_not_work(shop, monkeypatch, change, kind, says):
    import os

    address = json.loads(os.environ["AIRFLOW_CONN_SHOP_DB"])
    monkeypatch.setenv("AIRFLOW_CONN_SHOP_DB", json.dumps(address | change))
    with pytest.raises(kind, match=says) as caught, database("shop_db").session():
        pass
    assert "sw0rdfish" not in str(caught.value)


def test_a_connection_that_is_not_there(shop, home):
    with pytest.raises(AirflowFailException, match=r"no Airflow connection 'no_db'(.|\n)*AIRFLOW_CONN_NO_DB"):
        extract(home, sql_conn_id="no_db").execute({})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"table": ""}, "There is not one thing to extract"),
        ({"query": "SELECT {start} {end}"}, "There is not one thing to extract"),
        ({"table": "", "query": "SELECT * FROM orders"}, r"has no \{start\} and no \{end\}"),
        ({"key": ""}, "no partition key"),
    ],
)
def test_what_is_asked_wrongly(shop, home, changes, says):
    with pytest.raises(AirflowFailException, match=says):
        extract(home, **changes).execute({})


def test_sqlite_by_its_hook(home, tmp_path, monkeypatch):
    import sqlite3

    file = tmp_path / "shop.db"
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE orders (id, ordered_at)")
        connection.execute("INSERT INTO orders VALUES (1, '2013-01-15 10:00:00')")
        connection.commit()
    monkeypatch.setenv("AIRFLOW_CONN_SHOP_DB", json.dumps({"conn_type": "sqlite", "host": str(file)}))
    assert extract(home).execute({})["rows"] == 1


# --- the tasks of a pipeline ------------------------------------------------------------------------------


def feed(name: str, **more: object) -> SQLSource:
    return SQLSource(
        "shop_db", table=name, event_time=EVENT_TIMES[name], suite="ride_suites:suite", start=FIRST, **more
    )


def pipeline(**more: object) -> ModelPipeline:
    return ModelPipeline(
        model="ride_delay",
        source=feed("rides", **more),
        entity="ride_id",
        label=Label("late", source=feed("ends", **more), matures_after="1d"),
        features=FeatureService(
            SERVICE, transform=rides.TRANSFORM, suite="ride_suites:suite", history="2d",
            view_suites={"zone_delays": "ride_suites:views"},
        ),
        train=Trainer("ride_suites:build", window="60d"),
        gates=[Gate("auc", min=0.5)],
    )  # fmt: skip


def test_a_table_has_a_task_that_extracts_in_place_of_one_that_stages():
    dag = pipeline(complete_after="1h", columns=["ride_id", "called_at", "ended_at"]).dags()["ride_delay_features"]
    names = [f"rides.{name}" for name in ("wait", "extract", "validate", "check", "seal")]
    assert [task for task in dag.task_ids if task.startswith("rides.")] == names
    for before, after in pairwise(names):
        assert after in dag.get_task(before).downstream_task_ids
    wait, task = dag.get_task("rides.wait"), dag.get_task("rides.extract")
    assert (wait.complete_after, wait.deferrable, wait.timeout) == ("1h", True, 25 * 3600)
    assert (task.sql_conn_id, task.table, task.columns) == ("shop_db", "rides", ["ride_id", "called_at", "ended_at"])


def test_a_partition_is_waited_for_until_it_ended():
    context = {"ti": None}
    past = PartitionEndSensor(task_id="w", key=KEY, complete_after="1h", deferrable=True)
    assert past.execute(context) == {"ended": "2013-01-16T01:00:00+00:00"}
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    with pytest.raises(TaskDeferred) as deferred:
        PartitionEndSensor(task_id="w", key=today, deferrable=True).execute(context)
    assert deferred.value.trigger.poll() is None
    early = PartitionEndSensor(task_id="w", key=KEY, first="2013-02-01")
    with pytest.raises(AirflowSkipException, match="the table has the days 2013-02-01"):
        early.execute(context)


# --- a history in bulk ------------------------------------------------------------------------------------


@pytest.fixture
def world(shop, tmp_path) -> Rides:
    """Rides of some days in tables, and nothing sealed."""
    sys.modules.pop("ride_suites", None)
    made = Rides.make(tmp_path / "world", 0)
    (made.dags / "ride_suites.py").write_text(CODE)
    for dataset in EVENT_TIMES:
        rows = []
        for n in range(DAYS):
            rides.land(made.home, dataset, n)
            folder = made.home / "lake" / dataset / rides.key_of(n)
            rows += [row for file in folder.glob("*.parquet") for row in pq.read_table(file).to_pylist()]
        _into(shop, dataset, rows)
    return made


def _into(shop: Postgres, table: str, rows: list[dict]) -> None:
    kinds = {bool: "boolean", str: "text", float: "float8", int: "bigint", datetime: "timestamptz"}
    names = list(rows[0])
    types = {name: next(type(row[name]) for row in rows if row[name] is not None) for name in names}
    types = {name: next(sql for kind, sql in kinds.items() if issubclass(one, kind)) for name, one in types.items()}
    shop.run(f"CREATE TABLE {table} ({', '.join(f'{name} {kind}' for name, kind in types.items())}, changed timestamp)")
    with contextlib.closing(shop.connect()) as connection:
        for row in rows:
            marks = ", ".join(["%s"] * len(names))
            connection.execute(f"INSERT INTO {table} VALUES ({marks}, '2024-03-20')", list(row.values()))
        connection.commit()


def load(world: Rides, made: ModelPipeline, **more: object):
    store, ledger = world.store, world.ledger
    store.ledger = ledger
    return load_history(
        made, FIRST, FIRST + timedelta(days=DAYS - 1), location=world.location, store=store, ledger=ledger,
        code_path=str(world.dags), locate=world.home.joinpath, databases=database, **more,
    )  # fmt: skip


@pytest.mark.parametrize("updated_at", ["changed", ""])
def test_a_history_of_tables(shop, world, updated_at, monkeypatch):
    made = pipeline(updated_at=updated_at)
    loaded = load(world, made, workers=2)
    assert (loaded.sealed, loaded.computed, loaded.there, loaded.refused) == (2 * DAYS, DAYS, 0, [])
    before = {file: sha256(file) for file in (world.home / "partitions").rglob("*.parquet")}
    assert len(before) == 2 * DAYS

    asked = []
    from airflow_mlops.engine.history import tables

    original = tables.extract
    monkeypatch.setattr(tables, "extract", lambda *given, **how: asked.append(given[2]) or original(*given, **how))
    again = load(world, made)
    assert (again.sealed, again.computed, again.there) == (0, 0, 3 * DAYS)
    assert len(asked) == (0 if updated_at else 2 * DAYS), "what says that nothing changed is not extracted"

    asked.clear()
    assert load(world, made, again=True).refused == []
    assert len(asked) == 2 * DAYS, "as after a change of the contract"

    asked.clear()
    shop.run("UPDATE rides SET km = km + 1, changed = '2024-03-21' WHERE called_at < '2024-03-02+00'")
    changed = load(world, made)
    assert changed.sealed == 0
    assert [(one.dataset, one.key) for one in changed.refused] == [("rides", "2024-03-01")]
    assert {"2024-03-01"} <= set(asked)
    assert len(asked) == (1 if updated_at else 2 * DAYS)
    assert load(world, made, again=True).refused == []
    assert {file: sha256(file) for file in before} == before, "a revision never changes"
    assert len(world.store.revisions("rides", "2024-03-01")) == 2


@pytest.mark.parametrize("updated_at", ["changed", ""])
def test_a_backfill_of_tables(shop, world, updated_at):
    """What a table says of itself, also around a day that is excluded; without ``updated_at`` it says nothing."""
    store, ledger = world.store, world.ledger
    store.ledger = ledger
    site = Site(
        pipeline(updated_at=updated_at), world.location, store, ledger, str(world.dags), world.home.joinpath, database
    )
    noon = [datetime(2024, 3, n, tzinfo=UTC) for n in (2, 3)]
    exclude(ledger, "rides", *noon, "a bad day", "ann")

    def states() -> str:
        plan = plan_backfill(site, FIRST, FIRST + timedelta(days=DAYS - 1), who="ann", order="newest")
        begin(site, plan)
        execute(site, plan, plan.work)
        found = verify(site, plan)
        assert found.as_planned, found.lines()
        return " ".join(step.state for step in plan.steps if step.dataset == "rides")

    assert states() == "missing excluded missing missing"
    assert states() == ("present excluded present present" if updated_at else "unknown excluded unknown unknown")
    shop.run("UPDATE rides SET km = km + 1, changed = '2024-03-21' WHERE called_at >= '2024-03-03+00'")
    assert states() == ("present excluded changed changed" if updated_at else "unknown excluded unknown unknown")
    assert [len(store.revisions("rides", f"2024-03-{n:02}")) for n in (1, 3, 4)] == [1, 2, 2]


def test_a_table_that_is_not_there_ends_the_history(shop, world):
    shop.run("DROP TABLE ends")
    with pytest.raises(ConfigError, match="refuses the query"):
        load(world, pipeline())


def test_without_a_way_to_open_it_a_history_says_so(shop, world):
    with pytest.raises(ConfigError, match="Nothing says how the database of 'shop_db' is opened"):
        load_history(
            pipeline(), FIRST, date(2024, 3, 2), location=world.location, store=world.store, ledger=world.ledger,
            code_path=str(world.dags), locate=world.home.joinpath,
        )  # fmt: skip
