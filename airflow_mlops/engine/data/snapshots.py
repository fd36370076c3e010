"""Training snapshots: frozen, split, and named by the hash of everything that went in.

::

    snapshots/<id>/train.parquet, validation.parquet, test.parquet, manifest.json

The folder is published by one rename and never changes. A split has the columns entity, event time, features
(in the order of ``Snapshot.features``) and label, its rows in the order of event time and entity. A feature that
is NaN is written as what it is: missing.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ValidationError

from airflow_mlops.contracts import Exclusion, Snapshot, Split, SplitName, SplitRule, content_hash
from airflow_mlops.engine.data.files import TEMPORARY, identity, sha256, sweep, sync, temporary_sibling
from airflow_mlops.engine.data.leaks import check_apart, check_features, usable
from airflow_mlops.engine.data.splits import BY_TIME, SplitRows
from airflow_mlops.exceptions import ConfigError, DataError, did_you_mean

_MANIFEST = "manifest.json"


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
    split_rule: SplitRule = BY_TIME,
    exclusions: tuple[Exclusion, ...] = (),
    excluded_rows: int = 0,
    unread_rows: int = 0,
    expected: Snapshot | None = None,
) -> Snapshot:
    """Freeze a training set. The same inputs and rows give the same snapshot, which is then left as it is.

    :param definition_hash: What the feature service meant when the features were read.
    :param excluded_rows: Rows of the days read that exclusions left out.
    :param unread_rows: Rows of days that are excluded whole. They count as excluded too, but not in the id: such a day
        may be sealed, or sealed again, without a change to the training set.
    :param expected: Snapshot that this must turn out to be; then any other is refused and nothing is written.
    :raises DataError: when a split has no rows, or only one class to tell apart; when an entity is in it twice, or a
        value that was split by on two sides; when a feature tells the label, is infinite or never has a value.
    """
    check_apart(splits, entity, split_rule.column if split_rule.kind == "entity" else None)
    splits = {name: split._replace(rows=usable(split.rows, list(features))) for name, split in splits.items()}
    for name, split in splits.items():
        _check_split(name, split, label)
    check_features(splits, list(features), label)
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
            "exclusions": exclusions,
            "excluded_rows": excluded_rows,
            "split_rule": split_rule,
            "splits": written,
        }
        unnamed = Snapshot(id="", uri="", **contents)
        hashed = unnamed.model_dump(mode="json", exclude={"id", "uri"})
        hashed |= {"feature_order": list(features), "definition": definition_hash}
        snapshot_id = content_hash(hashed)[:16]
        named = {"id": snapshot_id, "uri": str(folder / snapshot_id), "excluded_rows": excluded_rows + unread_rows}
        snapshot = unnamed.model_copy(update=named)
        if expected is not None:
            _check_same(snapshot, expected)
        (making / _MANIFEST).write_text(snapshot.to_json())
        _publish(making, folder / snapshot_id)
        return load_snapshot(home, snapshot_id)
    finally:
        shutil.rmtree(making, ignore_errors=True)
        sweep(folder)


def load_snapshot(home: Path, snapshot_id: str) -> Snapshot:
    """Return a snapshot by its id.

    :raises DataError: when there is none, or its manifest is damaged.
    """
    manifest = home / "snapshots" / snapshot_id / _MANIFEST
    try:
        snapshot = Snapshot.from_json(manifest.read_bytes())
    except FileNotFoundError:
        known = [path.parent.name for path in (home / "snapshots").glob(f"*/{_MANIFEST}")]
        known = [name for name in known if not name.startswith(TEMPORARY)]
        raise DataError(
            f"There is no snapshot {snapshot_id!r}.{did_you_mean(snapshot_id, known)}",
            detail=f"{home / 'snapshots'} holds {len(known)}",
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


def _check_same(built: Snapshot, expected: Snapshot) -> None:
    """Refuse a rebuilt snapshot that is not the one that was pinned, and say where they part."""
    if built.id == expected.id:
        return
    was, now = (one.model_dump(mode="json", exclude={"id", "uri", "splits"}) for one in (expected, built))
    parts = [name for name in was if was[name] != now[name]]
    for name, split in expected.splits.items():
        again = built.splits[name]
        if again.sha256 != split.sha256:
            parts.append(
                f"{name} split: {split.rows} rows, {split.positives} positive → {again.rows}, {again.positives}"
            )
    raise DataError(
        f"Snapshot {expected.id!r} comes out differently.",
        detail=f"now {built.id!r}; different: {'; '.join(parts) or 'the definition of the feature service'}",
        hint="Its partitions are as pinned: features were computed again since, or their definition or transform, or "
        "this package changed. Train on a new snapshot, and keep it apart from the old results.",
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
