"""Sealed partitions: an hour, day, week or month of a dataset, frozen: the only data that anything downstream reads.

::

    <root>/<dataset>/<key>/<revision>/*.parquet, manifest.json
    <root>/<dataset>/<key>/<revision>.profile.json
    <root>/<dataset>/<key>/current.json      the manifest of the revision that counts
    <root>/<dataset>/<key>/decided.json      the ledger's pointer, which decides from then on
    <root>/<dataset>/<key>/removed.json      what retention took away
    <root>/<dataset>/partitioning.json       how the dataset is cut into partitions, if not by the UTC day

A revision never changes; its name is the hash of its files, so sealing the same bytes again gives the same
revision. It appears by one rename, or on object storage by its manifest, which is uploaded last. ``current.json`` is
replaced after that, by one rename or one PUT: without it, a partition does not exist.
"""

from __future__ import annotations

import builtins
import hashlib
import json
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_mlops.contracts import Partition, PartitionFile, Profile
from airflow_mlops.engine.data import storage
from airflow_mlops.engine.data.arrow import alike
from airflow_mlops.engine.data.diff import PartitionDiff, comparable_columns, compare, count_rows
from airflow_mlops.engine.data.files import identity, sweep
from airflow_mlops.engine.data.fitting import plain
from airflow_mlops.engine.data.parquet import difference, inspect, parquet_files, readable
from airflow_mlops.engine.data.receipts import receipt
from airflow_mlops.engine.data.revisions import (
    CURRENT,
    MANIFEST,
    is_decided,
    load,
    make_current,
    mark_decided,
    parse,
    publish,
)
from airflow_mlops.engine.data.shared import origin
from airflow_mlops.engine.data.storage import AnyPath
from airflow_mlops.engine.data.tombstones import tombstones
from airflow_mlops.exceptions import ConfigError, DataError
from airflow_mlops.partitioning import DAILY, Partitioning

if TYPE_CHECKING:
    from airflow_mlops.engine.ledger import Ledger, Pointer

FACT = "partition"
"""Kind of the ledger's fact that a revision became the current one; subject is the dataset, key the partition."""

PARTITIONING = "partitioning.json"
_TICK = timedelta(microseconds=1)
_LONG_AGO, _FAR_OFF = datetime(2, 1, 1, tzinfo=UTC), datetime(9998, 1, 1, tzinfo=UTC)


Bound: TypeAlias = date | datetime | None
"""A day of the dataset's zone, both ends included; or a moment, ``[start, end)``; None: no bound."""


def batch_hash(files: Iterable[AnyPath]) -> str:
    """Return the identity of a set of files: the hash of their names and contents."""
    digests = {}
    for file in files:
        with readable(file):
            digests[file.name] = storage.digest(file)
    return identity(digests)


@lru_cache(maxsize=512)
def parse_profile(contents: bytes) -> Profile:
    """Return a profile from its JSON. One partition after the other is compared with nearly the same ones."""
    return Profile.from_json(contents)


