"""A partition of a table becomes Parquet: of one moment, with its types, nothing lost; or it is refused in words."""

from __future__ import annotations

import threading
import time
import tracemalloc
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mlops.engine.data.checks import Column, SchemaContract
from airflow_mlops.engine.data.files import sha256
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.data.tables import postgres as copying
from airflow_mlops.engine.data.tables.changes import State, states
from airflow_mlops.engine.data.tables.database import Database
from airflow_mlops.engine.data.tables.extract import FILE, extract
from airflow_mlops.engine.data.tables.query import Selection
from airflow_mlops.exceptions import ConfigError, DataError, TransientError
from airflow_mlops.partitioning import DAILY, Partitioning
from tests.table_fixtures import EVERY, Mysql, Postgres, Sqlite, Tables, made, needs_mariadb

KEY = "2013-01-15"
UTC_TIME = pa.timestamp("us", "UTC")
NEW_YORK = "America/New_York"
ORDERS = Selection("ordered_at", "orders")


@pytest.fixture(params=EVERY)
def tables(request, tmp_path: Path) -> Tables:
    """An empty database of each kind."""
    return made(request.param, tmp_path)


@pytest.fixture
def postgres() -> Postgres:
    """An empty PostgreSQL schema."""
    return Postgres()


@pytest.fixture
def read(tmp_path):
    """Extract a partition; return its rows."""

    def read(tables: Tables, selection: Selection = ORDERS, key: str = KEY, **more: Any) -> pa.Table:
        read.last = extract(tables.database, selection, key, tmp_path / "staged" / key, **more)
        return pq.read_table(Path(read.last.uri) / FILE)

    return read


def orders(tables: Tables, *rows: tuple[Any, ...], time: str = "TIMESTAMP") -> None:
    """Make a table of orders without zones; the day's are those of January 15."""
    kind = {"sqlite3": "TEXT", "pymysql": "DATETIME(6)"}.get(tables.driver, time)
    tables.run(
        f"CREATE TABLE orders (id INTEGER, ordered_at {kind}, shop VARCHAR(20), amount DECIMAL(10,2))",
        *(f"INSERT INTO orders VALUES ({n}, '{at}', {shop}, {amount})" for n, (at, shop, amount) in enumerate(rows)),
    )


DAY = [
    ("2013-01-14 23:59:59.999999", "'a'", 1),
    ("2013-01-15 00:00:00", "'a'", 1.5),
    ("2013-01-15 12:00:00.25", "NULL", "NULL"),
    ("2013-01-15 23:59:59.999999", "''", -2.25),
    ("2013-01-16 00:00:00", "'a'", 1),
]


def test_the_rows_of_a_day_and_no_others(tables, read):
    orders(tables, *DAY)
    rows = read(tables)
    assert sorted(rows["id"].to_pylist()) == [1, 2, 3]
    assert rows.schema.field("ordered_at").type == UTC_TIME
    assert rows["ordered_at"].to_pylist()[2] == datetime(2013, 1, 15, 23, 59, 59, 999999, tzinfo=UTC)
    assert rows["shop"].to_pylist() == ["a", None, ""], "no value, and an empty one, are two things"
    assert [None if one is None else float(one) for one in rows["amount"].to_pylist()] == [1.5, None, -2.25]
    assert read.last.rows == 3
    assert any("had no zone: taken as UTC" in note for note in read.last.notes)


def test_a_query_with_bounds_as_parameters(tables, read):
    orders(tables, *DAY)
    query = (
        "SELECT id, ordered_at, '100%' AS share FROM orders -- of { } and %s\n"
        "WHERE ordered_at >= {start} AND ordered_at < {end} AND id <> 2;"
    )
    rows = read(tables, Selection("ordered_at", query=query))
    assert rows["id"].to_pylist() == [1, 3]
    assert set(rows["share"].to_pylist()) == {"100%"}


