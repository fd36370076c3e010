"""`airflow-mlops new`: from a table that nobody described to a served prediction, as the README that it writes says."""

from __future__ import annotations

import importlib
import json
import random
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from airflow_mlops import cli
from airflow_mlops.contracts import VerdictStatus
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.features.online.freshness import freshness
from airflow_mlops.engine.features.online.reader import OnlineReader
from airflow_mlops.engine.features.parity.check import check_parity, recent_entities
from airflow_mlops.engine.features.project.location import Location
from airflow_mlops.engine.ledger import Ledger
from tests.integration.test_s3_partitions import client, connection, endpoint  # noqa: F401  fixtures
from tests.new_projects import OPTIONS, check_project, importable, into_database, run_to_a_prediction, write_orders
from tests.table_fixtures import PASSWORD, Postgres


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def new(*arguments: str) -> Path:
    """Run the command, and return the project's folder."""
    assert cli.main(["new", *arguments]) == 0
    project = Path(arguments[0]).resolve()
    check_project(project)
    return project


@pytest.fixture
def bucket(here, client, connection) -> str:  # noqa: F811
    """A folder of a bucket with a file of orders a day."""
    write_orders(here, days=30)
    for file in (here / "shop" / "lake").rglob("*.csv"):
        client.upload_file(str(file), "lake", f"shop/orders/{file.parent.name}/{file.name}")
    return f"s3://{connection}@lake/shop/orders"


@pytest.fixture
def table(here, monkeypatch) -> str:
    """A table of a database."""
    into_database(write_orders(here, days=30), here / "shop.db")
    monkeypatch.setenv("AIRFLOW_CONN_SHOP_DB", json.dumps({"conn_type": "sqlite", "host": str(here / "shop.db")}))
    return "sqlite://shop_db/orders"


def test_a_bucket_is_taken_where_it_is(bucket, capsys):
    project = new("return_reasons", "--from", bucket, *OPTIONS, "--label", "reason")
    said = capsys.readouterr().out
    assert "30 days from 2024-01-01 to 2024-01-30" in said
    assert "The rows are taken where they lie." in said
    assert "multiclass, 7 classes" in said
    assert f'"{bucket}"' in (project / "dags" / "return_reasons.py").read_text()


def test_a_table_is_extracted(table, capsys):
    project = new("refunds", "--from", table, *OPTIONS, "--label", "refund")
    assert "regression" in capsys.readouterr().out
    with importable(project):
        model = importlib.import_module("refunds_model")
    assert 40 < model.MEAN < 80
    assert 10 < model.SPREAD < 60


def test_a_table_of_postgresql_is_extracted_by_weeks_when_it_has_few_rows(here, monkeypatch, capsys):
    shop = Postgres()
    address = {
        "conn_type": "postgres", "host": shop.host, "login": shop.schema, "password": PASSWORD, "schema": "postgres",
    }  # fmt: skip
    monkeypatch.setenv("AIRFLOW_CONN_SHOP_DB", json.dumps(address))
    shop.run(
        "CREATE TABLE orders AS SELECT n AS id, timestamptz '2024-01-01 00:00+00' + n * interval '9 hours' AS at, "
        "n % 11 AS shop_id, (n * 7919 % 100)::numeric(8, 2) AS price, n * 104729 % 3 = 0 AS sold, "
        "interval '1 day' AS span FROM generate_series(0, 500) n"
    )
    project = new("sales", "--from", "postgres://shop_db/orders", "--time", "at", "--entity", "id", "--label", "sold")
    said = capsys.readouterr().out
    assert "501 rows from 2024-01-01 to 2024-07-06" in said
    assert "The rows are extracted weekly." in said
    assert 'Partitioning("weekly", "UTC")' in (project / "dags" / "sales.py").read_text()
    assert "ValueType.INT64" in (project / "feature_repo" / "definitions.py").read_text()
    assert PASSWORD not in said


