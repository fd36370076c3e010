"""Training snapshots: frozen, split, and named by the hash of everything that went in.

::

    snapshots/<id>/train.parquet, validation.parquet, test.parquet, manifest.json

The folder is published by one rename and never changes. A split has the columns entity, event time, features
(in the order of ``Snapshot.features``) and label, its rows in the order of event time and entity. A feature that
is NaN is written as what it is: missing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from airflow_mlops.contracts import Snapshot, SplitName
from airflow_mlops.engine.data import storage
from airflow_mlops.engine.data.files import identity, sha256
from airflow_mlops.engine.data.shared import fetch, origin
from airflow_mlops.engine.data.storage import AnyPath
from airflow_mlops.exceptions import ConfigError, DataError, did_you_mean

MANIFEST = "manifest.json"
"""Name of the file that says what a snapshot is; it is written last."""


def load_snapshot(home: Path, snapshot_id: str) -> Snapshot:
    """Return a snapshot by its id.

    :raises DataError: when there is none, or its manifest is damaged.
    """
    manifest = home / "snapshots" / snapshot_id / MANIFEST
    fetch(manifest.parent)
    try:
        snapshot = Snapshot.from_json(manifest.read_bytes())
    except FileNotFoundError:
        known = _whole_ones(origin(home / "snapshots"))
        raise DataError(
            f"There is no snapshot {snapshot_id!r}.{did_you_mean(snapshot_id, known)}",
            detail=f"{origin(home / 'snapshots')} holds {len(known)}",
            hint="Build it again: clear the task `snapshot` of the train DAG.",
        ) from None
    except ValidationError as error:
        raise DataError(
            f"The manifest of snapshot {snapshot_id!r} cannot be read.",
            detail=f"{manifest}: {error.error_count()} problems, the first: {error.errors()[0]['msg']}",
            hint="Snapshots are never edited. Remove the folder and build the snapshot again.",
        ) from None
    # The home may be mounted elsewhere than where the snapshot was written.
    return snapshot.model_copy(update={"uri": str(home / "snapshots" / snapshot_id)})


def find_snapshot(home: Path, snapshot_id: str) -> Snapshot:
    """Return a snapshot by its id; when its own manifest is lost, what a training on it wrote down.

    :raises DataError: when neither is there.
    """
    try:
        return load_snapshot(home, snapshot_id)
    except DataError:
        trainings = origin(home / "trainings")
        with storage.reaching(trainings):
            specs = storage.read_if_there([trainings / name / "spec.json" for name in storage.subfolders(trainings)])
        for spec in filter(None, specs):
            told = json.loads(spec)["snapshot"]
            if told["id"] == snapshot_id:
                return Snapshot.from_json(json.dumps(told)).model_copy(
                    update={"uri": str(home / "snapshots" / snapshot_id)}
                )
        raise


def read_split(snapshot: Snapshot, split: SplitName, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the rows of a split, checked against the manifest.

    :param columns: Those to read; None: all.
    :raises ConfigError: when there is no such split.
    :raises DataError: when the file is missing or changed.
    """
    if split not in snapshot.splits:
        raise ConfigError(
            f"A snapshot has no split {split!r}.{did_you_mean(split, snapshot.splits)}",
            hint=f"Splits: {', '.join(snapshot.splits)}.",
        )
    return pq.read_table(_whole(snapshot, split), columns=None if columns is None else list(columns))


def check_whole(snapshot: Snapshot) -> None:
    """Refuse a snapshot of which a file is missing or changed.

    :raises DataError: naming it.
    """
    for split in snapshot.splits:
        _whole(snapshot, split)


def _whole(snapshot: Snapshot, split: SplitName) -> Path:
    """Return the file of a split, as it was written."""
    expected = snapshot.splits[split]
    file = Path(snapshot.uri) / expected.file

    def as_written() -> bool:
        return file.exists() and sha256(file) == expected.sha256

    if not as_written():
        fetch(file.parent, again=True)
    if not as_written():
        raise DataError(
            f"The {split} split of snapshot {snapshot.id!r} is not what was written.",
            detail=f"{file} is {'changed' if file.exists() else 'missing'}",
            hint="Snapshots are never edited. Remove the folder and build the snapshot again.",
        )
    return file


def _whole_ones(folder: AnyPath) -> list[str]:
    with storage.reaching(folder):
        names = storage.subfolders(folder)
        there = storage.are_there([folder / name / MANIFEST for name in names])
    return [name for name, is_there in zip(names, there, strict=True) if is_there]


def check_validated(snapshot: Snapshot, batch_hash: str) -> None:
    """Refuse to train on other files than those that were validated.

    :param batch_hash: Of the validation's result; see :func:`~airflow_mlops.engine.data.partitions.batch_hash`.
    :raises DataError: when they are not the snapshot's.
    """
    trained = identity({split.file: split.sha256 for split in snapshot.splits.values()})
    if batch_hash != trained:
        raise DataError(
            "What was validated is not what would be trained on.",
            detail=f"validated {batch_hash[:16]}, snapshot {snapshot.id!r} is {trained[:16]} in {snapshot.uri}",
            hint="Validate the folder of this very snapshot, and train on the id that came out of the same run.",
        )