class PartitionStore:
    """The sealed partitions under one folder, on this machine or on object storage.

    :param root: A ``Path``, or a ``UPath`` such as ``airflow.sdk.ObjectStoragePath``.
    :param ledger: Decides between writers of one partition; a reader needs none, nor does a notebook.
    """

    def __init__(self, root: AnyPath, ledger: Ledger | None = None) -> None:
        self.root = root
        self.ledger = ledger
        self._partitionings: dict[str, Partitioning] = {}

    @classmethod
    def under(cls, home: Path, ledger: Ledger | None = None) -> PartitionStore:
        """Return the store in a home folder; in the bucket, when that is where the home is."""
        return cls(origin(home) / "partitions", ledger)

    # --- how a dataset is cut -----------------------------------------------------------------------------

    def partitioning(self, dataset: str) -> Partitioning:
        """Return how a dataset is cut into partitions: by the UTC day, unless it was declared otherwise."""
        if dataset not in self._partitionings:
            path = self.folder(dataset) / PARTITIONING
            with readable(path):
                [contents] = storage.read_if_there([path])
            if contents is None:
                return DAILY
            self._partitionings[dataset] = Partitioning(**json.loads(contents))
        return self._partitionings[dataset]

    def declare(self, dataset: str, partitioning: Partitioning) -> None:
        """Write down how a dataset is cut into partitions, before the first one.

        :raises ConfigError: when its partitions are of another size or zone already.
        """
        known = self.partitioning(dataset)
        if partitioning == known:
            return
        if known != DAILY or self.keys(dataset):
            raise ConfigError(
                f"Dataset {dataset!r} is cut into other partitions already.",
                detail=f"{self.folder(dataset)} is {known}, declared is {partitioning}",
                hint="Give the dataset another name with Partitions(dataset=...), or declare it as it is.",
            )
        path = self.folder(dataset) / PARTITIONING
        with readable(path):
            storage.write(path, json.dumps(asdict(partitioning)))
        self._partitionings[dataset] = partitioning

    # --- reading ------------------------------------------------------------------------------------------

    def get(self, dataset: str, key: str, revision: str | None = None) -> Partition:
        """Return a revision of a partition; default is the current one.

        :raises DataError: when it was never sealed, or retention removed it: then it says when, and whom that hits.
        """
        folder = self.folder(dataset, key)
        if revision is not None:
            _check_revision(revision)
        partition = load(folder / CURRENT if revision is None else folder / revision / MANIFEST, folder)
        if partition is None:
            raise self._missing(dataset, key, revision)
        return partition

    def current(self, dataset: str, key: str) -> str | None:
        """Return the revision that counts, or None when the partition does not exist."""
        folder = self.folder(dataset, key)
        found = load(folder / CURRENT, folder)
        return None if found is None else found.revision

    def keys(self, dataset: str) -> builtins.list[str]:
        """Return the keys of the sealed partitions, in order."""
        folders = self._folders(dataset, None, None)
        with readable(self.folder(dataset)):
            there = storage.are_there([folder / CURRENT for folder in folders])
        return [folder.name for folder, sealed in zip(folders, there, strict=True) if sealed]

    def list(self, dataset: str, start: Bound, end: Bound) -> builtins.list[Partition]:
        """Return the current partitions that lie, wholly or in part, between two bounds, in order of their keys.

        Those that were not sealed are simply not in the list.
        """
        currents = self._currents(dataset, start, end)
        return [parse(contents, folder / CURRENT, folder) for folder, contents in currents if contents is not None]

    def revisions(self, dataset: str, key: str) -> builtins.list[Partition]:
        """Return every revision of a partition that is there, in order of when its source was written."""
        folder = self.folder(dataset, key)
        with readable(folder):
            manifests = [folder / name / MANIFEST for name in storage.subfolders(folder)]
            contents = storage.read_if_there(manifests)
        found = [parse(text, path, folder) for path, text in zip(manifests, contents, strict=True) if text is not None]
        return sorted(found, key=lambda found: (found.receipt.written_at or found.max_event_time, found.revision))

    def read(self, partitions: Sequence[Partition], columns: Sequence[str] | None = None) -> pa.Table:
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
        names = agreed_columns(partitions, columns)
        tables = [self._read(partition, file, names) for partition in partitions for file in partition.files]
        try:
            return pa.concat_tables(tables, promote_options="permissive")
        except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
            raise DataError(
                f"Partitions of {partitions[0].dataset!r} cannot be read together.",
                detail=f"{partitions[0].key} to {partitions[-1].key}: {str(error).splitlines()[0]}",
                hint="A column changed its type so that one no longer holds the other: declare it in the contract, and "
                "seal the days again.",
            ) from None

    def diff(self, dataset: str, key: str, old: str, new: str, unique: Sequence[str] = ()) -> PartitionDiff:
        """Say how two revisions of a partition differ.

        :param unique: Columns that identify a row; with them, rows added, removed and changed are counted.
        """
        before, after = self.get(dataset, key, old), self.get(dataset, key, new)
        found = compare(before, after)
        if not unique:
            return found
        columns = comparable_columns(before, after, unique)
        return found.model_copy(update=count_rows(self.read([before], columns), self.read([after], columns), unique))

    def watermark(self, dataset: str, start: date | datetime, skip: Collection[str] = ()) -> datetime:
        """Return the end of the last partition such that every one from ``start`` to it is sealed, or in ``skip``.

        It is the start of the first one, in UTC, when that one itself is not.

        :param start: Day with which the dataset begins, in its zone; or a moment of its first partition.
        """
        partitioning = self.partitioning(dataset)
        done = {*self.keys(dataset), *skip}
        moment = partitioning.floor(partitioning.span(start, start)[0])
        while partitioning.key(moment) in done:
            moment = partitioning.next(moment)
        return moment

    def profile(self, partition: Partition) -> Profile | None:
        """Return the profile of a partition, if one was written."""
        path = self.profile_path(partition.dataset, partition.key, partition.revision)
        with readable(path):
            [contents] = storage.read_if_there([path])
        return None if contents is None else parse_profile(contents)

    def write_profile(self, dataset: str, key: str, revision: str, profile: Profile) -> None:
        """Write a revision's profile beside it; the revision may be sealed later."""
        path = self.profile_path(dataset, key, revision)
        with readable(path):
            storage.write(path, profile.to_json())

    def profile_path(self, dataset: str, key: str, revision: str) -> AnyPath:
        """Return where the profile of a revision is."""
        return self.folder(dataset, key) / f"{revision}.profile.json"

    # --- sealing ------------------------------------------------------------------------------------------

    def seal(
        self,
        dataset: str,
        key: str,
        landed: AnyPath,
        *,
        event_time: str,
        batch_hash: str | None,
        suite_hash: str | None,
        manifest: str | None = None,
        may_be_empty: bool = False,
    ) -> Partition:
        """Freeze what landed as the partition ``key`` of a dataset, and make it the current one.

        The files are copied first and checked as copied, so that what was checked is what is sealed. Of writers at
        the same time with different bytes, the ledger lets one win; sealing other bytes later replaces what is there.

        :param landed: Folder with the Parquet files, on this machine or on object storage.
        :param event_time: Column of timestamps with a time zone, none of them null, all within the key's interval.
        :param batch_hash: :func:`batch_hash` of the files that were validated; None when nothing was.
        :param suite_hash: Hash of the suite that they passed.
        :param manifest: Name of the upstream's own manifest in ``landed``; its hash goes into the receipt.
        :param may_be_empty: Whether files without a row are a partition, and not a fault of the upstream.
        :raises DataError: when there is nothing to seal, it cannot be read, it changed since it was validated, its
            event times are not those of the day, or another writer won.
        :raises ConfigError: without a ledger, when one decided on this day before.
        """
        bounds = self.partitioning(dataset).interval(key)
        folder = self.folder(dataset, key)
        self._check_decider(folder)
        seen = None if self.ledger is None else self.ledger.pointer(_pointer(dataset, key))
        sources = parquet_files(landed)
        with readable(folder), storage.making(folder / "revision") as made:
            files = tuple(_copy(source, made / source.name) for source in sources)
            contents_hash = identity({file.name: file.sha256 for file in files})
            if batch_hash not in (None, contents_hash):
                raise DataError(
                    "The files changed after they were validated.",
                    detail=f"{landed}: validated {batch_hash[:16]}, found {contents_hash[:16]}",
                    hint="Clear the validation task, so that what is sealed is what was validated.",
                )
            columns, earliest, latest = inspect(
                [made / file.name for file in files], event_time, bounds, landed, may_be_empty=may_be_empty
            )
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
                receipt=receipt(landed, sources, files, contents_hash, manifest),
                suite_hash=suite_hash,
            )
            partition = publish(partition, made, folder)
            if self.ledger is None:
                make_current(partition, folder)
            else:
                self._decide(self.ledger, partition, seen)
        if isinstance(folder, Path):
            sweep(folder)
        return partition

    def _decide(self, ledger: Ledger, partition: Partition, seen: Pointer | None) -> None:
        """Make a published revision the current one, unless the pointer moved elsewhere since it was ``seen``."""
        name = _pointer(partition.dataset, partition.key)
        folder, current = self.folder(partition.dataset, partition.key), partition
        before = _sealed_without_ledger(folder) if seen is None else seen.value["revision"]
        replaces = None if before == partition.revision else before
        mark_decided(folder, name)
        if seen is None or replaces is not None:
            ledger.swap(name, {"revision": partition.revision, "replaces": replaces}, seen)
        pointer = ledger.pointer(name)
        if pointer is None or pointer.value["revision"] != partition.revision:
            raise _lost(partition, pointer)
        replaces = pointer.value["replaces"]
        make_current(current, folder)
        # Another writer may have moved the pointer meanwhile, and written its manifest before we wrote ours.
        while (pointer := ledger.pointer(name)) and pointer.value["revision"] != current.revision:
            current = self.get(partition.dataset, partition.key, pointer.value["revision"])
            make_current(current, folder)
        fact = {
            **partition.model_dump(mode="json", include={"revision", "rows", "bytes", "uri", "suite_hash", "receipt"}),
            "replaces": replaces,
        }
        latest = ledger.facts(FACT, partition.dataset, key=partition.key, limit=1)
        if not latest or latest[0].payload != fact:
            ledger.record(FACT, partition.dataset, fact, key=partition.key)

    def _check_decider(self, folder: AnyPath) -> None:
        if self.ledger is None and is_decided(folder):
            raise ConfigError(
                "A ledger decides which revision of this partition is current; give it.",
                detail=f"{folder} was sealed with a ledger before",
                hint="Seal with PartitionStore(root, ledger): without it, others would not learn of the new data.",
            )

    # --- where things are ---------------------------------------------------------------------------------

    def folder(self, dataset: str, key: str | None = None) -> AnyPath:
        """Return where a dataset is, or one partition of it.

        :raises ConfigError: when the one cannot be a name, or the other is no key: the path might lead elsewhere.
        """
        if not re.fullmatch(r"[A-Za-z][\w.-]*", dataset):
            raise ConfigError(
                f"{dataset!r} cannot be the name of a dataset.",
                hint="Start with a letter and use letters, digits, '_', '-' and '.' only: it becomes part of paths.",
            )
        if key is None:
            return self.root / dataset
        self.partitioning(dataset).interval(key)
        return self.root / dataset / key

    def _currents(self, dataset: str, start: Bound, end: Bound) -> builtins.list[tuple[AnyPath, bytes | None]]:
        """Return the folders of the partitions with what is in their ``current.json``."""
        folders = self._folders(dataset, start, end)
        with readable(self.folder(dataset)):
            return list(zip(folders, storage.read_if_there([folder / CURRENT for folder in folders]), strict=True))

    def _folders(self, dataset: str, start: Bound, end: Bound) -> builtins.list[AnyPath]:
        """Return the folders of the partitions between two bounds, sealed or not."""
        partitioning, parent = self.partitioning(dataset), self.folder(dataset)
        begin, stop = partitioning.span(start or _LONG_AGO, end or _FAR_OFF)
        first, last = (partitioning.key(begin) if start else ""), (partitioning.key(stop - _TICK) if end else "~")
        with readable(parent):
            names = storage.subfolders(parent)  # keys sort as time does; others may keep things here too
        chosen = [name for name in names if first <= name <= last]
        return [parent / name for name in chosen if partitioning.is_key(name)]

    def _missing(self, dataset: str, key: str, revision: str | None) -> DataError:
        folder = self.folder(dataset, key)
        stones = tombstones(folder)
        if revision is None:
            removed = "".join(f"; revision {name} was {stone}" for name, stone in stones.items())
            return DataError(
                f"There is no partition {key} of {dataset!r}.",
                detail=f"{folder} holds no sealed revision{removed}",
                hint="Run the features DAG for that day; a day is sealed only after it was validated.",
            )
        stone = stones.get(revision)
        return DataError(
            f"Revision {revision} of partition {key} of {dataset!r} is missing.",
            detail=f"{folder / revision}: {stone or 'it was never sealed here'}",
            hint=f"Seal the day again from {stone.source if stone else 'its source'}; "
            "the same bytes give the same revision. Nothing else is ever taken in its place.",
        )

    def _read(self, partition: Partition, file: PartitionFile, columns: Sequence[str]) -> pa.Table:
        folder = self.folder(partition.dataset, partition.key)
        path = folder / partition.revision / file.name
        with readable(path):
            [contents] = storage.read_if_there([path])
        if contents is None and partition.revision in tombstones(folder):
            raise self._missing(partition.dataset, partition.key, partition.revision)
        if contents is None or hashlib.sha256(contents).hexdigest() != file.sha256:
            problem = "is missing" if contents is None else "changed after it was sealed"
            raise DataError(
                f"A file of partition {partition.key} of {partition.dataset!r} {problem}.",
                detail=f"{path} (revision {partition.revision})",
                hint=f"Seal the day again from {partition.receipt.uri}; the same bytes give the same revision.",
            )
        there = [name for name in columns if name in partition.columns]
        table = pq.ParquetFile(pa.BufferReader(contents)).read(columns=there)
        return _plain(table.select(there).replace_schema_metadata())