@pytest.fixture
def wines(here) -> Path:
    """The project of measurements of which nothing repeats."""
    rng = random.Random(3)
    begin = datetime(2024, 1, 1, tzinfo=UTC)
    rows = [
        {"sample": n, "at": begin + timedelta(hours=2 * n), "acidity": rng.uniform(3, 9), "alcohol": rng.gauss(10, 1)}
        for n in range(480)
    ]
    scored = [row | {"quality": round(5 + (row["alcohol"] - 10) - row["acidity"] / 9)} for row in rows]
    pd.DataFrame(scored).to_csv("wines.csv", index=False)
    options = ["--time", "at", "--entity", "sample", "--label", "quality", "--problem", "regression"]
    return new("wines", "--from", "wines.csv", *options)


def test_a_history_of_all_rows_is_the_same_online_and_in_training(wines, here, monkeypatch):
    place = ["--home", str(here / "home"), "--ledger", f"sqlite:///{here}/ledger.db"]
    monkeypatch.chdir(wines)
    monkeypatch.setenv("MLOPS_HOME", str(here / "home"))
    with importable(wines):
        assert cli.main(["history", "dags/wines.py:wines", "--to", "2024-01-12", *place]) == 0
    assert cli.main(["features", "materialize", "wines_v1", *place]) == 0
    assert cli.main(["features", "cost", *place]) == 0
    location, end = Location(wines / "feature_repo", here / "home"), datetime(2024, 1, 13, tzinfo=UTC)
    reader = OnlineReader(location, "wines_v1")
    assert reader.keys == {}
    [features] = reader.read([{}], as_of=end)
    assert features["rows_8d"] == 8 * 12
    assert freshness(location, "wines_v1", as_of=end, max_age=timedelta(days=1)).fresh
    asked = recent_entities(reader, PartitionStore.under(here / "home"), "wines", until=date(2024, 1, 12))
    assert len(asked.rows) == 144
    report = check_parity(location, "wines_v1", asked, ledger=Ledger(f"sqlite:///{here}/ledger.db"))
    assert (report.status, report.reason) == (VerdictStatus.PASS, "")


@pytest.mark.slow
def test_measurements_of_which_nothing_repeats_are_served(wines, monkeypatch, capsys):
    run_to_a_prediction(wines, monkeypatch)
    answer = capsys.readouterr().out
    assert re.search(r"^prediction: \d+\.\d+  \(version 1 of wines\)", answer, re.MULTILINE)


@pytest.mark.slow
def test_classes_from_a_bucket_are_served(bucket, monkeypatch, capsys):
    project = new("return_reasons", "--from", bucket, *OPTIONS, "--label", "reason")
    run_to_a_prediction(project, monkeypatch)
    answer = capsys.readouterr().out
    assert re.search(r"^class: [a-z]+  \(version 1 of return_reasons\)", answer, re.MULTILINE)


@pytest.mark.slow
def test_numbers_from_a_table_are_served_by_trees(table, monkeypatch, capsys):
    project = new("refunds", "--from", table, *OPTIONS, "--label", "refund", "--model", "boosted")
    run_to_a_prediction(project, monkeypatch)
    answer = capsys.readouterr().out
    assert re.search(r"^prediction: \d+\.\d+  \(version 1 of refunds\)", answer, re.MULTILINE)


@pytest.mark.slow
def test_few_rows_are_served_by_weeks_of_their_zone(here, monkeypatch, capsys):
    rng = random.Random(4)
    begin = datetime(2023, 1, 1, tzinfo=UTC)
    rows = [
        {"id": n, "at": begin + timedelta(hours=11.3 * n), "shop": rng.randrange(12), "price": rng.uniform(0, 9)}
        for n in range(800)
    ]
    pd.DataFrame([row | {"sold": rng.random() < row["price"] / 9} for row in rows]).to_csv("visits.csv", index=False)
    options = ["--time", "at", "--entity", "id", "--label", "sold", "--key", "shop", "--timezone", "Europe/Berlin"]
    project = new("sales", "--from", "visits.csv", *options)
    assert "cut weekly" in capsys.readouterr().out
    run_to_a_prediction(project, monkeypatch)
    assert "(version 1 of sales)" in capsys.readouterr().out


