"""Sealed partitions: one day of a dataset, frozen, and the only data that anything downstream reads.

::

    partitions/<dataset>/<key>/<revision>/*.parquet, manifest.json
    partitions/<dataset>/<key>/current.json      the manifest of the revision that counts

A revision is published by one rename and never changes; its name is the hash of its files, so sealing the same
bytes again gives the same revision. ``current.json`` is replaced last: without it, a partition does not exist.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from airflow_mlops.contracts import Partition, PartitionFile
from airflow_mlops.engine.data.files import identity, replacing, sha256, sweep, sync, temporary_sibling
from airflow_mlops.engine.data.parquet import difference, inspect, parquet_files, readable
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


def batch_hash(files: Iterable[Path]) -> str:
    """Return the identity of a set of files: the hash of their names and contents."""
    return identity({file.name: sha256(file) for file in files})


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
    bounds = day_bounds(key)
    sources = parquet_files(landed)
    folder = home / "partitions" / dataset / key
    making = temporary_sibling(folder / "revision")
    try:
        making.mkdir()
        files = tuple(_copy(source, making / source.name) for source in sources)
        contents_hash = identity({file.name: file.sha256 for file in files})
        if batch_hash not in (None, contents_hash):
            raise DataError(
                "The files changed after they were validated.",
                detail=f"{landed}: validated {batch_hash[:16]}, found {contents_hash[:16]}",
                hint="Clear the validation task, so that what is sealed is what was validated.",
            )
        columns, earliest, latest = inspect([making / file.name for file in files], event_time, bounds, landed)
        partition = Partition(
            dataset=dataset,
            key=key,
            revision=contents_hash[:16],
            uri=str(folder / contents_hash[:16]),
            rows=sum(file.rows for file in files),
            bytes=sum(file.bytes for file in files),
            files=files,
            columns=columns,
            event_time=event_time,
            min_event_time=earliest,
            max_event_time=latest,
            source={"uri": str(landed), "sha256": contents_hash},
            suite_hash=suite_hash,
        )
        return _publish(partition, making, folder)
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
    names = _check_columns(partitions, columns)
    tables = [_read(partition, file, names) for partition in partitions for file in partition.files]
    return pa.concat_tables(tables, promote_options="default")  # only nullability may differ by now


# --- sealing ----------------------------------------------------------------------------------------------


def _copy(source: Path, target: Path) -> PartitionFile:
    with readable(source):
        shutil.copyfile(source, target)
        with pq.ParquetFile(target) as parquet:
            rows = parquet.metadata.num_rows
    return PartitionFile(name=source.name, sha256=sha256(target), bytes=target.stat().st_size, rows=rows)


def _publish(partition: Partition, making: Path, folder: Path) -> Partition:
    """Rename the revision into place, unless it is there already, and make it the current one."""
    final = folder / partition.revision
    if partition.suite_hash is None:
        known = _load(folder / _CURRENT)
        if known is not None and known.revision == partition.revision:
            partition = known
    manifest = partition.to_json()
    if final.exists() and not _intact(partition):
        broken = temporary_sibling(final)
        final.rename(broken)
        shutil.rmtree(broken, ignore_errors=True)
    if not final.exists():
        (making / _MANIFEST).write_text(manifest)
        for path in (*making.iterdir(), making):
            sync(path)
        try:
            making.rename(final)
        except OSError:
            if not _intact(partition):  # else another writer sealed the same bytes just now
                raise
    elif (final / _MANIFEST).read_text() != manifest:  # the same bytes passed another suite since
        with replacing(final / _MANIFEST) as temporary:
            temporary.write_text(manifest)
    with replacing(folder / _CURRENT) as temporary:
        temporary.write_text(manifest)
    return partition


def _intact(partition: Partition) -> bool:
    files = {Path(partition.uri) / file.name: file.sha256 for file in partition.files}
    return all(path.is_file() and sha256(path) == digest for path, digest in files.items())


# --- reading ----------------------------------------------------------------------------------------------


def _load(current: Path) -> Partition | None:
    """Read ``current.json``. The files lie beside it, wherever the home folder is mounted today."""
    try:
        with readable(current):
            if not current.is_file():
                return None
            partition = Partition.from_json(current.read_bytes())
    except ValidationError as error:
        raise DataError(
            "The manifest of a partition cannot be read.",
            detail=f"{current}: {error.error_count()} problems, the first: {error.errors()[0]['msg']}",
            hint="Seal the day again: clear the features DAG's run for it.",
        ) from None
    return partition.model_copy(update={"uri": str(current.parent / partition.revision)})


def _read(partition: Partition, file: PartitionFile, columns: Sequence[str]) -> pa.Table:
    path = Path(partition.uri) / file.name
    with readable(path):
        contents = path.read_bytes() if path.exists() else None
    if contents is None or hashlib.sha256(contents).hexdigest() != file.sha256:
        problem = "is missing" if contents is None else "changed after it was sealed"
        raise DataError(
            f"A file of partition {partition.key} of {partition.dataset!r} {problem}.",
            detail=f"{path} (revision {partition.revision})",
            hint=f"Seal the day again from {partition.source.get('uri', 'its source')}; "
            "the same bytes give the same revision.",
        )
    table = pq.ParquetFile(pa.BufferReader(contents)).read(columns=list(columns))
    return table.select(columns).replace_schema_metadata()


def _check_columns(partitions: Sequence[Partition], columns: Sequence[str] | None) -> list[str]:
    """Return the columns to read, after all partitions were found to have them with the same types."""
    first = partitions[0]
    expected = first.columns if columns is None else {name: first.columns.get(name, "any type") for name in columns}
    for partition in partitions:
        found = partition.columns
        if columns is not None:
            found = {name: found[name] for name in columns if name in found}
        if found != expected:
            raise DataError(
                f"Partition {partition.key} of {partition.dataset!r} does not have the columns to read.",
                detail=f"expected as in {first.key}: {difference(expected, found)}",
                hint="See what the upstream changed; days before and after it cannot be read together.",
            )
    return list(expected)