def test_columns_of_ones_choice(tables, read):
    orders(tables, *DAY)
    assert read(tables, Selection("ordered_at", "orders", columns=("ordered_at", "id"))).schema.names == [
        "ordered_at",
        "id",
    ]


def test_a_day_without_rows(tables, read):
    orders(tables, *DAY)
    rows = read(tables, key="2013-02-01")
    assert rows.num_rows == 0
    assert rows.schema.field("ordered_at").type == UTC_TIME


@pytest.mark.parametrize(
    ("selection", "says"),
    [
        (Selection("ordered", "orders"), r"no column 'ordered'. Did you mean 'ordered_at'"),
        (Selection("ordered_at", "orders", columns=("idd",)), r"no column 'idd'. Did you mean 'id'"),
        (Selection("ordered_at", "orders", updated_at="changed"), r"no column 'changed'"),
        (Selection("ordered_at", "oders"), r"refuses the query(.|\n)*oders"),
        (Selection("ordered_at", query="SELECT nothing FROM orders WHERE {start} < {end}"), "refuses the query"),
        (Selection("ordered_at", query="SELEC {start} {end}"), r"refuses the query(.|\n)*where: shop_db:query"),
        (
            Selection(
                "ordered_at",
                query="SELECT a.id, b.id, a.ordered_at FROM orders a JOIN orders b ON a.id = b.id "
                "WHERE a.ordered_at >= {start} AND a.ordered_at < {end}",
            ),
            r"(?i)column 'id' more than once|duplicate column name",
        ),
    ],
)
def test_what_is_not_there_is_said(tables, read, selection, says):
    orders(tables, *DAY)
    with pytest.raises(ConfigError, match=says):
        read(tables, selection)


def test_rows_outside_are_refused(tables, read):
    orders(tables, *DAY)
    with pytest.raises(DataError, match=r"2 of the first 5 rows do not belong to the partition of 2013-01-15 00:00"):
        read(tables, Selection("ordered_at", query="SELECT * FROM orders WHERE {start} < {end}"))


def test_a_contract_says_what_columns_become(tables, read):
    orders(tables, *DAY)
    columns = {
        "id": Column("int64"),
        "ordered_at": Column("timestamp[us, tz=UTC]"),
        "amount": Column("double"),
    }
    rows = read(tables, contract=SchemaContract(version="1", columns=columns, new_columns="drop"))
    assert rows.schema.names == ["id", "ordered_at", "amount"]
    assert [str(kind) for kind in rows.schema.types] == ["int64", "timestamp[us, tz=UTC]", "double"]
    with pytest.raises(DataError, match="'shop': no such column is in the contract"):
        read(tables, contract=SchemaContract(version="1", columns=columns, new_columns="refuse"))
    with pytest.raises(DataError, match=r"of column 'amount' would not fit into int64"):
        read(tables, contract=SchemaContract(version="1", columns={"amount": Column("int64")}))


def test_hours_of_new_york_with_times_of_its_clock(tables, read):
    """The clock has the hour from one to two twice on November 3: its times are those of the first, as in files."""
    orders(tables, *[(f"2013-11-03 {hour:02}:30:00", "'a'", hour) for hour in range(5)])
    cut = Partitioning("hourly", NEW_YORK)
    found = {
        key: read(tables, key=key, partitioning=cut)["id"].to_pylist()
        for key in cut.keys(datetime(2013, 11, 3, 4, tzinfo=UTC), datetime(2013, 11, 3, 10, tzinfo=UTC))
    }
    assert list(found.values()) == [[0], [1], [], [2], [3], [4]]
    assert states(
        tables.database, Selection("ordered_at", "orders", updated_at="ordered_at"), list(found), cut
    ) == {
        key: State(len(ids), cut.interval(key)[0] + timedelta(minutes=30) if ids else None)
        for key, ids in found.items()
    }  # fmt: skip