@pytest.mark.slow
def test_projects_of_all_kinds_have_clean_types_and_tests(here, wines):
    write_orders(here, days=40)
    made = [wines]
    for label in ("returned", "reason", "refund"):
        for model in ("keras", "boosted"):
            options = ["--from", "orders.csv", *OPTIONS, "--label", label, "--model", model]
            made.append(new(f"{label}_by_{model}", *options))
    for project in made:
        for check in (["mypy", "--cache-dir", str(here / "types"), "."], ["pytest", "-q"]):
            done = subprocess.run(
                [sys.executable, "-m", *check], cwd=project, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{project.name}: {done.stdout}"


# --- what a first table looks like ------------------------------------------------------------------------


def test_columns_that_python_cannot_hold_have_other_names_in_the_project(here, capsys):
    text = write_orders(here, days=30).read_text()
    Path("odd.csv").write_text(text.replace("customer", "Customer ID", 1).replace("returned", "class", 1))
    project = new("odd_orders", "--from", "odd.csv", *OPTIONS, "--label", "class")
    said = capsys.readouterr().out
    assert "'Customer ID' is called 'Customer_ID'" in said
    assert "'class' is called 'c_class'" in said
    assert "Customer_ID_history" in (project / "feature_repo" / "definitions.py").read_text()


def test_long_names_are_written_as_a_formatter_would(here):
    text = write_orders(here, days=30).read_text()
    names = {"customer": "the_customer_who_ordered_it_all", "returned": "was_returned_within_thirty_days"}
    for short, long in names.items():
        text = text.replace(short, long, 1)
    Path("orders_of_all_shops_in_europe.csv").write_text(text)
    source = ["--from", "orders_of_all_shops_in_europe.csv", *OPTIONS]
    new("predict_returns_of_all_orders", *source, "--label", "was_returned_within_thirty_days")


def test_a_table_with_odd_names_is_asked_by_a_query(table, here, capsys):
    with closing(sqlite3.connect(here / "shop.db")) as database:
        database.execute('ALTER TABLE orders RENAME COLUMN customer TO "Customer ID"')
    project = new("odd_orders", "--from", table, *OPTIONS, "--label", "returned")
    assert '"Customer ID" AS Customer_ID' in (project / "dags" / "odd_orders.py").read_text()


def test_days_in_place_of_times(here, capsys):
    text = write_orders(here, days=30).read_text()
    Path("dates.csv").write_text(re.sub(r"T[\d:.]+\+00:00", "", text))
    project = new("by_days", "--from", "dates.csv", *OPTIONS, "--label", "returned")
    assert "It is known from decided_at on: 7 days later at the latest." in capsys.readouterr().out
    assert "A date is known when it is over." in (project / "feature_repo" / "by_days_features.py").read_text()


def test_files_with_a_day_missing_are_copied(here, capsys):
    write_orders(here, days=30)
    (here / "shop/lake/orders/dt=2024-01-09/orders.csv").unlink()
    new("gaps", "--from", "shop/lake/orders", *OPTIONS, "--label", "returned")
    assert "because 2024-01-09 did not land." in capsys.readouterr().out


def test_on_a_terminal_it_asks_for_what_it_cannot_see(here, monkeypatch, capsys):
    write_orders(here, days=30)
    answers = iter(["ordered", "ordered_at", "returned"])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: next(answers))
    new("asked", "--from", "orders.csv")
    said = capsys.readouterr().out
    assert "'ordered' is none of them. Did you mean 'ordered_at'?" in said
    assert "What names a row? order_id" in said
