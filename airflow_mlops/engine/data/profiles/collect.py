"""Profiling a partition: one pass over its row groups, a bounded part of it in memory at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_mlops.contracts import Profile
from airflow_mlops.engine.data.parquet import column_types, difference, listing, readable
from airflow_mlops.engine.data.profiles.columns import add, empty
from airflow_mlops.engine.data.profiles.slices import SliceCounts, UniqueKeys, groupable, usable_as_label
from airflow_mlops.engine.data.storage import AnyPath, opened
from airflow_mlops.exceptions import ConfigError, DataError, did_you_mean
from airflow_mlops.partitioning import DAILY, Partitioning

_BATCH_ROWS = 65_536
_BLOCK_COLUMNS = 64
"""Columns read at a time: with 65,536 rows, 34 MB of doubles."""


def profile_files(
    files: Sequence[AnyPath],
    *,
    dataset: str,
    key: str,
    revision: str,
    slices: Sequence[str] = (),
    label: str | None = None,
    problem: str = "",
    unique: Sequence[str] = (),
    partitioning: Partitioning = DAILY,
) -> Profile:
    """Return the profile of one partition's Parquet files. Every column chunk is read once.

    :param slices: Columns whose values' rows are counted, and what their labels are like.
    :param label: Column of truths, numbers or texts; null (or NaN) is unknown.
    :param problem: Problem type of the label; empty: by its type. Of whole numbers it says that they are classes.
    :param unique: Columns that together identify a row; rows that repeat a key are counted, exactly.
    :param partitioning: Of which ``key`` is one.
    :raises DataError: when a file cannot be read, the files differ in their columns, or a name is there twice.
    :raises ConfigError: when a slice, label or unique column does not exist, or is of a type that is no use as such.
    """
    collector: _Collector | None = None
    for file in files:
        with readable(file), opened(file) as stream, pq.ParquetFile(stream) as parquet:
            schema = parquet.schema_arrow
            if collector is None:
                collector = _Collector(schema, slices, label, unique, where=str(file), problem=problem)
            elif not schema.equals(collector.schema):
                raise DataError(
                    "The Parquet files of one partition have different columns.",
                    detail=f"{file}: {difference(column_types(collector.schema), column_types(schema))}",
                    hint="All files of a day need the same columns and types.",
                )
            for block in collector.blocks:
                collector.add(block, parquet.iter_batches(_BATCH_ROWS, columns=block))
    if collector is None:
        raise DataError("There are no files to profile.", detail=f"{dataset} {key}, revision {revision}")
    return collector.profile(dataset, {key: revision}, partitioning)


def profile_table(
    table: pa.Table,
    *,
    dataset: str,
    key: str,
    revision: str,
    slices: Sequence[str] = (),
    label: str | None = None,
    problem: str = "",
    unique: Sequence[str] = (),
    partitioning: Partitioning = DAILY,
) -> Profile:
    """Return the profile of a table in memory; see :func:`profile_files`."""
    collector = _Collector(table.schema, slices, label, unique, where=f"a table of {dataset}", problem=problem)
    for block in collector.blocks:
        collector.add(block, table.select(block).to_batches(_BATCH_ROWS))
    return collector.profile(dataset, {key: revision}, partitioning)


class _Collector:
    """The statistics in the making. ``blocks`` are the columns to read together."""

    def __init__(
        self,
        schema: pa.Schema,
        slices: Sequence[str],
        label: str | None,
        unique: Sequence[str],
        *,
        where: str,
        problem: str,
    ) -> None:
        _check_names(schema.names, {"slice": slices, "label": [label] if label else [], "unique": unique}, where)
        _check_types(schema, {"slice": slices, "unique": unique}, label, where)
        self.schema = schema
        self._statistics = {column.name: empty(column.type) for column in schema}
        self._slices = SliceCounts(slices, label, problem)
        self._unique = tuple(unique)
        self._keys = UniqueKeys(unique)
        self._label = label
        # Slices, label and key go through together: counting them takes whole rows.
        together = dict.fromkeys([*slices, *([label] if label else []), *unique])
        others = [name for name in schema.names if name not in together]
        room = max(0, _BLOCK_COLUMNS - len(together))
        first = [*together, *others[:room]]
        rest = [others[start : start + _BLOCK_COLUMNS] for start in range(room, len(others), _BLOCK_COLUMNS)]
        self.blocks = [first, *rest]
        self._rows = 0

    def add(self, block: Sequence[str], batches: Iterable[pa.RecordBatch]) -> None:
        for batch in batches:
            for name in block:
                add(self._statistics[name], batch[name])
            if block is self.blocks[0]:
                self._rows += batch.num_rows
                self._slices.add(batch)
                self._keys.add(batch)

    def profile(self, dataset: str, revisions: dict[str, str], partitioning: Partitioning) -> Profile:
        return Profile(
            dataset=dataset,
            revisions=revisions,
            rows=self._rows,
            columns={name: statistics.profile() for name, statistics in self._statistics.items()},
            slices=self._slices.profiles(),
            duplicates=self._keys.duplicates(),
            unique=self._unique,
            label=self._label,
            partitioning=str(partitioning),
        )


def _check_names(names: Sequence[str], wanted: dict[str, Sequence[str]], where: str) -> None:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise DataError(
            f"There is the column {listing(map(repr, repeated))} more than once.",
            detail=f"{where}: {len(names)} columns, {len(set(names))} different names",
            hint="See which join or rename of the upstream doubled it; nobody can say which one is meant.",
        )
    for use, columns in wanted.items():
        for column in columns:
            if column not in names:
                raise ConfigError(
                    f"There is no {use} column {column!r}.{did_you_mean(column, names)}",
                    detail=f"{where} has the columns {listing(names)}",
                    hint=f"Name an existing column in Checks(..., {use}{'s' if use == 'slice' else ''}=...).",
                )


def _check_types(schema: pa.Schema, grouped: dict[str, Sequence[str]], label: str | None, where: str) -> None:
    for use, columns in grouped.items():
        for column in columns:
            if not groupable(schema.field(column).type):
                raise ConfigError(
                    f"The {use} column {column!r} holds values that rows cannot be grouped by.",
                    detail=f"{where}: its type is {schema.field(column).type}",
                    hint="Name a column of texts, whole numbers, booleans or times.",
                )
    if label is not None and not usable_as_label(schema.field(label).type):
        raise ConfigError(
            f"The label column {label!r} is neither boolean, nor a number, nor a text.",
            detail=f"{where}: its type is {schema.field(label).type}",
            hint="Write the label as true and false, as a number, or as the name of a class; null where it is unknown.",
        )