def test_a_partition_that_has_not_ended_is_refused(postgres, read):
    orders(postgres, *DAY)
    with pytest.raises(DataError, match=r"is not complete yet(.|\n)*PartitionEndSensor"):
        read(postgres, key=f"{datetime.now(UTC):%Y-%m-%d}")
    with pytest.raises(DataError, match="is not complete yet"):
        read(postgres, complete_after=timedelta(days=365_000))


# --- the same rows, and others ----------------------------------------------------------------------------


def test_the_same_rows_are_the_same_revision_in_any_order(tables, tmp_path):
    orders(tables, *DAY)
    store = PartitionStore(tmp_path / "partitions")

    def sealed() -> str:
        current = store.get("orders", KEY) if store.current("orders", KEY) else None
        staged = extract(tables.database, ORDERS, KEY, tmp_path / "staged", sealed=current, store=store)
        sealed.notes = staged.notes
        return store.seal(
            "orders", KEY, Path(staged.uri), event_time="ordered_at", batch_hash=None, suite_hash=None
        ).revision

    first = sealed()
    tables.run(
        "CREATE TABLE again AS SELECT * FROM orders", "DROP TABLE orders",
        "CREATE TABLE orders AS SELECT * FROM again ORDER BY id DESC",
    )  # fmt: skip
    assert sealed() == first
    assert "They are the rows that are sealed." in sealed.notes
    tables.run("UPDATE orders SET shop = 'b' WHERE id = 3")
    assert sealed() != first
    receipt = store.get("orders", KEY).receipt
    assert receipt.uri == "shop_db:orders"
    assert receipt.changed_at is None


def test_what_changed_is_found_by_one_look(tables):
    orders(tables, *DAY)
    selection = Selection("ordered_at", "orders", updated_at="ordered_at")
    days = ["2013-01-13", "2013-01-14", KEY, "2013-01-16"]
    found = states(tables.database, selection, days, DAILY)
    assert [state.rows for state in found.values()] == [0, 1, 3, 1]
    assert found[KEY].changed_at == datetime(2013, 1, 15, 23, 59, 59, 999999, tzinfo=UTC)
    query = "SELECT * FROM orders WHERE ordered_at >= {start} AND ordered_at < {end}"
    assert states(tables.database, Selection("ordered_at", query=query, updated_at="ordered_at"), days, DAILY) == found


def test_when_the_newest_row_was_changed_is_kept(tables, read):
    orders(tables, *DAY)
    selection = Selection("ordered_at", "orders", updated_at="ordered_at")
    read(tables, selection)
    note = (Path(read.last.uri) / "_staged.json").read_text()
    assert '"changed_at": "2013-01-15T23:59:59.999999+00:00"' in note
    with pytest.raises(ConfigError, match="'id' does not say when a row was changed"):
        read(tables, Selection("ordered_at", "orders", updated_at="id"))


# --- PostgreSQL -------------------------------------------------------------------------------------------


TYPES = {
    "i2": ("smallint", "7", pa.int16(), 7),
    "i8": ("bigint", str(2**62), pa.int64(), 2**62),
    "f4": ("real", "'NaN'", pa.float32(), None),
    "f8": ("float8", "0.1::float8 + 0.2", pa.float64(), 0.1 + 0.2),
    "big": ("float8", "'Infinity'", pa.float64(), float("inf")),
    "d": ("numeric(20,4)", "12345678901234.5678", pa.decimal128(20, 4), Decimal("12345678901234.5678")),
    "b": ("boolean", "true", pa.bool_(), True),
    "t": ("text", "E'a\"b\\n\\\\.,\u00e9 NULL'", pa.string(), 'a"b\n\\.,é NULL'),
    "c": ("char(3)", "'x'", pa.string(), "x  "),
    "j": ("jsonb", "'{\"a\": 1}'", pa.string(), '{"a": 1}'),
    "u": ("uuid", "'00000000-0000-0000-0000-000000000001'", pa.string(), "00000000-0000-0000-0000-000000000001"),
    "e": ("mood", "'glad'", pa.string(), "glad"),
    "y": ("bytea", "'\\x00ff'", pa.binary(), b"\x00\xff"),
    "da": ("date", "'2013-01-15'", pa.date32(), date(2013, 1, 15)),
    "tz": ("timestamptz", "'2013-01-15 05:00:00.000001+02'", UTC_TIME, datetime(2013, 1, 15, 3, 0, 0, 1, tzinfo=UTC)),
    "ip": ("inet", "'10.0.0.1/8'", pa.string(), "10.0.0.1/8"),
}


