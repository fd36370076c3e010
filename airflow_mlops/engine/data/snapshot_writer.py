"""Writing a training snapshot part by part, so that memory does not grow with the length of its window."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, NamedTuple, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from airflow_mlops.contracts import HeadRows, Snapshot, Split, SplitName, Target, content_hash
from airflow_mlops.engine.data.arrow import is_list, lengths_differ, list_length
from airflow_mlops.engine.data.files import sha256, sweep, sync, temporary_sibling
from airflow_mlops.engine.data.leaks import Sample, check_apart, check_leaks, check_values, known
from airflow_mlops.engine.data.parquet import open_writer
from airflow_mlops.engine.data.shared import send
from airflow_mlops.engine.data.snapshots import MANIFEST, load_snapshot
from airflow_mlops.engine.data.splits import SplitRows
from airflow_mlops.exceptions import DataError
from airflow_mlops.problems import Tally, problem_named, problem_of

ROW_GROUP = 16_384
"""Rows of a Parquet row group, and what is held in memory of each split. The bytes of the files depend on it."""

NOT_IN_ID = {"id", "uri", "feature_files", "files"}
"""Fields of a snapshot that do not tell training sets apart. Where features were computed again without a difference
that counts, their files have other revisions, and the training set is the same."""


class Columns(NamedTuple):
    """What the columns of a snapshot are: entity, event time, features in order, label; what a row counts, its group.

    ``problem`` is the name of the problem type; empty: by the type of the label. ``heads`` are further labels: column →
    problem type, empty likewise.
    """

    entity: str
    event_time: str
    features: Sequence[str]
    label: str
    problem: str = ""
    weight: str = ""
    group: str = ""
    heads: Mapping[str, str] = MappingProxyType({})

    @property
    def labels(self) -> dict[str, str]:
        """All that is predicted: column → problem type, the label first."""
        return {self.label: self.problem, **self.heads}

    @property
    def names(self) -> list[str]:
        """All of them, in the order in which they are written."""
        more = [name for name in (self.weight, self.group) if name]
        return list(dict.fromkeys([self.entity, self.event_time, *self.features, self.label, *more, *self.heads]))


class SnapshotWriter:
    """Writes the splits of a training set as their rows come, and freezes them. Use it in a ``with`` block.

    Of all rows, only the entities are kept in memory, and the values that the splits were made by.

    :param home: The home folder.
    :param columns: What is written; other columns of the rows are left out.
    :param apart: Column that the rows were split by, of which no value may be in two splits.
    """

    def __init__(self, home: Path, columns: Columns, apart: str | None = None) -> None:
        self.folder = home / "snapshots"
        self.home = home
        self.columns = columns
        self.apart = apart
        self.features: dict[str, str] = {}
        self._making = temporary_sibling(self.folder / "snapshot")
        self._splits: dict[SplitName, _SplitFile] = {}
        self._sample = Sample()

    def __enter__(self) -> Self:
        self._making.mkdir()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for split in self._splits.values():
            split.close()
        shutil.rmtree(self._making, ignore_errors=True)
        sweep(self.folder)

    def add(self, splits: Mapping[SplitName, SplitRows]) -> None:
        """Write the next rows of every split; within a split, times never go back from one call to the next."""
        for name, (rows, start, end) in splits.items():
            if name not in self._splits:
                tallies = {
                    column: problem_of(rows.schema.field(column).type, problem).tally()
                    for column, problem in self.columns.labels.items()
                }
                file = self._making / f"{name}.parquet"
                self._splits[name] = _SplitFile(file, self.columns, self.apart, start, end, tallies)
            written = self._splits[name].add(rows)
            self.features = {column: str(written.schema.field(column).type) for column in self.columns.features}
            if name == "train":
                self._sample.add(written)

    def publish(
        self,
        *,
        unread_rows: int = 0,
        expected: Snapshot | None = None,
        **contents: Any,
    ) -> Snapshot:
        """Freeze what was written. The same inputs and rows give the same snapshot, which is then left as it is.

        :param unread_rows: Rows of days that are excluded whole. They count as excluded too, but not in the id: such a
            day may be sealed, or sealed again, without a change to the training set.
        :param expected: Snapshot that this must turn out to be; then any other is refused and nothing is published.
        :param contents: The other fields of :class:`~airflow_mlops.contracts.Snapshot`.
        :raises DataError: when a split has no rows, or only one class to tell apart; when an entity is in it twice, or
            a value that was split by on two sides; when a feature tells the label, is infinite or never has a value.
        """
        heads = self._check()
        label = heads.pop(self.columns.label)
        unnamed = Snapshot(
            id="",
            uri="",
            features=self.features,
            entity=self.columns.entity,
            event_time=self.columns.event_time,
            label=self.columns.label,
            problem=label.problem,
            classes=label.classes,
            heads=heads,
            weight=self.columns.weight,
            group=self.columns.group,
            splits={name: split.finish() for name, split in self._splits.items()},
            **contents,
        )
        hashed = unnamed.told(NOT_IN_ID) | {"feature_order": list(self.features)}
        snapshot_id = content_hash(hashed)[:16]
        named = {
            "id": snapshot_id,
            "uri": str(self.folder / snapshot_id),
            "excluded_rows": unnamed.excluded_rows + unread_rows,
        }
        snapshot = unnamed.model_copy(update=named)
        if expected is not None:
            _check_same(snapshot, expected)
        (self._making / MANIFEST).write_text(snapshot.to_json())
        _publish(self._making, self.folder / snapshot_id)
        return load_snapshot(self.home, snapshot_id)

    def _check(self) -> dict[str, Target]:
        """Refuse what cannot be learned from, and return label → what it is."""
        check_apart(
            {name: SplitRows(split.narrow, split.start, split.end) for name, split in self._splits.items()},
            self.columns.entity,
            self.apart,
        )
        for name, split in self._splits.items():
            split.check_rows(name)
        first = next(iter(self._splits.values()))
        targets = {label: self._check_label(label, problem) for label, problem in self.columns.labels.items()}
        for name, split in self._splits.items():
            check_values(f"{name} split", split.rows, split.infinite, split.valid)
            for feature, length in split.lengths.items():
                if first.lengths[feature] != length:
                    raise lengths_differ(feature, first.lengths[feature], length)
        if self._sample.rows is not None:
            for label, target in targets.items():
                check_leaks(self._sample.rows, self.columns.features, label, problem_named(target.problem))
        return targets

    def _check_label(self, label: str, said: str) -> Target:
        """Refuse splits from which a label cannot be learned, and return what it is."""
        wheres: dict[str, str] = {name: split.where for name, split in self._splits.items()}
        tallies: dict[str, Tally] = {name: split.tallies[label] for name, split in self._splits.items()}
        if empty := [name for name, tally in tallies.items() if not tally.rows]:
            raise DataError(
                f"The {empty[0]} split has no row in which the head {label!r} is known.",
                detail=wheres[empty[0]],
                hint="See what became of its column, lengthen the split, or leave the head out.",
            )
        problem = problem_of(next(iter(self._splits.values())).schema.field(label).type, said)
        problem.check_splits(tallies, wheres, label)
        return Target(problem=problem.name, classes=problem.classes(tallies))


class _SplitFile:
    """One split on its way to its file: what waits for its row group to be full, and what was counted."""

    def __init__(  # noqa: PLR0917
        self,
        file: Path,
        columns: Columns,
        apart: str | None,
        start: datetime,
        end: datetime,
        tallies: Mapping[str, Tally],
    ) -> None:
        self.file, self.columns, self.start, self.end = file, columns, start, end
        self.rows, self.tallies = 0, tallies
        self.schema: pa.Schema = pa.schema([])
        self.infinite = dict.fromkeys(columns.features, 0)
        self.valid = dict.fromkeys(columns.features, 0)
        self.lengths: dict[str, int] = {}
        self._kept = list(dict.fromkeys([columns.entity, *([apart] if apart else [])]))
        self._narrow: list[pa.Table] = []
        self._waiting: list[pa.Table] = []
        self._newest: Any = None
        self._writer: pq.ParquetWriter | None = None

    @property
    def narrow(self) -> pa.Table:
        """The columns that are kept of all rows."""
        return pa.concat_tables(self._narrow)

    def add(self, rows: pa.Table) -> pa.Table:
        """Write some rows, in the order of event time and entity, and return them as written."""
        columns = self.columns
        self._narrow.append(rows.select(self._kept))
        rows = rows.sort_by([(columns.event_time, "ascending"), (columns.entity, "ascending")])
        rows, infinite = known(rows.select(columns.names).replace_schema_metadata(), columns.features)
        if rows.num_rows:
            span = pc.min_max(rows[columns.event_time]).as_py()
            if self._newest is not None and span["min"] < self._newest:
                raise ValueError(f"rows of {span['min']} after rows of {self._newest}")
            self._newest = span["max"]
        for name, count in infinite.items():
            self.infinite[name] += count
        for name in columns.features:
            self.valid[name] += rows.num_rows - rows[name].null_count
            kind = rows.schema.field(name).type
            if is_list(kind) and pa.types.is_floating(kind.value_type):
                self._check_length(name, list_length(name, rows[name]))
        self.rows += rows.num_rows
        for label, tally in self.tallies.items():
            tally.add(rows[label].drop_null())
        self.schema = rows.schema
        self._waiting.append(rows)
        self._write(whole=True)
        return rows

    def _write(self, *, whole: bool) -> None:
        """Write the row groups that are full; when no more rows come, the last one too."""
        waiting = pa.concat_tables(self._waiting)
        if self._writer is None:
            self._writer = open_writer(self.file, waiting.schema)
        written = 0
        while waiting.num_rows - written >= (ROW_GROUP if whole else 1):
            # In one piece: where parts begin must not show in the pages.
            self._writer.write_table(waiting.slice(written, ROW_GROUP).combine_chunks(), row_group_size=ROW_GROUP)
            written += min(ROW_GROUP, waiting.num_rows - written)
        self._waiting = [waiting.slice(written)]

    def _check_length(self, name: str, length: int) -> None:
        """Refuse vectors of another length than those of the rows before."""
        if length and self.lengths.setdefault(name, length) != length:
            raise lengths_differ(name, self.lengths[name], length)

    @property
    def where(self) -> str:
        """Its times, in words; where there are none, its rows."""
        if self.start == self.end:
            return f"{self.rows} rows"
        return f"event times {self.start:%Y-%m-%d %H:%M} to {self.end:%Y-%m-%d %H:%M} UTC"

    def check_rows(self, name: SplitName) -> None:
        """Refuse a split of nothing."""
        if self.rows == 0:
            raise DataError(
                f"The {name} split has no rows.",
                detail=self.where,
                hint="Wait until more labels have matured, or change window, validation or test of the Trainer.",
            )

    def finish(self) -> Split:
        """Write what is left, and return what is in the file now."""
        self._write(whole=False)
        self.close()
        sync(self.file)
        return Split(
            file=self.file.name,
            sha256=sha256(self.file),
            rows=self.rows,
            **self.tallies[self.columns.label].fields(),
            heads={
                head: HeadRows(rows=self.tallies[head].rows, **self.tallies[head].fields())
                for head in self.columns.heads
            },
            start=self.start,
            end=self.end,
        )

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def _check_same(built: Snapshot, expected: Snapshot) -> None:
    """Refuse a rebuilt snapshot that is not the one that was pinned, and say where they part."""
    if built.id == expected.id:
        return
    was, now = (one.model_dump(mode="json", exclude={*NOT_IN_ID, "splits"}) for one in (expected, built))
    parts = [name for name in was if was[name] != now[name]]
    for name, split in expected.splits.items():
        again = built.splits[name]
        if again.sha256 != split.sha256:
            parts.append(
                f"{name} split: {split.rows} rows, labels {split.labels or split.positives} → {again.rows}, "
                f"{again.labels or again.positives}"
            )
    raise DataError(
        f"Snapshot {expected.id!r} comes out differently.",
        detail=f"now {built.id!r}; different: {'; '.join(parts) or 'the order of the features'}",
        hint="Its partitions and its feature files are as pinned: the definition of the feature service, the offline "
        "store or this package changed. Train on a new snapshot, and keep it apart from the old results.",
    )


def _publish(making: Path, target: Path) -> None:
    """Rename the finished folder into place, unless the same snapshot is there already."""
    sync(making / MANIFEST)
    sync(making)
    send(making, target)
    try:
        making.rename(target)
    except OSError:
        if not (target / MANIFEST).exists():
            raise
        os.utime(target)  # a sweep takes it for new again
        return
    sync(target.parent)
