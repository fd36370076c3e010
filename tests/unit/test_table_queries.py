"""Statements whose bounds are parameters, times on a clock that has some twice, and messages without a password."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from airflow_mlops.engine.data.tables.database import Database, Driver, driver_of
from airflow_mlops.engine.data.tables.digest import Digest
from airflow_mlops.engine.data.tables.query import Selection, bind, quoted, wall
from airflow_mlops.exceptions import ConfigError

POSTGRES = Driver("psycopg", "pyformat", '"')


@pytest.mark.parametrize(
    ("style", "text", "parameters"),
    [
        ("pyformat", "a %% b %(start)s %(end)s %(start)s {x}", {"start": 1, "end": 2}),
        ("format", "a %% b %s %s %s {x}", [1, 2, 1]),
        ("qmark", "a % b ? ? ? {x}", [1, 2, 1]),
        ("numeric", "a % b :1 :2 :3 {x}", [1, 2, 1]),
        ("named", "a % b :start :end :start {x}", {"start": 1, "end": 2}),
    ],
)
def test_bounds_are_parameters_in_every_style(style, text, parameters):
    bound = bind("a % b {start} {end} {start} {x}", {"start": 1, "end": 2}, Driver("x", style, ""))
    assert (bound.text, bound.parameters) == (text, parameters)


def test_what_a_table_becomes():
    selection = Selection("at", "shop.orders")
    assert selection.statement(["at", 'a"b'], POSTGRES, "aware") == (
        'SELECT "at", "a""b" FROM "shop"."orders" WHERE "at" >= {start} AND "at" < {end}'
    )
    assert quoted("orders", Driver("snowflake", "pyformat", "")) == "orders"
    with pytest.raises(ConfigError, match="cannot be the name"):
        quoted("orders; DROP TABLE x", Driver("snowflake", "pyformat", ""))


def test_the_style_is_that_of_the_module():
    assert driver_of(sqlite3.connect(":memory:")) == Driver("sqlite3", "qmark", '"')
    connection = psycopg.Connection.__new__(psycopg.Connection)
    connection.pgconn = None
    assert type(connection).__module__ == "psycopg"
    assert driver_of(connection) == POSTGRES


@pytest.mark.parametrize("zone", ["America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kolkata", "UTC"])
def test_a_time_on_the_clock_lies_in_one_partition_that_of_the_first_such_time(zone):
    """Of all minutes around the changes of clocks, each lies between the bounds of just the hour that it means."""
    for around in (
        datetime(2024, 3, 31, tzinfo=UTC),
        datetime(2024, 11, 3, tzinfo=UTC),
        datetime(2024, 4, 7, tzinfo=UTC),
    ):
        hours = [around + timedelta(minutes=30 * n) for n in range(-60, 60)]
        walls = [wall(moment, zone) for moment in hours]
        assert walls == sorted(walls)
        first = around.astimezone(ZoneInfo(zone)).replace(tzinfo=None) - timedelta(hours=12)
        naive = [first + timedelta(minutes=7 * n) for n in range(200)]
        moments = pc.assume_timezone(
            pa.array(naive, pa.timestamp("us")), zone, ambiguous="earliest", nonexistent="earliest"
        ).to_pylist()
        for time, moment in zip(naive, moments, strict=True):
            [within] = [n for n in range(len(hours) - 1) if walls[n] <= time < walls[n + 1]]
            assert hours[within] <= moment < hours[within + 1]


@pytest.mark.parametrize(
    "said",
    [
        "host=h password=hunter2 user=u",
        "password = 'hunter2'",
        "postgresql://u:hunter2@h:5432/x",
        "mysql://u:h%2Funter2@h",
        "the plain h/unter2 of the connection",
        '{"token": "hunter2"}'.replace('"', ""),
    ],
)
def test_no_password_in_a_message(said):
    scrubbed = Database("shop_db", lambda: None, ["h/unter2", ""]).scrubbed(said)
    assert "unter2" not in scrubbed
    assert "***" in scrubbed


def test_a_message_without_a_secret_stays():
    said = 'relation "orders" does not exist; see postgresql://h/x'
    assert Database("shop_db", lambda: None).scrubbed(said) == said


def test_the_identity_of_rows_is_that_of_their_values_not_of_their_order():
    def of(*rows: tuple[int, str | None], batches: int = 1) -> str:
        schema = pa.schema([("a", pa.int64()), ("b", pa.string())])
        table = pa.Table.from_pylist([dict(zip("ab", row, strict=True)) for row in rows], schema)
        digest = Digest(schema)
        for n in range(batches):
            digest.add(table[n::batches] if batches == 1 else table.take(list(range(n, len(rows), batches))))
        return digest.value()

    rows = [(1, "x"), (2, None), (2, ""), (2, "")]
    assert of(*rows) == of(*rows[::-1]) == of(*rows, batches=3)
    for other in ([(1, "x"), (2, None), (2, "")], [(1, "x"), (2, None), (2, None), (2, "")], [(2, "x"), (1, None)] * 2):
        assert of(*other) != of(*rows)