def test_types_of_postgresql(postgres, read):
    columns = ", ".join(f"{name} {kind}" for name, (kind, *_) in TYPES.items())
    postgres.run(
        "CREATE TYPE mood AS ENUM ('glad', 'sad')",
        f"CREATE TABLE orders (ordered_at timestamptz, {columns})",
        f"INSERT INTO orders VALUES ('2013-01-15 10:00+00', {', '.join(one[1] for one in TYPES.values())})",
        "INSERT INTO orders (ordered_at) VALUES ('2013-01-15 11:00+00')",
    )
    rows = read(postgres)
    for name, (_, _, kind, value) in TYPES.items():
        assert rows.schema.field(name).type == kind, name
        found = rows[name].to_pylist()
        assert found[1] is None, name
        assert found[0] == value or (name == "f4" and found[0] != found[0]), name


@pytest.mark.parametrize(
    ("kind_and_value", "wish", "found"),
    [
        (("numeric", "1.25"), None, r"no match for the type of 'x'(.|\n)*'x' \(numeric\)(.|\n)*decimal128"),
        (("numeric", "1.25"), "double", 1.25),
        (("numeric", "1.25"), "decimal128(8, 2)", Decimal("1.25")),
        (("numeric", "'NaN'"), "decimal128(8, 2)", "A value of column 'x' does not fit into decimal128"),
        (("text[]", "'{a,b}'"), None, r"'x' \(text\[\]\)"),
        (("text[]", "'{a,b}'"), "string", "{a,b}"),
        (("interval", "'1 day'"), None, r"'x' \(interval\)"),
        (("timestamptz", "'infinity'"), None, r"A value of column 'x' does not fit into timestamp"),
        (("date", "'0044-03-15 BC'"), None, r"A value of column 'x' does not fit into date32"),
    ],
)
def test_types_without_a_match(postgres, read, kind_and_value, wish, found):
    kind, value = kind_and_value
    postgres.run(
        f"CREATE TABLE orders (ordered_at timestamptz, x {kind})",
        f"INSERT INTO orders VALUES ('2013-01-15 10:00+00', {value})",
    )
    contract = SchemaContract(version="1", columns={"x": Column(wish)}) if wish else None
    if isinstance(found, str) and wish != "string":
        with pytest.raises((ConfigError, DataError), match=found):
            read(postgres, contract=contract)
    else:
        assert read(postgres, contract=contract)["x"].to_pylist() == [found]


@pytest.mark.parametrize("kind", ["text", "integer"])
def test_an_event_time_that_is_none(postgres, read, kind):
    postgres.run(f"CREATE TABLE orders (ordered_at {kind})")
    with pytest.raises(ConfigError, match=r"The event time 'ordered_at' is no time(.|\n)*::timestamptz"):
        read(postgres)


def test_days_of_new_york(postgres, read):
    postgres.run(
        "CREATE TABLE orders (id int, ordered_at timestamptz, on_day date)",
        "INSERT INTO orders SELECT n, '2013-01-15 00:00+00'::timestamptz + n * interval '1 hour', '2013-01-15'"
        " FROM generate_series(0, 47) n",
    )
    cut = Partitioning("daily", NEW_YORK)
    assert read(postgres, partitioning=cut)["id"].to_pylist() == list(range(5, 29))
    rows = read(postgres, Selection("on_day", "orders"), partitioning=cut)
    assert rows["on_day"].unique().to_pylist() == [datetime(2013, 1, 15, 5, tzinfo=UTC)], "a day is one of its zone"


