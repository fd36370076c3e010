"""Sealed partitions: one day of a dataset, frozen, and the only data that anything downstream reads.

::

    partitions/<dataset>/<key>/<revision>/*.parquet, manifest.json
    partitions/<dataset>/<key>/current.json      the manifest of the revision that counts

A revision is published by one rename and never changes; its name is the hash of its files, so sealing the same
bytes again gives the same revision. ``current.json`` is replaced last: without it, a partition does not exist.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from airflow_mlops.contracts import Partition, PartitionFile, content_hash
from airflow_mlops.engine.data.files import replacing, sha256, sweep, sync, temporary_sibling
from airflow_mlops.exceptions import ConfigError, DataError

_CURRENT = "current.json"
_MANIFEST = "manifest.json"


def day_bounds(key: str) -> tuple[datetime, datetime]:
    """Return the UTC day that a partition key names, as ``[start, end)``.

    :raises ConfigError: when the key is not a day such as ``2013-01-15``.
    """
    try:
        day = datetime.strptime(key, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        day = None
    if day is None or f"{day:%Y-%m-%d}" != key:
        raise ConfigError(
            f"{key!r} is not a partition key.",
            hint="A key is a UTC day such as 2013-01-15; a timetable needs key_format='%Y-%m-%d'.",
        )
    return day, day + timedelta(days=1)


def parquet_files(folder: Path) -> list[Path]:
    """Return the Parquet files that lie in a folder, in order of their names.

    :raises DataError: when there are none, or the folder cannot be read.
    """
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix == ".parquet" and path.name[0] != ".")
    except FileNotFoundError:
        raise DataError(
            "There is no such folder.",
            detail=str(folder),
            hint="See whether the upstream landed it, and under this name.",
        ) from None
    except OSError as error:
        raise _unreadable(folder, error) from None
    if not files:
        raise DataError(
            "There are no Parquet files.",
            detail=f"{folder} is readable, and empty of them",
            hint="See why the upstream landed nothing. An empty day is refused, never trained on.",
        )
    return files


def batch_hash(files: Iterable[Path]) -> str:
    """Return the identity of a set of files: the hash of their names and contents."""
    with _readable():
        return _identity({file.name: sha256(file) for file in files})


def seal(
    home: Path,
    dataset: str,
    key: str,
    landed: Path,
    *,
    event_time: str,
    batch_hash: str | None,
    suite_hash: str | None,
) -> Partition:
    """Freeze what landed as the partition ``key`` of a dataset, and make it the current one.

    The files are copied first and checked as copied, so that what was checked is what is sealed.

    :param landed: Folder with the Parquet files.
    :param event_time: Column of timestamps with a time zone, none of them null, all within the key's UTC day.
    :param batch_hash: :func:`batch_hash` of the files that were validated; None when nothing was.
    :param suite_hash: Hash of the suite that they passed.
    :raises DataError: when there is nothing to seal, it cannot be read, it changed since it was validated, or
        its event times are not those of the day.
    """
    start, end = day_bounds(key)
    sources = parquet_files(landed)
    folder = home / "partitions" / dataset / key
    making = temporary_sibling(folder / "revision")
    try:
        making.mkdir()
        with _readable():
            for source in sources:
                shutil.copyfile(source, making / source.name)
        files = tuple(_describe(making / source.name, source) for source in sources)
        identity = _identity({file.name: file.sha256 for file in files})
        if batch_hash is not None and batch_hash != identity:
            raise DataError(
                "The files changed after they were validated.",
                detail=f"{landed}: validated {batch_hash[:16]}, found {identity[:16]}",
                hint="Clear the validation task, so that what is sealed is what was validated.",
            )
        contents = _inspect([making / file.name for file in files], event_time, landed)
        _check_times(contents, start, end, f"{landed}, column {event_time!r}")
        partition = Partition(
            dataset=dataset,
            key=key,
            revision=identity[:16],
            uri=str(folder / identity[:16]),
            rows=sum(file.rows for file in files),
            bytes=sum(file.bytes for file in files),
            files=files,
            columns=contents.columns,
            event_time=event_time,
            min_event_time=contents.earliest,
            max_event_time=contents.latest,
            source={"uri": str(landed), "sha256": identity},
            suite_hash=suite_hash,
        )
        return _publish(partition, making)
    finally:
        shutil.rmtree(making, ignore_errors=True)
        sweep(folder)


def get_partition(home: Path, dataset: str, key: str) -> Partition:
    """Return the current revision of a partition.

    :raises DataError: when it was never sealed.
    """
    day_bounds(key)
    partition = _load(home / "partitions" / dataset / key / _CURRENT)
    if partition is None:
        raise DataError(
            f"There is no partition {key} of {dataset!r}.",
            detail=f"{home / 'partitions' / dataset / key} holds no sealed revision",
            hint="Run the features DAG for that day; a day is sealed only after it was validated.",
        )
    return partition


def list_partitions(home: Path, dataset: str, start: date | None, end: date | None) -> list[Partition]:
    """Return the current partitions of the days ``start`` to ``end``, both included, in order of their keys.

    Days that were not sealed are simply not in the list.
    """
    first, last = start or date.min, end or date.max
    found = []
    for current in sorted((home / "partitions" / dataset).glob(f"*/{_CURRENT}")):
        if first <= date.fromisoformat(current.parent.name) <= last:
            partition = _load(current)
            if partition is not None:
                found.append(partition)
    return found


def read_partitions(partitions: Sequence[Partition], columns: Sequence[str] | None = None) -> pa.Table:
    """Return the rows of some partitions, in the order given.

    Every file is checked against its manifest before a row of it is believed.

    :param columns: Columns to read; default is all of the first partition.
    :raises DataError: when there are no partitions, a file is missing or changed, or partitions do not agree
        on the columns.
    """
    if not partitions:
        raise DataError(
            "There are no partitions to read.",
            hint="Run the features DAG for the days in question. Nothing is ever computed from nothing.",
        )
    names = list(partitions[0].columns if columns is None else columns)
    wanted = _types(partitions[0], names)
    for partition in partitions[1:]:
        if columns is None and partition.columns.keys() != partitions[0].columns.keys():
            raise _disagreement(partitions[0], partition, partition.columns)
        if _types(partition, names) != wanted:
            raise _disagreement(partitions[0], partition, _types(partition, names))
    tables = [_read(partition, file, names) for partition in partitions for file in partition.files]
    return pa.concat_tables(tables)


# --- sealing ----------------------------------------------------------------------------------------------


class _Contents(NamedTuple):
    """What one pass over every row of the files found."""

    columns: dict[str, str]
    earliest: datetime
    latest: datetime


def _copy(source: Path, target: Path) -> PartitionFile:
    with _readable(source):
        shutil.copyfile(source, target)
    with _readable(source), pq.ParquetFile(target) as parquet:
        rows = parquet.metadata.num_rows
    return PartitionFile(name=source.name, sha256=sha256(target), bytes=target.stat().st_size, rows=rows)


def _inspect(files: Sequence[Path], event_time: str, landed: Path, key: str) -> _Contents:
    """Read everything once, so that what cannot be read is refused now, and check the event times."""
    start, end = (pa.scalar(bound, _MICROSECONDS) for bound in day_bounds(key))
    schema: pa.Schema | None = None
    rows = nulls = outside = 0
    times = []
    for file in files:
        with _readable(landed / file.name), pq.ParquetFile(file) as parquet:
            schema = _agreed_schema(schema, parquet.schema_arrow, landed / file.name, event_time)
            for batch in parquet.iter_batches():
                column = batch[event_time].cast(_MICROSECONDS, safe=False)
                rows += batch.num_rows
                nulls += column.null_count
                inside = pc.and_(pc.greater_equal(column, start), pc.less(column, end))
                outside += pc.sum(pc.invert(inside)).as_py() or 0
                times.append(pc.min_max(column))
    if rows == 0:
        raise DataError(
            "The partition has no rows.",
            detail=f"{landed} is readable, and all its Parquet files are empty",
            hint="See why the upstream landed nothing. An empty day is refused, never trained on.",
        )
    if nulls:
        raise DataError(
            f"The event time {event_time!r} is null in {nulls} of {rows} rows.",
            detail=str(landed),
            hint="Every row needs the time at which it happened; without it, it cannot be put into a day.",
        )
    earliest = min(time["min"].as_py() for time in times)
    latest = max(time["max"].as_py() for time in times)
    if outside:
        raise DataError(
            f"{outside} of {rows} rows do not belong to the day {key}.",
            detail=f"{landed}: {event_time!r} runs from {earliest:%Y-%m-%d %H:%M:%S} to "
            f"{latest:%Y-%m-%d %H:%M:%S} UTC, the partition from {key} 00:00 to 24:00 UTC",
            hint="See whether the upstream is off by a day, or writes local time as UTC.",
        )
    assert schema is not None
    return _Contents({field.name: str(field.type) for field in schema}, earliest, latest)
