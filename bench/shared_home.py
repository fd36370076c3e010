"""Reading a training set whose home is on object storage, beside one whose home is a folder of this machine.

moto's server is the storage, on this machine: what is measured is the way through the cache, not a network.

* All splits, checked against the manifest, with a warm cache; and how many requests that takes.
* The same with an empty cache, for the record.
* Finding out that a year of feature files is as it was, against fetching it.

Run: python bench/shared_home.py [--small]
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import numpy as np
import pyarrow as pa
from moto.server import ThreadedMotoServer
from upath import UPath

from _figures import Figures, options
from airflow_mlops.contracts import Snapshot, SplitName, SplitRule
from airflow_mlops.engine.data.shared import fetch_views, send, share
from airflow_mlops.engine.data.snapshot_writer import Columns, SnapshotWriter
from airflow_mlops.engine.data.snapshots import load_snapshot, read_split
from airflow_mlops.engine.data.splits import SplitRows
from airflow_mlops.engine.features.computing.files import write_day

START = datetime(2023, 1, 1, tzinfo=UTC)
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
COLUMNS = 30


def main() -> None:
    given = options(__doc__).parse_args()
    figures = Figures(small=given.small)
    rows, days = (3_000, 20) if given.small else (133_000, 365)
    with tempfile.TemporaryDirectory() as folder, bucket() as remote:
        local, cache = Path(folder) / "local", Path(folder) / "cache"
        snapshot = made(local, rows)
        share(cache, remote)
        shutil.copytree(snapshot.uri, cache / "snapshots" / snapshot.id)
        send(cache / "snapshots" / snapshot.id)

        def cold() -> None:
            shutil.rmtree(cache)
            read(cache, snapshot)

        cold()
        here, there = [], []
        for _ in range(15):
            here.append(seconds(lambda: read(local, snapshot)))
            there.append(seconds(lambda: read(cache, snapshot)))
        figures.hold(
            f"reading {rows} rows, home in a bucket with a warm cache / a folder", min(there) / min(here), at_most=1.2,
            note=f"{min(there) * 1000:.0f} ms, {min(here) * 1000:.0f} ms",
        )  # fmt: skip
        figures.must("the rows are the same", read(cache, snapshot) == read(local, snapshot) == rows)
        print(f"with an empty cache: {min(seconds(cold) for _ in range(3)) * 1000:.0f} ms")
        features(figures, cache, days)
    figures.end()


def features(figures: Figures, cache: Path, days: int) -> None:
    """Write a year of feature files, fetch them, and look again."""
    for n in range(days):
        write_day(cache, "traffic", str((START + timedelta(days=n)).date()), pa.table({"n": [n]}))
    shutil.rmtree(cache)
    fetched = seconds(lambda: fetch_views(cache, ["traffic"]))
    again = min(seconds(lambda: fetch_views(cache, ["traffic"])) for _ in range(3))
    note = f"{again * 1000:.0f} ms, {fetched * 1000:.0f} ms"
    figures.hold(
        f"seeing that {days} feature files are as they were / fetching them", again / fetched, at_most=0.25, note=note
    )
    figures.must("all are here", len(list((cache / "features" / "traffic").glob("*.parquet"))) == days)


@contextmanager
def bucket() -> Iterator[UPath]:
    """Run a server with an empty bucket."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    os.environ.update(AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test", AWS_DEFAULT_REGION="us-east-1")
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    url = f"http://127.0.0.1:{server.get_host_and_port()[1]}"
    boto3.client("s3", endpoint_url=url).create_bucket(Bucket="lake")
    try:
        yield UPath("s3://lake/mlops", endpoint_url=url)
    finally:
        server.stop()


def made(home: Path, rows: int) -> Snapshot:
    """Write a training set of so many rows of thirty features."""
    generator = np.random.default_rng(7)
    counts = rows - 2 * (rows // 10), rows // 10, rows // 10
    names = [f"f{n}" for n in range(COLUMNS)]
    splits: dict[SplitName, SplitRows] = {}
    for day, (name, count) in enumerate(zip(SPLITS, counts, strict=True)):
        begin = START + timedelta(days=day)
        moments = np.datetime64(begin.replace(tzinfo=None), "us") + np.sort(
            generator.integers(0, 86_400_000_000, count)
        )
        columns = {name: generator.normal(size=count) for name in names}
        table = pa.table({
            "id": [f"{day}-{n}" for n in range(count)], "at": pa.array(moments).cast(pa.timestamp("us", "UTC")),
            "late": generator.random(count) < 0.2, **columns,
        })  # fmt: skip
        splits[name] = SplitRows(table, begin, begin + timedelta(days=1))
    with SnapshotWriter(home, Columns("id", "at", names, "late")) as writer:
        writer.add(splits)
        return writer.publish(
            model="m", partitions={}, feature_service="s", feature_definition="d", split_rule=SplitRule(),
            as_of=START + timedelta(days=4), label_cut=START + timedelta(days=3), unlabelled_rows=0,
        )  # fmt: skip


def read(home: Path, snapshot: Snapshot) -> int:
    found = load_snapshot(home, snapshot.id)
    return sum(read_split(found, name).num_rows for name in SPLITS)


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