def test_names_are_taken_as_they_are(postgres, read):
    postgres.run(
        'CREATE TABLE "Order lines" ("At" timestamptz, "a ""b""" int, "user" int)',
        "INSERT INTO \"Order lines\" VALUES ('2013-01-15 10:00+00', 1, 2)",
    )
    assert read(postgres, Selection("At", f"{postgres.schema}.Order lines")).schema.names == ["At", 'a "b"', "user"]
    with pytest.raises(ConfigError, match="Did you mean 'At'"):
        read(postgres, Selection("at", "Order lines"))


def test_it_only_reads(postgres, read):
    postgres.run(
        "CREATE TABLE orders (ordered_at timestamptz)",
        "CREATE FUNCTION boom() RETURNS timestamptz LANGUAGE sql AS "
        "'INSERT INTO orders VALUES (now()) RETURNING ordered_at'",
    )
    with pytest.raises(ConfigError, match="read-only transaction"):
        read(postgres, Selection("ordered_at", query="SELECT boom() AS ordered_at WHERE {start} < {end}"))


def many(postgres: Postgres, rows: int) -> None:
    postgres.run(
        "CREATE TABLE orders AS SELECT n AS id, '2013-01-15 00:00+00'::timestamptz + n * interval '1 millisecond' "
        f"AS ordered_at, repeat('x', 100) AS note FROM generate_series(1, {rows}) n"
    )


def test_a_table_that_changes_meanwhile_is_of_one_moment(postgres, read, monkeypatch):
    many(postgres, 200_000)
    original = copying._Copy.read
    changed = threading.Event()

    def slow(self, size):
        data = original(self, min(size, 1 << 20))
        if not changed.is_set():
            changed.set()
            postgres.run("DELETE FROM orders WHERE id % 2 = 0", "UPDATE orders SET id = -id")
        return data

    monkeypatch.setattr(copying._Copy, "read", slow)
    rows = read(postgres)
    assert changed.is_set()
    assert rows["id"].to_pylist() == list(range(1, 200_001))


def test_a_connection_that_breaks_is_tried_again_and_leaves_nothing(postgres, read, monkeypatch, tmp_path):
    many(postgres, 200_000)
    original = copying._Copy.read

    def cut(self, size):
        data = original(self, min(size, 1 << 20))
        with closing(postgres._as("postgres")) as other:
            other.execute("SELECT pg_terminate_backend(%s)", [self._connection.info.backend_pid])
        return data

    monkeypatch.setattr(copying._Copy, "read", cut)
    with pytest.raises(TransientError, match="'shop_db' does not answer"):
        read(postgres)
    assert not [*(tmp_path / "staged").iterdir()]


def test_a_killed_task_ends_the_statement(postgres, read, monkeypatch):
    """What is raised while it waits for rows, as Airflow does on a kill or a timeout, does not wait for the server."""
    postgres.run("CREATE TABLE orders (ordered_at timestamptz)", "INSERT INTO orders VALUES ('2013-01-15 10:00+00')")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    import signal

    monkeypatch.setattr(signal, "default_int_handler", killed)
    before = signal.signal(signal.SIGALRM, killed)
    signal.setitimer(signal.ITIMER_REAL, 1.5)
    began = time.monotonic()
    slow = "SELECT ordered_at FROM orders, pg_sleep(60) WHERE ordered_at >= {start} AND ordered_at < {end}"
    try:
        with pytest.raises(KeyboardInterrupt):
            read(postgres, Selection("ordered_at", query=slow))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - began < 20
    with closing(postgres.connect()) as other:
        asleep = other.execute("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%'").fetchone()
        assert asleep[0] == 1, "only the one that asks"


