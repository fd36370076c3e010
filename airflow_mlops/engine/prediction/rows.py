"""The rows that are to be predicted, read from Parquet a batch at a time."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from airflow_mlops.engine.data import storage
from airflow_mlops.engine.data.files import identity, sha256
from airflow_mlops.engine.data.fitting import common, fit
from airflow_mlops.engine.data.own_query import answer_of
from airflow_mlops.engine.data.parquet import open_writer, parquet_files, readable
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.data.storage import AnyPath
from airflow_mlops.exceptions import ConfigError, DataError, TransientError, did_you_mean

_HASHED = 65_536
_BUFFER = 1 << 20
"""Bytes read ahead of a column. By default Arrow reads all of a file's row groups ahead."""


@dataclass(frozen=True)
class Rows:
    """Rows in Parquet files of this machine.

    :param files: In the order in which they are read.
    :param name: What they are, for errors and for the ledger.
    :param identity: Hash of the files' names and bytes.
    :param partition: Dataset, key and revision, where they are a sealed partition.
    """

    files: Sequence[Path]
    name: str
    identity: str
    partition: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def count(self) -> int:
        """How many there are."""
        return sum(footer.num_rows for footer in self._footers.values())

    @cached_property
    def columns(self) -> dict[str, str]:
        """Column → Arrow type, of the first file."""
        schema = self._schemas[str(self.files[0])]
        return {one.name: str(one.type) for one in schema}

    def schema(self, columns: Sequence[str]) -> pa.Schema:
        """Return the types of some columns that the values of all files fit into.

        :raises DataError: when a file lacks one, has one twice, or holds another kind of values than the others.
        """
        chosen = {}
        for file, schema in self._schemas.items():
            for name in columns:
                places = schema.get_all_field_indices(name)
                if not places:
                    raise DataError(
                        f"A file of {self.name} lacks the column {name!r}.{did_you_mean(name, schema.names)}",
                        detail=f"{file} has: {', '.join(schema.names)}",
                        hint="All files need every column that is asked for.",
                    )
                if len(places) > 1:
                    raise DataError(
                        f"A file of {self.name} has the column {name!r} more than once.",
                        detail=f"{file} has {len(schema)} columns",
                        hint="Nobody can say which one is meant: rename one in a query.",
                    )
            chosen[file] = pa.schema([schema.field(name) for name in columns])
        return common(chosen)

    def batches(
        self, columns: Sequence[str], size: int, skip: Callable[[int, int], bool]
    ) -> Iterator[tuple[int, pa.Table]]:
        """Yield the number of a row, counted from 0, and the rows from it on, in order.

        :param size: Most rows at a time.
        :param skip: Told the first row of a row group and the one after its last, says whether it need not be read.
        """
        schema, start = self.schema(columns), 0
        for file in self.files:
            with readable(file), pq.ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER) as parquet:
                sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
                bounds = list(itertools.accumulate(sizes, initial=start))
                skips = [skip(*pair) for pair in itertools.pairwise(bounds)]
                # Neighbours are read together, so that small row groups do not make small batches.
                for skipped, found in itertools.groupby(range(len(sizes)), skips.__getitem__):
                    if skipped:
                        continue
                    groups = list(found)
                    first = bounds[groups[0]]
                    for batch in parquet.iter_batches(size, row_groups=groups, columns=list(columns)):
                        yield first, fit(pa.Table.from_batches([batch]), schema, zone="UTC", where=str(file))
                        first += batch.num_rows
                start = bounds[-1]

    def check_once(self, entity: str, event_time: str) -> None:
        """Refuse a sealed partition in which an entity is twice at the same time. Rows of one's own are as they are.

        Eight bytes a row are held to tell; rows without an entity or a time are not looked at.

        :raises DataError: with how many entities there are.
        """
        if not self.partition or not event_time:
            return
        hashes = [np.empty(0, np.uint64)]
        for _, table in self.batches([entity, event_time], _HASHED, lambda *_: False):
            known = table.drop_null()
            values, times = known[entity].to_numpy(), known[event_time].cast(pa.int64()).to_numpy()
            hashes.append(pd.util.hash_array(values, categorize=False) * np.uint64(31) + pd.util.hash_array(times))
        found = np.sort(np.concatenate(hashes))
        if not (found[1:] == found[:-1]).any():
            return
        # Only where two hashes are alike, since it takes much more memory.
        every = pa.concat_tables(table for _, table in self.batches([entity, event_time], _HASHED, lambda *_: False))
        counted = every.drop_null().group_by([entity, event_time]).aggregate([([], "count_all")])
        repeated = counted.filter(pc.greater(counted["count_all"], 1))
        if repeated.num_rows:
            raise DataError(
                f"{pc.count_distinct(repeated[entity])} entities are in {self.name} more than once at the same time.",
                detail=f"entity {entity!r}, event time {event_time!r}, {self.count} rows",
                hint="A prediction is found again by the two. Seal the partition without repeats, and have its "
                f"Checks(unique=[{entity!r}]) count them; or predict a query of its rows, entities='SELECT ...'.",
            )

    def check_unchanged(self) -> None:
        """Refuse rows whose files changed while they were read.

        :raises TransientError: naming what they are.
        """
        if hash_of(self.files) != self.identity:
            raise TransientError(
                f"The files of {self.name} changed while they were read.",
                hint="Try again once nobody writes them; land new files under new names, or seal them first.",
            )

    @cached_property
    def _footers(self) -> dict[str, pq.FileMetaData]:
        found = {}
        for file in self.files:
            with readable(file):
                found[str(file)] = pq.read_metadata(file)
        return found

    @cached_property
    def _schemas(self) -> dict[str, pa.Schema]:
        return {file: footer.schema.to_arrow_schema() for file, footer in self._footers.items()}


