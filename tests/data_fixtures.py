"""Real landed days, and small ways to spoil them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from airflow_mlops.contracts import Partition
from airflow_mlops.demo.flights import Feed, land
from airflow_mlops.engine.data.parquet import parquet_files
from airflow_mlops.engine.data.partitions import PartitionStore, batch_hash

EVENT_TIMES: dict[Feed, str] = {"departures": "sched_dep_utc", "arrivals": "landed_at", "weather": "observed_at"}
DAY = date(2013, 1, 15)
KEY = "2013-01-15"
NOBODY = 65534


def landed(lake: Path, feed: Feed = "departures", day: date = DAY) -> Path:
    """Land a real day and return its folder."""
    return Path(land(lake, day, feed)["uri"])


def sealed(home: Path, feed: Feed = "departures", day: date = DAY) -> Partition:
    """Land and seal a real day."""
    folder = landed(home / "lake", feed, day)
    return seal_folder(home, folder, feed, day.isoformat())


def seal_folder(home: Path, folder: Path, feed: Feed = "departures", key: str = KEY) -> Partition:
    """Seal whatever is in a folder, as the features DAG does after a validation."""
    hashed = batch_hash(parquet_files(folder))
    store = PartitionStore.under(home)
    return store.seal(feed, key, folder, event_time=EVENT_TIMES[feed], batch_hash=hashed, suite_hash="suite")


def spoil(folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Path:
    """Rewrite a landed day with changed rows, as an upstream with a fault would have landed it."""
    [file] = folder.glob("*.parquet")
    schema = pq.read_schema(file)
    frame = change(pd.read_parquet(file))
    found = pa.Schema.from_pandas(frame, preserve_index=False)
    kept = pa.schema([schema.field(name) if name in schema.names else found.field(name) for name in frame])
    pq.write_table(pa.Table.from_pandas(frame, kept, preserve_index=False), file, write_page_checksum=True)
    return folder


@contextmanager
def permission_lost(folder: Path, left: int = 0o0) -> Iterator[None]:
    """Take from this process, which may be root's, what it may do with a folder.

    :param left: What it may still do, as a digit of a mode: 1 is to look a known name up, not to list.
    """
    root = os.geteuid() == 0
    closed = [path for path in folder.parents if root and not path.stat().st_mode & 0o001]
    modes = {path: path.stat().st_mode for path in (folder, *closed)}
    folder.chmod(0o700 | left * 0o011 if root else left * 0o100)
    if root:  # it may do anything, so be nobody for a while, and let nobody come as far as the folder
        for path in closed:
            path.chmod(modes[path] | 0o011)
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        for path, mode in modes.items():
            path.chmod(mode)


def flip_a_byte(folder: Path) -> None:
    [file] = parquet_files(folder)
    contents = bytearray(file.read_bytes())
    contents[len(contents) // 3] ^= 0xFF
    file.write_bytes(contents)