def test_memory_does_not_grow_with_the_rows(postgres, tmp_path):
    many(postgres, 1_500_000)
    process, peak, done = psutil.Process(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.01):
            peak = max(peak, process.memory_info().rss)

    def cost(key: str, selection: Selection) -> int:
        nonlocal peak
        peak = 0
        before = process.memory_info().rss
        extract(postgres.database, selection, key, tmp_path / "staged")
        return peak - before

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    few = "SELECT * FROM orders WHERE ordered_at >= {start} AND ordered_at < {end} AND id <= 500000"
    cost(KEY, Selection("ordered_at", query=few))
    small, large = cost(KEY, Selection("ordered_at", query=few)), cost(KEY, ORDERS)
    done.set()
    assert large < small + (120 << 20), f"{small >> 20} and {large >> 20} MiB; all rows are 200 MiB"


# --- databases that tell types by their values ------------------------------------------------------------


def test_memory_does_not_grow_with_the_rows_of_a_cursor(tmp_path):
    tables = Sqlite(tmp_path)
    orders(tables)
    with closing(tables.connect()) as connection:
        rows = ((n, "2013-01-15 10:00:00", "a" * 100, 1.5) for n in range(400_000))
        connection.executemany("INSERT INTO orders VALUES (?, ?, ?, ?)", rows)
        connection.commit()
    tracemalloc.start()
    extract(tables.database, ORDERS, KEY, tmp_path / "staged")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60 << 20, f"{peak >> 20} MiB; all rows as Python objects are 150 MiB"


def test_sqlite_has_any_type_in_any_row(tmp_path, read, monkeypatch):
    from airflow_mlops.engine.data.tables import rows as batches

    monkeypatch.setattr(batches, "_BATCH_ROWS", 2)
    tables = Sqlite(tmp_path)
    tables.run(
        "CREATE TABLE orders (id, ordered_at, x, y, z)",
        *(
            f"INSERT INTO orders VALUES ({n}, '2013-01-15 10:00:00', {x}, {y}, {z})"
            for n, (x, y, z) in enumerate([(1, "NULL", 1), (2, "NULL", 2), (2.5, "'a'", "'b'")])
        ),
    )
    rows = read(tables, Selection("ordered_at", "orders", columns=("ordered_at", "x", "y")))
    assert rows["x"].to_pylist() == [1.0, 2.0, 2.5], "whole numbers become floats"
    assert rows["y"].to_pylist() == [None, None, "a"]
    with pytest.raises(DataError, match=r"Column 'z' is int64 in one file and string in another(.|\n)*rows 1 to 2"):
        read(tables)
    tables.run(f"UPDATE orders SET x = {2**60 + 1} WHERE id = 0")
    with pytest.raises(DataError, match="of column 'x' would not fit into double"):
        read(tables, Selection("ordered_at", "orders", columns=("ordered_at", "x")))
    tables.run("UPDATE orders SET z = 'c' WHERE id = 1")
    with pytest.raises(DataError, match="Values of column 'z' do not go together: int and str"):
        read(tables)


@pytest.mark.parametrize(
    ("first", "second", "zone"),
    [
        ("2013-01-15T10:00:00", "2013-01-15T10:59:59.5", ""),
        ("2013-01-15 10:00:00+00:00", "2013-01-15 10:59:59+00:00", "Europe/Berlin"),
        ("2013-01-15T10:00:00Z", "2013-01-15T10:59:59Z", "Europe/Berlin"),
        ("2013-01-15 11:00:00", "2013-01-15 11:59:00", "Europe/Berlin"),
    ],
)
def test_sqlite_has_times_as_texts(tmp_path, read, first, second, zone):
    tables = Sqlite(tmp_path)
    orders(tables, (first, "'a'", 1), (second, "'a'", 1), (second.replace("15", "16"), "'a'", 1))
    cut, key = Partitioning("hourly"), "2013-01-15T1000Z"
    assert read(tables, key=key, partitioning=cut, naive_times=zone)["id"].to_pylist() == [0, 1]
    query = "SELECT * FROM orders WHERE ordered_at >= {start} AND ordered_at < {end}"
    rows = read(tables, Selection("ordered_at", query=query), key=key, partitioning=cut, naive_times=zone)
    assert rows["id"].to_pylist() == [0, 1]


