"""The rows of feature views, read: only the files, row groups and columns that can matter."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast import FileSource
from feast.data_format import ParquetFormat
from feast.data_source import DataSource
from feast.infra.offline_stores.duckdb import _read_data_source
from ibis.common.exceptions import IbisError

from airflow_mlops.exceptions import ConfigError, DataError, did_you_mean


def read_rows(
    source: DataSource,
    columns: Sequence[str],
    *,
    repo_path: str,
    event: str,
    start: datetime | None,
    end: datetime | None,
    files: Sequence[Path] | None = None,
) -> pa.Table:
    """Return columns of the rows of a source whose event lies between two moments, both included.

    Timestamps without a zone count as UTC. A column that only some of the files have is null in the others.

    :param repo_path: Folder that a relative path is looked up from.
    :param event: Column with the time of the event; date, or timestamp.
    :param files: Read these Parquet files instead of what the source says.
    :raises DataError: when the source vanished, cannot be read, or lacks a column.
    :raises ConfigError: when it is of a kind that cannot be read here.
    """
    what = f"The rows of {source.name or 'a source'!r}"
    if files is None:
        files = _files(source, repo_path)
    if files is None:
        return _by_feast(source, columns, _Window(event, start, end), what, repo_path)
    if not files:
        raise DataError(
            f"{what} are gone: there is no file.",
            detail=f"looked for {_path(source, repo_path)}",
            hint="Compute them again with the features DAG, or correct the path of the source.",
        )
    read = partial(_read_files, list(dict.fromkeys(columns)), _Window(event, start, end), what)
    with ThreadPoolExecutor(pa.cpu_count()) as pool:
        share = -(-len(files) // pa.cpu_count())
        parts = pool.map(read, [files[first : first + share] for first in range(0, len(files), share)])
        tables = [table for part in parts for table in part]
    if any(table.schema != tables[0].schema for table in tables):
        tables = [in_utc(table) for table in tables]
    try:
        table = pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise DataError(
            f"{what} have other types from file to file.",
            detail=f"{len(files)} files, {files[0]} first: {error}",
            hint="Compute the days before the type was changed again.",
        ) from None
    if missing := [column for column in columns if column not in table.column_names]:
        raise _lacks(what, missing[0], pq.read_schema(files[0]).names)
    return _between(in_utc(table), _Window(event, start, end), what).select(columns)


def _path(source: FileSource, repo_path: str) -> str:
    return str(FileSource.get_uri_for_file_path(repo_path=repo_path, uri=source.path))


def _files(source: DataSource, repo_path: str) -> list[Path] | None:
    """Return the local Parquet files of a source, None when it is something else."""
    if not isinstance(source, FileSource) or "://" in source.path:
        return None
    if not isinstance(source.file_format or ParquetFormat(), ParquetFormat):
        return None
    path = _path(source, repo_path)
    pattern = f"{path}/**/*.parquet" if Path(path).is_dir() else path
    files = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - a pattern may be absolute
    # Columns in the names of folders, such as day=2013-01-01, are none of the file's: DuckDB reads those.
    return None if any("=" in file[len(path.partition("*")[0]) :] for file in files) else list(map(Path, files))


class _Window(NamedTuple):
    """Rows whose event lies between two moments, both included."""

    event: str
    start: datetime | None
    end: datetime | None


def _read_files(columns: list[str], window: _Window, what: str, files: Sequence[Path]) -> list[pa.Table]:
    return [_read_file(file, columns, window, what) for file in files]


def _read_file(file: Path, columns: list[str], window: _Window, what: str) -> pa.Table:
    """Read the row groups of a file that can matter."""
    try:
        with pq.ParquetFile(file) as opened:
            names = opened.schema_arrow.names
            if window.event not in names:
                raise _lacks(what, window.event, names)
            groups = _row_groups(opened.metadata, names, window)
            present = [column for column in columns if column in names]
            return opened.read_row_groups(groups, columns=present, use_threads=False).replace_schema_metadata()
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{what} cannot be read.",
            detail=f"{file}: {type(error).__name__}: {str(error).strip().splitlines()[0]}",
            hint="Compute them again with the features DAG.",
        ) from error


def _row_groups(metadata: pq.FileMetaData, names: Sequence[str], window: _Window) -> list[int]:
    """Return the row groups that can hold an event of a window, by their statistics."""
    column = names.index(window.event)
    if metadata.num_columns != len(names):  # columns before it are made of several
        column = next(n for n in range(metadata.num_columns) if metadata.schema.column(n).path == window.event)
    groups = []
    for number in range(metadata.num_row_groups):
        statistics = metadata.row_group(number).column(column).statistics
        if statistics is not None and statistics.has_min_max and isinstance(statistics.min, date):
            late = window.end is not None and _moment(statistics.min) > window.end
            early = window.start is not None and _moment(statistics.max) < window.start
            if late or early:
                continue
        groups.append(number)
    return groups


def _moment(value: date) -> datetime:
    moment = value if isinstance(value, datetime) else datetime(value.year, value.month, value.day)  # noqa: DTZ001
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def in_utc(rows: pa.Table) -> pa.Table:
    """Return the rows with all their timestamps in UTC; those without a zone are in UTC already."""
    for number, field in enumerate(rows.schema):
        if pa.types.is_timestamp(field.type) and field.type.tz != "UTC":
            column = rows.column(number)
            if field.type.tz is None:
                column = pc.assume_timezone(column, "UTC")
            rows = rows.set_column(number, field.name, column.cast(pa.timestamp(field.type.unit, "UTC")))
    return rows


def _between(rows: pa.Table, window: _Window, what: str) -> pa.Table:
    """Return the rows of a window, with its event as a timestamp."""
    event, start, end = window
    kind = rows.schema.field(event).type
    if pa.types.is_date(kind):
        place = rows.schema.get_field_index(event)
        midnight = pc.assume_timezone(rows[event].cast(pa.timestamp("us")), "UTC")
        rows = rows.set_column(place, event, midnight)
    elif not pa.types.is_timestamp(kind):
        raise DataError(
            f"{what} have no timestamps in {event!r}.",
            detail=f"type {kind}",
            hint="Write timestamps with a zone, in UTC, or name another timestamp_field.",
        )
    mask = pc.is_valid(rows[event])
    kind = pa.timestamp("us", "UTC")
    if start is not None:
        mask = pc.and_(mask, pc.greater_equal(rows[event], pa.scalar(start, kind)))
    if end is not None:
        mask = pc.and_(mask, pc.less_equal(rows[event], pa.scalar(end, kind)))
    return rows if pc.all(mask).as_py() is not False else rows.filter(mask)


def _by_feast(source: DataSource, columns: Sequence[str], window: _Window, what: str, repo_path: str) -> pa.Table:
    """Read what Feast's own DuckDB store can read: Delta, Iceberg, Lance, object storage, partitioned folders."""
    try:
        table = _read_data_source(source, repo_path)
    except AssertionError:
        table = None
    if table is None:
        raise ConfigError(
            f"{what} cannot be read by this offline store.",
            detail=f"a {type(source).__name__}",
            hint="Use a FileSource, or the offline store of the warehouse that they are in.",
        )
    for column in columns:
        if column not in table.columns:
            raise _lacks(what, column, table.columns)
    try:
        rows = table.select(*dict.fromkeys(columns)).to_pyarrow()
    except IbisError as error:
        raise DataError(f"{what} cannot be read.", detail=str(error), hint="See the traceback above.") from error
    return _between(in_utc(rows), window, what).select(columns)


def _lacks(what: str, column: str, columns: Sequence[str]) -> DataError:
    return DataError(
        f"{what} have no column {column!r}.{did_you_mean(column, columns)}",
        detail=f"there are: {', '.join(columns)}",
        hint="Compute them again, or correct the feature view, or the field mapping of its source.",
    )
