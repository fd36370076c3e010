"""Training snapshots: frozen, split by time, and named by the hash of everything that went in.

::

    snapshots/<id>/train.parquet, validation.parquet, test.parquet, manifest.json

The folder is published by one rename and never changes. A split has the columns entity, event time, features
(in the order of ``Snapshot.features``) and label, its rows in the order of event time and entity.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from airflow_mlops.contracts import Snapshot, Split, SplitName, content_hash
from airflow_mlops.engine.data.files import sha256, sweep, sync, temporary_sibling
from airflow_mlops.exceptions import ConfigError, DataError, did_you_mean

_MANIFEST = "manifest.json"


class SplitRows(NamedTuple):
    """The rows of one split, whose event times lie in ``[start, end)``."""

    rows: pa.Table
    start: datetime
    end: datetime


def write_snapshot(
    home: Path,
    splits: Mapping[SplitName, SplitRows],
    *,
    model: str,
    partitions: dict[str, dict[str, str]],
    feature_service: str,
    definition_hash: str,
    features: dict[str, str],
    entity: str,
    event_time: str,
    label: str,
    as_of: datetime,
    label_cut: datetime,
    unlabelled_rows: int,
) -> Snapshot:
    """Freeze a training set. The same inputs and rows give the same snapshot, which is then left as it is.

    :param definition_hash: What the feature service meant when the features were read.
    :raises DataError: when a split has no rows, or only one class to tell apart; or when an entity is in it twice.
    """
    _check_entities(splits, entity)
    for name, split in splits.items():
        _check_split(name, split, label)
    columns = [entity, event_time, *features, label]
    folder = home / "snapshots"
    making = temporary_sibling(folder / "snapshot")
    try:
        making.mkdir()
        written = {
            name: _write_split(making, name, split, columns, by=[event_time, entity], label=label)
            for name, split in splits.items()
        }
        contents = {
            "model": model,
            "partitions": partitions,
            "feature_service": feature_service,
            "features": features,
            "entity": entity,
            "event_time": event_time,
            "label": label,
            "as_of": as_of,
            "label_cut": label_cut,
            "unlabelled_rows": unlabelled_rows,
            "splits": written,
        }
        hashed = {**contents, "splits": {name: split.model_dump(mode="json") for name, split in written.items()}}
        identity = content_hash({**hashed, "feature_order": list(features), "definition": definition_hash})[:16]
        snapshot = Snapshot(id=identity, uri=str(folder / identity), **contents)
        (making / _MANIFEST).write_text(snapshot.to_json())
        _publish(making, folder / identity)
        return load_snapshot(home, identity)
    finally:
        shutil.rmtree(making, ignore_errors=True)
        sweep(folder)


def load_snapshot(home: Path, snapshot_id: str) -> Snapshot:
    """Return a snapshot by its id.

    :raises DataError: when there is none.
    """
    try:
        snapshot = Snapshot.from_json((home / "snapshots" / snapshot_id / _MANIFEST).read_text())
    except FileNotFoundError:
        raise DataError(
            f"There is no snapshot {snapshot_id!r}.",
            detail=str(home / "snapshots"),
            hint="Build it again: clear the task `snapshot` of the train DAG.",
        ) from None
    # The home may be mounted elsewhere than where the snapshot was written.
    return snapshot.model_copy(update={"uri": str(home / "snapshots" / snapshot_id)})


def read_split(snapshot: Snapshot, split: SplitName) -> pa.Table:
    """Return the rows of a split, checked against the manifest.

    :raises ConfigError: when there is no such split.
    :raises DataError: when the file is missing or changed.
    """
    if split not in snapshot.splits:
        raise ConfigError(
            f"A snapshot has no split {split!r}.{did_you_mean(split, snapshot.splits)}",
            hint=f"Splits: {', '.join(snapshot.splits)}.",
        )
    expected = snapshot.splits[split]
    file = Path(snapshot.uri) / expected.file
    if not file.exists() or sha256(file) != expected.sha256:
        raise DataError(
            f"The {split} split of snapshot {snapshot.id!r} is not what was written.",
            detail=f"{file} is {'changed' if file.exists() else 'missing'}",
            hint="Snapshots are never edited. Remove the folder and build the snapshot again.",
        )
    return pq.read_table(file)


def _check_entities(splits: Mapping[SplitName, SplitRows], entity: str) -> None:
    entities = pa.concat_tables([split.rows.select([entity]) for split in splits.values()])[entity]
    repeated = len(entities) - pc.count_distinct(entities).as_py()
    if repeated:
        raise DataError(
            f"{repeated} rows of the snapshot repeat an entity.",
            detail=f"{len(entities)} rows, column {entity!r}",
            hint="An entity on two sides of a split would let the model remember instead of learn.",
        )


def _check_split(name: SplitName, split: SplitRows, label: str) -> None:
    rows, positives = split.rows.num_rows, pc.sum(split.rows[label]).as_py() or 0
    where = f"event times {split.start:%Y-%m-%d %H:%M} to {split.end:%Y-%m-%d %H:%M} UTC"
    if rows == 0:
        raise DataError(
            f"The {name} split has no rows.",
            detail=where,
            hint="Wait until more labels have matured, or change window, validation or test of the Trainer.",
        )
    if positives in (0, rows):
        raise DataError(
            f"The {name} split has only one class: {positives} of {rows} rows are positive.",
            detail=f"{where}, label {label!r}",
            hint="There is nothing to tell apart. Lengthen the split, or see what became of the label.",
        )


def _write_split(
    folder: Path, name: SplitName, split: SplitRows, columns: list[str], *, by: list[str], label: str
) -> Split:
    file = folder / f"{name}.parquet"
    table = split.rows.select(columns).sort_by([(column, "ascending") for column in by])
    pq.write_table(table, file)
    sync(file)
    return Split(
        file=file.name,
        sha256=sha256(file),
        rows=table.num_rows,
        positives=pc.sum(table[label]).as_py(),
        start=split.start,
        end=split.end,
    )


def _publish(making: Path, target: Path) -> None:
    """Rename the finished folder into place, unless the same snapshot is there already."""
    sync(making / _MANIFEST)
    sync(making)
    try:
        making.rename(target)
    except OSError:
        if not (target / _MANIFEST).exists():
            raise
        return
    sync(target.parent)