@pytest.mark.parametrize("value", ["'yesterday'", "1358244000"])
def test_sqlite_has_no_such_time(tmp_path, read, value):
    tables = Sqlite(tmp_path)
    tables.run("CREATE TABLE orders (ordered_at)", f"INSERT INTO orders VALUES ({value})")
    with pytest.raises(ConfigError, match=r"is no time|is a text that is no time"):
        read(tables)


@needs_mariadb
def test_types_of_mysql(read):
    tables = Mysql()
    tables.run(
        "SET time_zone = '+01:00'",
        "CREATE TABLE orders (ordered_at TIMESTAMP(6), at DATETIME, b BOOLEAN, d DECIMAL(12,3), j JSON, "
        "y VARBINARY(4), e ENUM('glad', 'sad'))",
        "INSERT INTO orders VALUES ('2013-01-15 11:00:00.5', '2013-01-15 11:00:00', true, 1.125, '{}', 'a', 'sad')",
    )
    rows = read(tables, naive_times="Europe/Berlin").to_pylist()[0]
    assert rows["ordered_at"] == datetime(2013, 1, 15, 10, 0, 0, 500000, tzinfo=UTC), "a TIMESTAMP is kept in UTC"
    assert rows["at"] == datetime(2013, 1, 15, 10, tzinfo=UTC), "a DATETIME has no zone"
    assert (rows["b"], rows["d"], rows["j"], rows["y"], rows["e"]) == (1, Decimal("1.125"), "{}", b"a", "sad")
    tables.run("ALTER TABLE orders ADD COLUMN t TIME", "UPDATE orders SET t = '01:00:00'")
    with pytest.raises(ConfigError, match="'t' has values that Arrow has no match for: timedelta"):
        read(tables)


# --- what databases say -----------------------------------------------------------------------------------


def refusing(error: Exception) -> Database:
    def connect() -> Any:
        raise error

    return Database("shop_db", connect, ["sw0rd fish"])


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        ('connection to server at "db", port 5432 failed: timeout', TransientError, "does not answer"),
        ('FATAL: password authentication failed for user "u"', ConfigError, "refuses the login"),
        ('FATAL: database "x" does not exist', ConfigError, "refuses the login"),
        ("postgresql://u:sw0rd%20fish@h/x: timeout", TransientError, r"u:\*\*\*@h"),
        ("password=sw0rd fish host=h", TransientError, r"password=\*\*\*"),
        ("connect to u:sw0rd fish at h", TransientError, r"u:\*\*\* at h"),
    ],
)
def test_a_database_that_does_not_open(tmp_path, error, kind, says):
    import psycopg

    with pytest.raises(kind, match=says) as caught:
        extract(refusing(psycopg.OperationalError(error)), ORDERS, KEY, tmp_path / "staged")
    assert "fish" not in str(caught.value)


def test_a_sqlite_file_that_is_not_there(tmp_path):
    import sqlite3

    database = Database("shop_db", lambda: sqlite3.connect(tmp_path / "no" / "where.db"))
    with pytest.raises(ConfigError, match="unable to open database file"):
        extract(database, ORDERS, KEY, tmp_path / "staged")


def test_nothing_of_the_file_is_there_before_all_is(postgres, read, tmp_path):
    many(postgres, 1000)
    read(postgres)
    before = sha256(Path(read.last.uri) / FILE)
    with pytest.raises(DataError, match="do not belong"):
        read(postgres, Selection("ordered_at", query="SELECT * FROM orders WHERE {start} < {end} UNION ALL "
                                 "SELECT 1, '2012-01-01', 'x'"))  # fmt: skip
    assert sha256(Path(read.last.uri) / FILE) == before
    assert [path.name for path in (tmp_path / "staged").iterdir()] == [KEY]