# --- sealing ----------------------------------------------------------------------------------------------


def _plain(table: pa.Table) -> pa.Table:
    """Return text and times as one type each, however a file keeps them."""
    kinds = [plain(field.type) if not pa.types.is_timestamp(field.type) else field.type for field in table.schema]
    schema = pa.schema([field.with_type(kind) for field, kind in zip(table.schema, kinds, strict=True)])
    return table if schema.equals(table.schema) else table.cast(schema)


def _pointer(dataset: str, key: str) -> str:
    return f"partition:{dataset}:{key}"


def _sealed_without_ledger(folder: AnyPath) -> str | None:
    """Return the revision that counted before a ledger decided, so that what replaces it is known to do so."""
    try:
        found = load(folder / CURRENT, folder)
    except DataError:  # damaged: sealing heals it
        return None
    return None if found is None else found.revision


def _copy(source: AnyPath, target: Path) -> PartitionFile:
    with readable(source):
        storage.copy(source, target)
        with pq.ParquetFile(target) as parquet:
            rows = parquet.metadata.num_rows
    return PartitionFile(name=source.name, sha256=storage.digest(target), bytes=target.stat().st_size, rows=rows)


def _check_revision(revision: str) -> None:
    """Refuse what is no revision: the path might lead elsewhere."""
    if not re.fullmatch(r"\w+", revision):
        raise ConfigError(
            f"{revision!r} is not a revision.",
            hint="A revision is the hash that `airflow-mlops partitions DATASET --day DAY` lists.",
        )