@contextmanager
def rows_of_partition(store: PartitionStore, dataset: str, key: str) -> Iterator[Rows]:
    """Yield the rows of a sealed partition. Every file is checked against its manifest.

    :raises DataError: when it was never sealed, or a file is missing or changed.
    """
    partition = store.get(dataset, key)
    folder = store.folder(dataset, key) / partition.revision
    with storage.on_disk([folder / file.name for file in partition.files]) as here:
        for path, file in zip(here, partition.files, strict=True):
            with readable(path):
                found = sha256(path)
            if found != file.sha256:
                raise DataError(
                    f"A file of partition {key} of {dataset!r} changed after it was sealed.",
                    detail=f"{folder / file.name} (revision {partition.revision})",
                    hint=f"Seal the day again from {partition.receipt.uri}; the same bytes give the same revision.",
                )
        yield Rows(
            here,
            f"partition {key} of {dataset!r}",
            identity({file.name: file.sha256 for file in partition.files}),
            {"dataset": dataset, "key": key, "revision": partition.revision},
        )


@contextmanager
def rows_of_entities(entities: AnyPath | str) -> Iterator[Rows]:
    """Yield rows of one's own.

    :param entities: A Parquet file, a folder of them, or a folder with a pattern such as ``*.parquet``; or a query for
        DuckDB, as text, whose answer is written down first.
    :raises DataError: when they cannot be read, or the query fails.
    """
    if isinstance(entities, str):
        with tempfile.TemporaryDirectory(prefix="entities-") as folder:
            file = Path(folder) / "answer.parquet"
            _write_answer(entities, file)
            yield Rows([file], "the query's answer", hash_of([file]))
        return
    files = [entities] if str(entities).endswith(".parquet") and "*" not in entities.name else parquet_files(entities)
    with storage.on_disk(files) as here:
        yield Rows(here, str(entities), hash_of(here))


def hash_of(files: Sequence[Path]) -> str:
    """Return the hash of files' names and bytes."""
    digests = {}
    for file in files:
        with readable(file):
            digests[file.name] = sha256(file)
    return identity(digests)


def _write_answer(query: str, file: Path) -> None:
    with answer_of(query) as batches, open_writer(file, batches.schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def check_event_time(rows: Rows, event_time: str) -> None:
    """Refuse a column of times that are no moments.

    :raises ConfigError: when there is no such column, or its times have no zone.
    """
    kind = rows.columns.get(event_time)
    if kind is None:
        raise ConfigError(
            f"{rows.name[0].upper()}{rows.name[1:]} has no column {event_time!r}."
            f"{did_you_mean(event_time, rows.columns)}",
            detail=f"there are: {', '.join(rows.columns)}",
            hint="Name their column of prediction times in event_time; or, where they have no time of their own, leave "
            "it out.",
        )
    if not kind.startswith("timestamp") or "tz=" not in kind:
        raise ConfigError(
            f"{event_time!r} of {rows.name} is {kind}: no moment.",
            hint="Give it a time zone: in pandas frame[...].dt.tz_localize('Europe/Berlin'), in a query "
            "timezone('Europe/Berlin', ...).",
        )
