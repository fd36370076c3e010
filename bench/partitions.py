"""A year of hours, and types that are made to fit.

* How long a watermark, the readiness of a training and the plan of what goes online take over 8,760 hourly partitions.
* CPU from landed files to a sealed partition as the features DAG takes it (made to fit, held against a suite, profiled,
  sealed), where a contract casts three columns, against one that fits as it is.

Run: python bench/partitions.py [--small]
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import great_expectations.expectations as gxe
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from _figures import Figures, options
from airflow_mlops import Checks
from airflow_mlops.engine.data.checks import Column, SchemaContract
from airflow_mlops.engine.data.checks.partition import profile_landed
from airflow_mlops.engine.data.parquet import parquet_files
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.data.readiness import Source, latest_complete, readiness
from airflow_mlops.engine.data.staging import stage
from airflow_mlops.engine.data.validation import Suite, validate
from airflow_mlops.engine.features.computing.files import write_day
from airflow_mlops.engine.features.materialization.chunks import due
from airflow_mlops.engine.features.materialization.watermarks import Watermark
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.partitioning import DAILY, Partitioning

START = date(2023, 1, 1)
HOURLY = Partitioning("hourly", "America/New_York")
TIME = pa.timestamp("us", "UTC")


def main() -> None:
    given = options(__doc__).parse_args()
    figures = Figures(small=given.small)
    with tempfile.TemporaryDirectory() as folder:
        a_year_of_hours(figures, Path(folder) / "hours", 100 if given.small else 8760)
        casting(figures, Path(folder) / "rows", 30_000 if given.small else 3_000_000)
    figures.end()


def a_year_of_hours(figures: Figures, home: Path, hours: int) -> None:
    """Seal so many hours of one row, and ask what a training and a materialisation ask."""
    store, ledger = PartitionStore.under(home), Ledger(f"sqlite:///{home}.db")
    store.declare("events", HOURLY)
    begin = HOURLY.first(START)
    end = begin + timedelta(hours=hours)
    landed = home / "landed"
    landed.mkdir(parents=True)
    for key in HOURLY.keys(begin, end):
        at = pa.array([HOURLY.interval(key)[0]], TIME)
        pq.write_table(pa.table({"at": at}), landed / "a.parquet")
        store.seal("events", key, landed, event_time="at", batch_hash=None, suite_hash=None)
        rows = pa.table({"shop": ["a"], "event_timestamp": at, "created_timestamp": at})
        write_day(home, "traffic", key, rows, HOURLY)
    source = Source("events", START)
    timed(figures, f"watermark over {hours} hours", lambda: latest_complete(store, ledger, [source]) == end)
    timed(figures, f"readiness over {hours} hours", lambda: readiness(store, ledger, [source.need(end, HOURLY)]) == [])
    ttl = timedelta(days=400)
    timed(figures, f"plan over {hours} hours", lambda: bool(due(home, "traffic", Watermark(), ttl, end)[1]))


def timed(figures: Figures, what: str, ask: Callable[[], bool]) -> None:
    began = time.perf_counter()
    right = ask()
    figures.hold(f"{what}, seconds", time.perf_counter() - began, at_most=1)
    figures.must(f"{what} is right", right)


def casting(figures: Figures, home: Path, rows: int) -> None:
    """Seal the same rows as they are, and after three columns were cast."""
    generator = np.random.default_rng(7)
    moments = np.datetime64("2023-01-01T00:00:00", "us") + generator.integers(0, 86_400_000_000, rows)
    table = pa.table(
        {
            "at": pa.array(moments, pa.timestamp("us")).cast(TIME),
            "amount": generator.integers(0, 1000, rows).astype(float),
            "count": generator.integers(0, 1000, rows).astype(np.int32),
            "shop": pa.array(generator.choice(["a", "b", "c"], rows)),
            "size": generator.integers(0, 50, rows).astype(np.int16),
            "price": generator.normal(size=rows),
            "id": np.arange(rows),
        }
    )
    key = str(START)
    folder = home / "lake" / key
    folder.mkdir(parents=True)
    pq.write_table(table, folder / "a.parquet")
    contract = SchemaContract(
        version="1", columns={"amount": Column("int64"), "count": Column("double"), "size": Column("int64")}
    )

    suite = Suite(
        "orders",
        "1",
        (
            gxe.ExpectColumnValuesToNotBeNull(column="id"),
            gxe.ExpectColumnValuesToBeUnique(column="id"),
            gxe.ExpectColumnValuesToBeBetween(column="price", min_value=-10, max_value=10),
            gxe.ExpectColumnDistinctValuesToBeInSet(column="shop", value_set=["a", "b", "c"]),
        ),
    )

    def sealed(*, cast: bool) -> float:
        shutil.rmtree(home / "partitions", ignore_errors=True)
        store = PartitionStore.under(home)
        before = time.process_time()
        staged = stage(home / "lake", key, home / "staged", event_time="at", contract=contract if cast else None)
        landed = Path(staged.uri)
        result = validate(parquet_files(landed), suite, suite_name="orders", batch=f"orders/{key}")
        profile_landed(landed, "orders", key, result.batch_hash, checks=Checks(unique=["id"]), partitioning=DAILY)
        store.seal("orders", key, landed, event_time="at", batch_hash=result.batch_hash, suite_hash=result.suite_hash)
        return time.process_time() - before

    sealed(cast=True)  # imports
    ratio = min(sealed(cast=True) for _ in range(3)) / min(sealed(cast=False) for _ in range(3))
    figures.hold("CPU from landed to sealed, three columns cast / none", ratio, at_most=1.5)


if __name__ == "__main__":
    main()
