"""Reading Parquet that others wrote: everything that can be wrong with it is said in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatch
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from airflow_mlops.engine.data.storage import AnyPath, entries, is_folder, reaching
from airflow_mlops.exceptions import DataError, did_you_mean

_MICROSECONDS = pa.timestamp("us", tz="UTC")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAMED = 7
"""How many columns an error names before it only counts them."""

_Files = TypeVar("_Files", bound=AnyPath)


@contextmanager
def readable(path: AnyPath) -> Iterator[None]:
    """Say in words why a file or folder cannot be read.

    :raises DataError: instead of what the file system or Arrow raises.
    :raises TransientError: when object storage does not answer.
    """
    with reaching(path):
        try:
            yield
        except (pa.ArrowInvalid, OSError) as error:
            if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
                raise  # the file system's; Arrow's own, of a page that it cannot decode, has no number
            raise DataError(
                "A Parquet file cannot be read.",
                detail=f"{path}: {(str(error).splitlines() or ['damaged'])[0]}",
                hint="It is truncated or damaged: let the upstream land it again.",
            ) from None


def parquet_files(data: _Files) -> list[_Files]:
    """Return the Parquet files that ``data`` names, in order of their names.

    :param data: A folder, a file, or a folder with a pattern such as ``*.parquet``.
    :raises DataError: when there are none, or the folder cannot be read.
    """
    with readable(data):
        if isinstance(data, Path) and data.is_file():
            return [data]
        is_pattern = "*" in data.name and not is_folder(data)
        folder, pattern = (data.parent, data.name) if is_pattern else (data, "*.parquet")
        files = [entry.path for entry in entries(folder) if fnmatch(entry.path.name, pattern)]
    if not files:
        raise DataError(
            "There are no Parquet files.",
            detail=f"{data} is readable, and empty of them",
            hint="See why the upstream landed nothing. An empty day is refused, never trained on.",
        )
    return files


def inspect(
    files: Sequence[Path],
    event_time: str,
    bounds: tuple[datetime, datetime],
    landed: AnyPath,
    *,
    may_be_empty: bool = False,
) -> tuple[dict[str, str], datetime, datetime]:
    """Read every row once, so that what cannot be read is refused now, and check the event times.

    Returns the columns with their types, and the first and last event time: the start of the bounds, of no rows.
    """
    start, end = (pa.scalar(bound, _MICROSECONDS) for bound in bounds)
    schema: pa.Schema | None = None
    rows = nulls = outside = 0
    ranges = []
    for file in files:
        # Not buffered ahead: that would read all of the file's row groups at once.
        with (
            readable(landed / file.name),
            pq.ParquetFile(file, page_checksum_verification=True, pre_buffer=False) as parquet,
        ):
            schema = _checked_schema(parquet.schema_arrow, schema, event_time, landed / file.name)
            for batch in parquet.iter_batches():
                times = batch[event_time].cast(_MICROSECONDS, safe=False)
                rows += batch.num_rows
                nulls += times.null_count
                inside = pc.and_(pc.greater_equal(times, start), pc.less(times, end))
                outside += pc.sum(pc.invert(inside)).as_py() or 0
                ranges.append(pc.min_max(times.cast(pa.int64())).as_py())
    where = f"{landed}, column {event_time!r}"
    if schema is not None and rows == 0 and may_be_empty:
        return column_types(schema), bounds[0], bounds[0]
    if schema is None or rows == 0:
        raise DataError(
            "The partition has no rows.",
            detail=f"{landed} is readable, and its Parquet files are empty",
            hint="See why the upstream landed nothing. Where nothing may happen for a while, as in the hours of a "
            "night, declare its feed with may_be_empty=True.",
        )
    if nulls:
        raise DataError(
            f"{nulls} of {rows} rows have no event time.",
            detail=where,
            hint="Without the time at which it happened, a row cannot be put into a day.",
        )
    earliest = _moment(min(found["min"] for found in ranges))
    latest = _moment(max(found["max"] for found in ranges))
    if outside:
        raise DataError(
            f"{outside} of {rows} rows do not belong to the partition of {bounds[0]:%Y-%m-%d %H:%M} to "
            f"{bounds[1]:%Y-%m-%d %H:%M} UTC.",
            detail=f"{where}: from {earliest:%Y-%m-%d %H:%M:%S} to {latest:%Y-%m-%d %H:%M:%S} UTC",
            hint="See whether the upstream is off by a partition, or cuts by the days of another time zone: "
            "Partitions(partitioning=Partitioning('daily', 'America/New_York')).",
        )
    return column_types(schema), earliest, latest


def _moment(microseconds: int) -> datetime:
    """Return a time since 1970; Python's first or last one for what Arrow can tell and Python cannot."""
    try:
        return _EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC) if microseconds < 0 else datetime.max.replace(tzinfo=UTC)