def _lost(partition: Partition, winner: Pointer | None) -> DataError:
    won = "nothing" if winner is None else f"revision {winner.value['revision']}"
    return DataError(
        f"Another writer sealed partition {partition.key} of {partition.dataset!r} at the same time.",
        detail=f"the ledger says that {won} is current; this one, revision {partition.revision}, has other bytes",
        hint="See which of the two is right. To replace the other on purpose, clear this task.",
    )


# --- reading ----------------------------------------------------------------------------------------------


def agreed_columns(partitions: Sequence[Partition], columns: Sequence[str] | None) -> list[str]:
    """Return the columns to read: those asked for, or all there are. None may lack one; a new one may come later.

    Types may differ where one holds the other: whole numbers and floats, narrow and wide, nothing but nulls.

    :raises DataError: naming the first partition that differs, and how.
    """
    first = partitions[0]
    if columns is None:
        expected: dict[str, str] = {}
    else:
        expected = {name: first.columns.get(name, "any type") for name in columns}
    for partition in partitions:
        if columns is None:
            expected |= {name: kind for name, kind in partition.columns.items() if expected.get(name, "null") == "null"}
        found = {name: partition.columns[name] for name in expected if name in partition.columns}
        lacks = len(found) < len(expected)
        if lacks or any(not alike(kind, expected[name]) for name, kind in found.items()):
            raise DataError(
                f"Partition {partition.key} of {partition.dataset!r} does not have the columns to read.",
                detail=f"expected as in {first.key}: {difference(expected, found)}",
                hint="See what the upstream changed. Where it may: declare the column in the contract, nullable, or "
                "drop it there; then seal the days again with it: `airflow-mlops history ... --again`.",
            )
    return list(expected)
