"""Sealed days of a few rows, for tests that are about which days there are, not about what is in them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_mlops.engine.data.parquet import parquet_files
from airflow_mlops.engine.data.partitions import PartitionStore, batch_hash
from airflow_mlops.engine.ledger import Ledger

START = date(2013, 1, 1)


def ledger_of(home: Path) -> Ledger:
    """The ledger that the tests of a home folder use."""
    return Ledger(f"sqlite:///{home}/ledger.db")


def seal_day(home: Path, dataset: str, day: date, values: Sequence[float] = (1.0, 2.0)) -> str:
    """Seal a day of a dataset and return its revision."""
    folder = home / "lake" / dataset / day.isoformat()
    folder.mkdir(parents=True, exist_ok=True)
    noon = datetime.combine(day, time(12), UTC)
    rows = {"at": [noon] * len(values), "value": list(values), "id": [f"{day}/{n}" for n in range(len(values))]}
    pq.write_table(pa.table(rows), folder / "rows.parquet")
    store, hashed = PartitionStore.under(home, ledger_of(home)), batch_hash(parquet_files(folder))
    return store.seal(dataset, day.isoformat(), folder, event_time="at", batch_hash=hashed, suite_hash="suite").revision


def seal_days(home: Path, dataset: str, days: int, start: date = START) -> None:
    """Seal so many days in a row."""
    for n in range(days):
        seal_day(home, dataset, start + timedelta(days=n))
