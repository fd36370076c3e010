"""From a table to a Parquet file of one partition, with a note of what it came from, ready to be validated and sealed.

No more than a few batches are in memory. Where a database tells the types of its columns only by their values, batches
wait in a file until all were seen.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import feather

from airflow_mlops.engine.data import storage
from airflow_mlops.engine.data.checks.contract import SchemaContract
from airflow_mlops.engine.data.complete import Span
from airflow_mlops.engine.data.declared import declared_types, wanted_schema
from airflow_mlops.engine.data.files import identity
from airflow_mlops.engine.data.fitting import Zoneless, fit
from airflow_mlops.engine.data.parquet import column_types, open_writer
from airflow_mlops.engine.data.receipts import STAGED
from airflow_mlops.engine.data.shared import send
from airflow_mlops.engine.data.staging import Staged
from airflow_mlops.engine.data.tables.database import Database
from airflow_mlops.engine.data.tables.digest import Digest
from airflow_mlops.engine.data.tables.query import Selection, as_utc
from airflow_mlops.engine.data.tables.reading import opened
from airflow_mlops.exceptions import ConfigError, DataError
from airflow_mlops.partitioning import DAILY, Partitioning

if TYPE_CHECKING:
    from airflow_mlops.contracts import Partition
    from airflow_mlops.engine.data.partitions import PartitionStore

_NAIVE = pa.timestamp("us")
_NOTHING = timedelta(0)
FILE = "part-0.parquet"


def extract(
    database: Database,
    selection: Selection,
    key: str,
    target: Path,
    *,
    partitioning: Partitioning = DAILY,
    contract: SchemaContract | None = None,
    naive_times: str = "",
    row_id: str | None = None,
    complete_after: timedelta = _NOTHING,
    sealed: Partition | None = None,
    store: PartitionStore | None = None,
) -> Staged:
    """Write the rows of one partition of a table to a folder.

    One statement reads them, so that they are of one moment. The same rows as those that are sealed, in whatever order
    they came, are the same file as that: only what changed makes a new revision.

    :param selection: What to read.
    :param target: Folder to write to.
    :param contract: Declared types, and what becomes of columns that it does not know.
    :param naive_times: Zone of times without one; default is that of the partitions.
    :param row_id: Column that names the rows which do not fit.
    :param complete_after: How long after its end the partition is complete.
    :param sealed: The current revision of the partition, which is in ``store``.
    :raises TransientError: when the database does not answer.
    :raises ConfigError: when it refuses the query, a column is not there, or its type has no match.
    :raises DataError: when it has not ended, rows do not belong to the partition, or a value does not fit.
    """
    zone = naive_times or partitioning.timezone
    source = f"{database.name}:{selection.name}"
    within = partitioning.interval(key)
    began = datetime.now(UTC)
    if within[1] + complete_after > began:
        raise DataError(
            f"The partition {key} is not complete yet.",
            detail=f"{source}: it is from {(within[1] + complete_after):%Y-%m-%d %H:%M} UTC on",
            hint="Wait for it: PartitionEndSensor does; what is extracted before lacks what is still to come.",
        )
    with database.session(selection.name) as connection, storage.making(target) as made:
        table = opened(connection, selection, within, source, zone=zone)
        schema, rows = table.rows(within, declared_types(contract))
        with closing(rows), tempfile.TemporaryDirectory(prefix="extract-") as folder:  # type: ignore[type-var]
            schemas = {source: schema}
            if schema is None:
                schemas, rows = _spooled(rows, Path(folder), table.names, source)
            writing = _Writing(
                wanted_schema(schemas, selection.event_time, contract),
                selection,
                within,
                zone=zone,
                source=source,
                row_id=row_id,
            )
            writing.write(rows, made / FILE)
        note = {
            "uri": source,
            "files": {source: writing.digest.value()},
            "bytes": (made / FILE).stat().st_size,
            "written_at": began.isoformat(),
            "changed_at": None if writing.changed_at is None else writing.changed_at.isoformat(),
        }
        same = sealed is not None and store is not None and _is_same(sealed, note, writing.schema)
        if same and sealed is not None and store is not None:
            _take(sealed, store, made)
        (made / STAGED).write_text(json.dumps(note, sort_keys=True))
        send(made, target)
        storage.remove(target)
        storage.publish(made, target, STAGED)
    return Staged(str(target), writing.rows, tuple(writing.said(same=same)))


def is_sealed(sealed: Partition, target: Path) -> bool:
    """Return whether what was extracted to a folder is what was sealed."""
    note = json.loads((target / STAGED).read_text())
    return sealed.receipt.sha256 == identity(note["files"])


def _is_same(sealed: Partition, note: Mapping[str, Any], schema: pa.Schema) -> bool:
    return sealed.receipt.sha256 == identity(note["files"]) and sealed.columns == column_types(schema)


def _take(sealed: Partition, store: PartitionStore, made: Path) -> None:
    """Put the files that are sealed in the place of the same rows."""
    (made / FILE).unlink()
    for file in sealed.files:
        origin = store.folder(sealed.dataset, sealed.key) / sealed.revision / file.name
        with storage.reaching(origin):
            storage.copy(origin, made / file.name)


def _spooled(
    tables: Iterable[pa.Table], folder: Path, names: list[str], source: str
) -> tuple[dict[str, pa.Schema], Iterator[pa.Table]]:
    """Put the rows into files until all types are known; return the types of each, and the rows again."""
    schemas: dict[str, pa.Schema] = {}
    files: list[Path] = []
    rows = 0
    for table in tables:
        file = folder / f"{len(files)}.arrow"
        feather.write_feather(table, str(file), compression="uncompressed")
        schemas[f"{source}, rows {rows + 1} to {rows + table.num_rows}"] = table.schema
        files.append(file)
        rows += table.num_rows
    if not files:
        schemas[source] = pa.schema([(name, pa.null()) for name in names])
    return schemas, (feather.read_table(str(file)) for file in files)


class _Writing:
    """The rows of one partition on their way into a file."""

    def __init__(
        self,
        schema: pa.Schema,
        selection: Selection,
        within: Span,
        *,
        zone: str,
        source: str,
        row_id: str | None,
    ) -> None:
        at = schema.get_field_index(selection.event_time)
        if at < 0:
            raise ConfigError(
                f"The contract drops the event time {selection.event_time!r}.",
                detail=source,
                hint="Add it to the contract, as timestamp[us, tz=UTC].",
            )
        if pa.types.is_null(schema.field(at).type):  # there is no row
            schema = schema.set(at, pa.field(selection.event_time, pa.timestamp("us", "UTC")))
        self.schema, self.selection, self.within = schema, selection, within
        self.zone, self.source, self.row_id = zone, source, row_id
        self.rows = 0
        self.changed_at: datetime | None = None
        self.digest = Digest(schema)
        self.zoneless = Zoneless(zone)

    def write(self, tables: Iterable[pa.Table], file: Path) -> None:
        """Write all rows into one file."""
        with open_writer(file, self.schema) as writer:
            for found in tables:
                table = self._with_times(found)
                self.zoneless.count(table)
                self._see_changes(table)
                fitted = fit(table, self.schema, zone=self.zone, where=self.source, row_id=self.row_id)
                self.rows += fitted.num_rows
                self._check_bounds(fitted[self.selection.event_time])
                self.digest.add(fitted)
                writer.write_table(fitted)

    def said(self, *, same: bool) -> Iterator[str]:
        """Say what was done."""
        start, end = (f"{bound:%Y-%m-%d %H:%M}" for bound in self.within)
        yield f"{self.rows} rows of {self.source}, from {start} to {end} UTC"
        if same:
            yield "They are the rows that are sealed."
        yield from self.zoneless.said()

    def _with_times(self, table: pa.Table) -> pa.Table:
        """Make times of days and texts, where times are wanted."""
        for n, field in enumerate(table.schema):
            if field.name not in self.schema.names or not pa.types.is_timestamp(self.schema.field(field.name).type):
                continue
            if pa.types.is_date(field.type) or (pa.types.is_string(field.type) and _without_zone(table[field.name])):
                try:
                    times = table[field.name].cast(_NAIVE)
                except pa.ArrowInvalid:
                    continue  # said when it is made to fit
                table = table.set_column(n, field.name, times)
        return table

    def _see_changes(self, table: pa.Table) -> None:
        """Keep the newest time at which a row was changed."""
        if not self.selection.updated_at or not table.num_rows:
            return
        newest = pc.max(table[self.selection.updated_at]).as_py()
        if newest is None:
            return
        changed_at = as_utc(newest, self.zone)
        if changed_at is None:
            raise ConfigError(
                f"{self.selection.updated_at!r} does not say when a row was changed: it is no time.",
                detail=f"{self.source}: it is {table.schema.field(self.selection.updated_at).type}",
                hint="Name a column of times in updated_at=, or leave it out.",
            )
        self.changed_at = changed_at if self.changed_at is None else max(self.changed_at, changed_at)

    def _check_bounds(self, times: pa.ChunkedArray) -> None:
        """See that the rows belong to the partition. Those without a time are counted when they are sealed."""
        start, end = (pa.scalar(bound, times.type) for bound in self.within)
        outside = pc.sum(pc.or_(pc.less(times, start), pc.greater_equal(times, end))).as_py() or 0
        if outside:
            found = pc.min_max(times).as_py()
            first, last = (f"{bound:%Y-%m-%d %H:%M}" for bound in self.within)
            raise DataError(
                f"{outside} of the first {self.rows} rows do not belong to the partition of {first} to {last} UTC.",
                detail=f"{self.source}: {self.selection.event_time!r} is from {found['min']:%Y-%m-%d %H:%M:%S} to "
                f"{found['max']:%Y-%m-%d %H:%M:%S} UTC",
                hint=f"Compare the bounds with it and nothing else: WHERE {self.selection.event_time} >= {{start}} AND "
                f"{self.selection.event_time} < {{end}}. Times without a zone are of naive_times={self.zone!r}.",
            )


def _without_zone(texts: pa.ChunkedArray) -> bool:
    first = next((one.as_py() for one in texts if one.is_valid), "")
    try:
        return datetime.fromisoformat(first).tzinfo is None
    except ValueError:
        return False
