"""From files as they landed to Parquet files of one schema, which are then validated, checked and sealed.

Files that are so already stay where they are: only their footers are read. Others are read once, a batch at a time, and
written to ``<home>/staged/<dataset>/<key>/``, with a note of the bytes that they came from.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_mlops.engine.data import storage
from airflow_mlops.engine.data.checks.contract import SchemaContract
from airflow_mlops.engine.data.complete import Span
from airflow_mlops.engine.data.declared import wanted_schema
from airflow_mlops.engine.data.fitting import Zoneless, fit
from airflow_mlops.engine.data.landed import found, path_columns, unlike
from airflow_mlops.engine.data.parquet import listing, open_writer, readable
from airflow_mlops.engine.data.reading import Reader
from airflow_mlops.engine.data.receipts import STAGED
from airflow_mlops.engine.data.shared import send
from airflow_mlops.engine.data.splits import between
from airflow_mlops.engine.data.storage import AnyPath
from airflow_mlops.exceptions import DataError, did_you_mean
from airflow_mlops.formats import format_of
from airflow_mlops.layout import Layout
from airflow_mlops.partitioning import DAILY, Partitioning

_DUCKDB = {
    "bool": "BOOLEAN",
    "int8": "TINYINT",
    "int16": "SMALLINT",
    "int32": "INTEGER",
    "int64": "BIGINT",
    "float": "FLOAT",
    "double": "DOUBLE",
    "string": "VARCHAR",
    "date32[day]": "DATE",
}


class Staged(NamedTuple):
    """Where the Parquet files are, how many rows they have (None: they were not read), and what was done to them."""

    uri: str
    rows: int | None
    notes: tuple[str, ...] = ()


class _Source(NamedTuple):
    """A file on this machine, where it came from, and the columns that only its path has."""

    file: Path
    origin: AnyPath
    extra: Mapping[str, str]


def stage(
    feed: AnyPath,
    key: str,
    target: Path,
    *,
    event_time: str,
    layout: Layout | None = None,
    partitioning: Partitioning = DAILY,
    contract: SchemaContract | None = None,
    naive_times: str = "",
    options: Mapping[str, Any] | None = None,
    row_id: str | None = None,
) -> Staged:
    """Make the files of a partition fit: into one schema, that of the contract where there is one.

    Without loss numbers become wider, whole numbers floats and back, text plain text, times microseconds of UTC; a
    column that only some files have is null in the others. What would lose something is refused.

    :param feed: Folder of the feed.
    :param target: Folder to write to, if anything is to be written.
    :param event_time: Column of the event times.
    :param contract: Declared types, and what becomes of columns that it does not know.
    :param naive_times: Zone of times without one; default is that of the partitions.
    :param options: Of the reader, for CSV and JSON; see :mod:`~airflow_mlops.engine.data.reading`.
    :param row_id: Column that names the rows which do not fit.
    :raises DataError: when there are no files, or they cannot be read, or a value does not fit.
    """
    zone = naive_times or partitioning.timezone
    layout = layout or Layout()
    pieces = layout.pieces(key, partitioning)
    files = [file for piece, pattern in pieces.items() for file in _files(feed, pattern, piece)]
    extras = [
        {name: value for name, value in path_columns(feed, file).items() if name not in layout.time_names}
        for file in files
    ]
    within = partitioning.interval(key) if layout.shared(key, partitioning) else None
    if not any(extras) and within is None and (folder := _as_they_are(files, event_time, contract)) is not None:
        return Staged(str(folder), None)
    with ExitStack() as stack:
        here = stack.enter_context(storage.on_disk(files))
        sources = [_Source(*source) for source in zip(here, files, extras, strict=True)]
        known = {} if contract is None else contract.columns
        types = {name: _DUCKDB[one.type] for name, one in known.items() if one.type in _DUCKDB}
        staging = _Staging(
            sources,
            stack.enter_context(Reader(options, types, zone)),
            contract=contract,
            zone=zone,
            row_id=row_id,
            event_time=event_time,
            within=within,
        )
        first, *others = pieces.values()
        return staging.write(target, f"{feed}/{first}" + (f" … {others[-1]}" if others else ""))


def _is_name(text: str) -> bool:
    """Return whether a column's name is one: where a header is missing, it is a value of the first row."""
    return text.replace(" ", "_").isidentifier() and not any(letter.isdigit() for letter in text)


def _files(feed: AnyPath, pattern: str, key: str) -> list[AnyPath]:
    """Return the partition's files of rows."""
    with readable(feed):
        try:
            folder, entries = found(feed, pattern)
        except FileNotFoundError:
            folder, entries = feed, []
        files = [entry.path for entry in entries if format_of(entry.path.name)]
        if files:
            return files
        others = [str(entry.path.name) for entry in entries]
        seen = f"{folder} has {listing(map(repr, others))}" if others else unlike(feed, key)
    raise DataError(
        f"There are no files of {key}.",
        detail=f"looked for {pattern!r} in {feed}; {seen}",
        hint="Say where they lie with Partitions(layout=...). Readable are .parquet, .csv, .tsv, .json, .jsonl and "
        ".orc, also with .gz.",
    )