def _checked_schema(schema: pa.Schema, agreed: pa.Schema | None, event_time: str, file: AnyPath) -> pa.Schema:
    repeated = [name for name, count in Counter(schema.names).items() if count > 1]
    if repeated:
        raise DataError(
            f"A Parquet file has the column {listing(map(repr, repeated))} more than once.",
            detail=f"{file}: {len(schema.names)} columns, {len(set(schema.names))} different names",
            hint="See which join or rename of the upstream doubled it; nobody can say which one is meant.",
        )
    plain = Counter(name.casefold() for name in schema.names)
    alike = [name for name in schema.names if plain[name.casefold()] > 1]
    if alike:
        raise DataError(
            f"A Parquet file has columns that differ only by upper and lower case: {listing(map(repr, alike))}.",
            detail=f"{file}: {len(schema.names)} columns, {len(plain)} of them different",
            hint="Let the upstream rename or drop one: SQL engines, which validate the data, cannot tell them apart.",
        )
    if agreed is not None and not schema.equals(agreed):
        _refuse_difference(column_types(agreed), column_types(schema), file)
    if event_time not in schema.names:
        times = [field.name for field in schema if pa.types.is_timestamp(field.type)]
        raise DataError(
            f"There is no event-time column {event_time!r}.{did_you_mean(event_time, schema.names)}",
            detail=f"{file} has {len(schema.names)} columns; of times: {listing(times) or 'none'}",
            hint="Name the right column in Partitions(..., event_time=...), or see what the upstream renamed.",
        )
    kind = schema.field(event_time).type
    if not pa.types.is_timestamp(kind) or kind.tz is None:
        raise DataError(
            f"The event time {event_time!r} is not a timestamp with a time zone.",
            detail=f"{file}: its type is {kind}",
            hint="Let the upstream write timestamps in UTC: a naive time belongs to no particular day.",
        )
    return schema


def _refuse_difference(agreed: Mapping[str, str], found: Mapping[str, str], file: AnyPath) -> None:
    detail = f"{file}: {difference(agreed, found)}"
    changed = [(agreed[name], kind) for name, kind in found.items() if agreed.get(name, kind) != kind]
    if changed and all(kind.startswith("timestamp[") for pair in changed for kind in pair):
        raise DataError(
            "The Parquet files of one partition have their times in different time zones or units.",
            detail=detail,
            hint="Let the upstream write all files in UTC and one unit: mixed, one of them is likely local time.",
        )
    raise DataError(
        "The Parquet files of one partition have different columns.",
        detail=detail,
        hint="All files of a day need the same columns and types.",
    )


def column_types(schema: pa.Schema) -> dict[str, str]:
    """Return column name → Arrow type, in order."""
    return {field.name: str(field.type) for field in schema}


def difference(expected: Mapping[str, str], found: Mapping[str, str]) -> str:
    """Say in which columns two schemas differ."""
    lines = [f"no {name!r}" for name in expected if name not in found]
    lines += [f"unexpected {name!r}" for name in found if name not in expected]
    lines += [
        f"{name!r} is {found[name]}, not {kind}"
        for name, kind in expected.items()
        if name in found and found[name] != kind
    ]
    return listing(lines, "; ") or "in another order"


def listing(words: Iterable[str], separator: str = ", ") -> str:
    """Join words for an error, and only count those after the first seven."""
    known = list(words)
    more = [f"… and {len(known) - _NAMED} more"] if len(known) > _NAMED else []
    return separator.join(known[:_NAMED] + more)


def open_writer(file: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Open a Parquet file to write rows that are read once or twice: numbers without a dictionary, at half the CPU."""
    texts = [field.name for field in schema if pa.types.is_string(field.type)]
    return pq.ParquetWriter(file, schema, use_dictionary=texts or False, compression="lz4")
