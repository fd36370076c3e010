"""What of a feature view must be written online, cut into spans of time that fit into memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple, TypedDict

import pyarrow.parquet as pq

from airflow_mlops.engine.data.complete import MissingPartitionsError, Span
from airflow_mlops.engine.data.files import sha256
from airflow_mlops.engine.data.parquet import readable
from airflow_mlops.engine.features.materialization.watermarks import Watermark, merged
from airflow_mlops.engine.features.project.schema import feature_file, partitioning_of

CHUNK_BYTES = 64 * 2**20
TICK = timedelta(microseconds=1)
"""Feast's windows include both ends; ours are [start, end)."""
_NAMED = 7
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT96": 12}  # bytes of a value in memory; others take 8 or more


class Chunk(TypedDict):
    """A span of one feature view that one task writes; times are ISO, UTC.

    ``since``: nothing stamped before it can be served any more, or was ever computed. ``rows`` and ``bytes`` (in
    memory) are what the files say of the span; 0 when the view does not read files of ours.
    """

    view: str
    start: str
    end: str
    since: str
    rows: int
    bytes: int


class _Size(NamedTuple):
    rows: int
    bytes: int
    first: datetime | None
    last: datetime | None


def digest(home: Path, view: str, day: str) -> str:
    """Return the identity of a day's file, as the watermark keeps it.

    :raises DataError: when it is not there, or cannot be read.
    """
    file = feature_file(home, view, day)
    try:
        return sha256(file)[:16]
    except FileNotFoundError:
        raise missing_days(view, [day]) from None


def digests(home: Path, view: str, span: Span) -> dict[str, str]:
    """Return key → identity of the file, of the partitions that a span touches.

    :raises DataError: when one is not there, or cannot be read.
    """
    return {key: digest(home, view, key) for key in partitioning_of(home, view).keys(*span)}


def computed_keys(home: Path, view: str) -> set[str]:
    """Return the partitions whose rows were computed."""
    is_key = partitioning_of(home, view).is_key
    return {path.stem for path in feature_file(home, view, "*").parent.glob("[!.]*.parquet") if is_key(path.stem)}


def due(
    home: Path, view: str, watermark: Watermark, ttl: timedelta | None, until: datetime
) -> tuple[datetime, list[Span]]:
    """Return since when values matter, and the spans to write so that the view is online up to ``until``.

    These are what was never written, and days that were computed again since they were.

    :raises DataError: when a day was not computed: its values would be skipped for ever.
    """
    computed, partitioning = computed_keys(home, view), partitioning_of(home, view)
    end = until if watermark.until is None else max(until, watermark.until)
    since = partitioning.interval(min(computed))[0] if computed else until - TICK
    if ttl is not None:
        since = max(since, end - ttl)
    spans = watermark.missing(since, until)
    absent = sorted({key for span in spans for key in partitioning.keys(*span)} - computed)
    if absent:
        raise missing_days(view, absent)
    for day in partitioning.keys(since, end):
        if day in computed:
            first, last = partitioning.interval(day)
            span = max(first, since), min(last, end)
            known = day in watermark.files or day in watermark.parts
            spans += _stale(watermark, day, digest(home, view, day), span) if known else [span]
    return since, merged(spans)


def missing_days(view: str, days: Sequence[str]) -> MissingPartitionsError:
    """Return the error that names the days which were not computed."""
    return MissingPartitionsError(
        f"The rows of feature view {view!r} for {days[0]} were not computed.",
        detail=f"missing: {', '.join(days[:_NAMED])}{' …' if days[_NAMED:] else ''}",
        hint="Run the features DAG for the missing days first, oldest first.",
    )


def cut(home: Path, view: str, spans: Iterable[Span], *, event: str, since: datetime, chunk_bytes: int) -> list[Chunk]:
    """Cut spans into chunks of about ``chunk_bytes``: days together, or a large day in pieces.

    :param event: Column with the event time.
    """
    chunks: list[Chunk] = []
    for start, end, size in (piece for span in spans for piece in _pieces(home, view, event, span, chunk_bytes)):
        last = chunks[-1] if chunks else None
        if last and last["end"] == start.isoformat() and last["bytes"] + size.bytes <= chunk_bytes:
            last.update({"end": end.isoformat(), "rows": last["rows"] + size.rows, "bytes": last["bytes"] + size.bytes})
        else:
            chunks.append(as_chunk(view, (start, end), since, size.rows, size.bytes))
    return chunks


def as_chunk(view: str, span: Span, since: datetime, rows: int = 0, size: int = 0) -> Chunk:
    """Return a span as a chunk."""
    start, end = (moment.isoformat() for moment in span)
    return Chunk(view=view, start=start, end=end, since=since.isoformat(), rows=rows, bytes=size)


def _stale(watermark: Watermark, day: str, found: str, span: Span) -> list[Span]:
    """Return what of a day's span is not online from the file that is there now."""
    return Watermark(ahead=tuple(merged(watermark.written_from(day, found)))).missing(*span)


def _pieces(
    home: Path, view: str, event: str, span: Span, chunk_bytes: int
) -> Iterator[tuple[datetime, datetime, _Size]]:
    partitioning = partitioning_of(home, view)
    for day in partitioning.keys(*span):
        first, last = partitioning.interval(day)
        start, end = max(first, span[0]), min(last, span[1])
        size = _measure(feature_file(home, view, day), event, (end - start) / (last - first))
        pieces = -(-size.bytes // chunk_bytes)
        bounds = [start, *_cuts(size, start, end, pieces), end]
        share = size._replace(rows=size.rows // (len(bounds) - 1), bytes=size.bytes // (len(bounds) - 1))
        for begin, stop in itertools.pairwise(bounds):
            yield begin, stop, share


def _cuts(size: _Size, start: datetime, end: datetime, pieces: int) -> list[datetime]:
    """Return where to cut, evenly between the first and the last event; nowhere when all happen at once."""
    if pieces < 2 or size.first is None or size.last is None:
        return []
    first, last = max(size.first, start), min(size.last + TICK, end)
    cuts = {first + (last - first) * n // pieces for n in range(1, pieces)}
    return sorted(moment for moment in cuts if start < moment < end) if last - first > TICK else []


def _measure(file: Path, event: str, share: float) -> _Size:
    """Return what a file's footer says: rows, bytes in memory, first and last event; ``share`` of the first two."""
    rows = size = 0
    times: list[datetime] = []
    with readable(file):
        footer = pq.read_metadata(file)
    for number in range(footer.num_row_groups):
        group = footer.row_group(number)
        rows += group.num_rows
        for column in (group.column(n) for n in range(group.num_columns)):
            size += max(column.total_uncompressed_size, group.num_rows * _WIDTHS.get(column.physical_type, 8))
            known = column.statistics
            if column.path_in_schema == event and known is not None and known.has_min_max:
                times += [known.min, known.max]
    moments = sorted(time.astimezone(UTC) for time in times if isinstance(time, datetime) and time.tzinfo)
    first, last = (moments[0], moments[-1]) if moments else (None, None)
    return _Size(round(rows * share), round(size * share), first, last)
