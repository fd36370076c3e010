"""Rows that lie in one heap, put into a folder a day, week or month, as an upstream would land them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from itertools import chain
from pathlib import Path
from statistics import median

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from airflow_mlops.partitioning import Partitioning

LAYOUT = "dt={key}/*.parquet"
_DAY, _KEY = "dt", "_key"  # no column that a project has begins with "_"
_UNITS = {"daily": "day", "weekly": "week", "monthly": "month"}


def split(
    batches: Iterable[pa.Table],
    folder: Path,
    time: str,
    partitioning: Partitioning,
    names: Mapping[str, str],
    *,
    until: datetime,
) -> dict[str, int]:
    """Write the rows to ``folder/dt=<key>/``, and an empty file for each partition between that has none.

    No more than a few batches are in memory.

    :param batches: In one schema.
    :param time: Column of the event times; rows without one are left out.
    :param names: Column → what it is called in the files; others are left out.
    :param until: Rows of later are left out.
    :returns: Which rows were left out, in words → how many.
    """
    left_out = {"without a time": 0, "of the future": 0}
    schema: pa.Schema | None = None

    def keyed() -> Iterable[pa.RecordBatch]:
        nonlocal schema
        last = partitioning.key(until)
        for batch in batches:
            timed = batch.filter(pc.is_valid(batch[time]))
            left_out["without a time"] += batch.num_rows - timed.num_rows
            there = timed.filter(pc.less_equal(keys_of(timed[time], partitioning), last))
            left_out["of the future"] += timed.num_rows - there.num_rows
            keys = keys_of(there[time], partitioning)
            there = there.select(list(names)).rename_columns(list(names.values()))
            schema = there.schema
            yield from there.append_column(_KEY, keys).to_batches()

    rows = iter(keyed())
    first = next(rows)
    reader = pa.RecordBatchReader.from_batches(first.schema, chain([first], rows))
    folder.mkdir(parents=True)
    with duckdb.connect() as connection:
        connection.register("landing", reader)
        target = str(folder).replace("'", "''")
        connection.execute(f"COPY (FROM landing) TO '{target}' (FORMAT parquet, PARTITION_BY ({_KEY}), APPEND)")
    for one in sorted(folder.iterdir()):
        one.rename(folder / f"{_DAY}={one.name.removeprefix(f'{_KEY}=')}")
    keys = sorted(one.name.removeprefix(f"{_DAY}=") for one in folder.iterdir())
    assert schema is not None  # there was a row
    begin, end = (partitioning.interval(one)[0] for one in (keys[0], keys[-1]))
    for key in partitioning.keys(begin, end, without=keys):
        (folder / f"{_DAY}={key}").mkdir()
        pq.write_table(schema.empty_table(), folder / f"{_DAY}={key}" / "empty.parquet")
    return left_out


def cut_off(times: pa.ChunkedArray, partitioning: Partitioning, last: str) -> tuple[int, int] | None:
    """Return how many rows the last partition has and how many are usual, if it is cut off: if less than half is there.

    :param times: Of all rows, or of many.
    :param last: Key of the last partition.
    """
    counted = pc.value_counts(keys_of(times.drop_null(), partitioning)).to_pylist()
    rows = {one["values"]: int(one["counts"]) for one in counted if one["values"] <= last}
    before = [n for key, n in rows.items() if key < last]
    usual = round(median(before)) if before else 0
    return (there, usual) if (there := rows.get(last, 0)) < usual / 2 else None


def cut_for(rows: int, first: datetime, last: datetime, timezone: str) -> Partitioning:
    """Return how to cut rows by time: into days; into weeks or months where a day or a week has just a few."""
    days = max(1, (last - first).days)
    every = "daily" if rows / days >= 5 else "weekly" if rows / days * 7 >= 5 else "monthly"
    return Partitioning.parse(f"{every}@{timezone}")


def keys_of(times: pa.ChunkedArray, partitioning: Partitioning) -> pa.ChunkedArray:
    """Return of each time the key of its partition."""
    if pa.types.is_timestamp(times.type) and times.type.tz is not None:
        times = pc.local_timestamp(times.cast(pa.timestamp("us", partitioning.timezone)))
    started = pc.floor_temporal(times.cast(pa.timestamp("us")), unit=_UNITS[partitioning.every])
    return pc.strftime(started.cast(pa.timestamp("s")), partitioning.key_format)