def _as_they_are(files: Sequence[AnyPath], event_time: str, contract: SchemaContract | None) -> AnyPath | None:
    """Return the folder of files that need nothing done to them; None when they do."""
    folder = files[0].parent
    if any(format_of(file.name) != "parquet" or str(file.parent) != str(folder) for file in files):
        return None
    schemas = {}
    for file in files:
        with readable(file), storage.opened(file) as stream:
            schemas[str(file)] = pq.read_schema(stream).remove_metadata()
    try:
        wanted = wanted_schema(schemas, event_time, contract)
    except DataError:
        return None  # said where the rows can be counted
    if event_time not in wanted.names:
        return None
    same = all(schema.equals(wanted) for schema in schemas.values())
    return folder if same and set(wanted.names) == set(next(iter(schemas.values())).names) else None


class _Staging:
    """The files of one partition on their way into one."""

    def __init__(
        self,
        sources: Sequence[_Source],
        reader: Reader,
        *,
        contract: SchemaContract | None,
        zone: str,
        row_id: str | None,
        event_time: str,
        within: Span | None,
    ) -> None:
        self.event_time, self.within, self.left_out = event_time, within, 0
        self.sources, self.contract, self.zone, self.row_id = sources, contract, zone, row_id
        self.reader = reader
        schemas = {str(one.origin): self._with_path(one, self.reader.schema(one.file)) for one in sources}
        if event_time not in (names := {name for schema in schemas.values() for name in schema.names}):
            raise DataError(
                f"There is no event-time column {event_time!r}.{did_you_mean(event_time, names)}",
                detail=f"{next(iter(schemas))} has {self._names(names)}",
                hint="Name the right column in Partitions(..., event_time=...), or see what the upstream renamed. "
                "Where all is one column, the delimiter is another: Partitions(reader={'delim': ';'}). Where the file "
                "has no header, name its columns: Partitions(reader={'header': False, 'names': [...]}).",
            )
        self.schema = wanted_schema(schemas, event_time, contract)
        self.changed = {file: schema for file, schema in schemas.items() if not schema.equals(self.schema)}
        self.zoneless = Zoneless(zone)

    def _names(self, names: set[str]) -> str:
        """Return the columns' names for an error; of a text file without a header they would be somebody's values."""
        header = all(_is_name(name) for name in names)
        if header or any(format_of(one.origin.name) not in ("csv", "json") for one in self.sources):
            return f"the columns {listing(sorted(names))}"
        return f"{len(names)} columns, and perhaps no header: some have a digit in their names, or are no names"

    def write(self, target: Path, uri: str) -> Staged:
        """Write all rows into one file, and make it visible by one rename."""
        rows = 0
        with storage.making(target) as made:
            with open_writer(made / "part-0.parquet", self.schema) as writer:
                for table in self._tables():
                    writer.write_table(table)
                    rows += table.num_rows
            (made / STAGED).write_text(json.dumps(self._note(uri), sort_keys=True))
            send(made, target)
            storage.remove(target)
            storage.publish(made, target, STAGED)
        return Staged(str(target), rows, tuple(self._said()))

    def _tables(self) -> Iterator[pa.Table]:
        for one in self.sources:
            for read in self.reader.batches(one.file):
                table = read
                self.zoneless.count(table)
                for name, value in one.extra.items():
                    if name not in table.schema.names:
                        table = table.append_column(name, pa.array([value] * table.num_rows, pa.string()))
                fitted = fit(table, self.schema, zone=self.zone, where=str(one.origin), row_id=self.row_id)
                yield fitted if self.within is None else self._of_this_one(fitted, *self.within)

    def _of_this_one(self, table: pa.Table, start: datetime, end: datetime) -> pa.Table:
        """Return the rows of one of the partitions that share files."""
        kept = between(table, self.event_time, start, end)
        self.left_out += table.num_rows - kept.num_rows
        return kept

    def _with_path(self, one: _Source, schema: pa.Schema) -> pa.Schema:
        for name in one.extra:
            if name not in schema.names:
                schema = schema.append(pa.field(name, pa.string()))
        return schema

    def _note(self, uri: str) -> dict[str, Any]:
        written: list[datetime] = [storage.modified(one.origin) for one in self.sources]
        return {
            "uri": uri,
            "files": {str(one.origin): storage.digest(one.file) for one in self.sources},
            "bytes": sum(one.file.stat().st_size for one in self.sources),
            "written_at": max(written).isoformat(),
        }

    def _said(self) -> Iterator[str]:
        yield f"{len(self.sources)} files became one of Parquet"
        yield from self.zoneless.said()
        if self.within is not None:
            yield f"{self.left_out} rows of these files belong to a partition beside it"
        kinds: dict[str, set[str]] = {}
        for schema in self.changed.values():
            for field in schema:
                if field.name in self.schema.names and field.type != (became := self.schema.field(field.name).type):
                    kinds.setdefault(f"{field.name!r} became {became}", set()).add(str(field.type))
        for became, were in kinds.items():
            yield f"{became}, of {', '.join(sorted(were))}"
