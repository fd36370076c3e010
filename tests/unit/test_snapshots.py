"""Snapshots: named by everything that went in, published whole, and refused when nothing can be learned."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from airflow_mlops.engine.data.snapshots import SplitRows, load_snapshot, read_split, write_snapshot
from airflow_mlops.exceptions import DataError

START = datetime(2013, 1, 1, tzinfo=UTC)


def split(day: int, n: int = 6, *, late: list[bool] | None = None, reverse: bool = False) -> SplitRows:
    begin = START + timedelta(days=day)
    order = range(n - 1, -1, -1) if reverse else range(n)
    rows = pa.table(
        {
            "late": pa.array([(late or [True, False] * n)[i] for i in order]),
            "speed": pa.array([float(i) for i in order]),
            "at": pa.array([begin + timedelta(hours=i // 2) for i in order], pa.timestamp("us", tz="UTC")),
            "id": pa.array([f"{day}-{i}" for i in order]),
            "unused": pa.array([0] * n),
        }
    )
    return SplitRows(rows, begin, begin + timedelta(days=1))


def write(home: Path, splits: dict | None = None, **changes):
    arguments = {
        "model": "m",
        "partitions": {"source": {"2013-01-01": "a"}},
        "feature_service": "s",
        "definition_hash": "d",
        "features": {"speed": "double"},
        "entity": "id",
        "event_time": "at",
        "label": "late",
        "as_of": START + timedelta(days=4),
        "label_cut": START + timedelta(days=3),
        "unlabelled_rows": 2,
    }
    splits = splits or {"train": split(0), "validation": split(1), "test": split(2)}
    return write_snapshot(home, splits, **{**arguments, **changes})


def test_splits_have_their_columns_and_rows_in_order(home):
    snapshot = write(home)
    table = read_split(snapshot, "train")
    assert table.column_names == ["id", "at", "speed", "late"]
    assert table["id"].to_pylist() == [f"0-{i}" for i in range(6)]
    assert snapshot.splits["train"].rows == 6
    assert snapshot.splits["train"].positives == 3
    assert load_snapshot(home, snapshot.id) == snapshot


def test_the_same_again_is_the_same_snapshot_whatever_the_order_of_the_rows(home):
    first = write(home)
    file = Path(first.uri) / "train.parquet"
    written = file.stat().st_mtime_ns
    backwards = {"train": split(0, reverse=True), "validation": split(1), "test": split(2, reverse=True)}
    assert write(home, backwards) == first
    assert file.stat().st_mtime_ns == written
    assert [path.name for path in (home / "snapshots").iterdir()] == [first.id]


def test_another_home_gives_the_same_id(home, tmp_path):
    assert write(home).id == write(tmp_path / "elsewhere").id


@pytest.mark.parametrize(
    "change",
    [
        {"partitions": {"source": {"2013-01-01": "b"}}},
        {"feature_service": "t"},
        {"definition_hash": "e"},
        {"as_of": START + timedelta(days=5)},
        {"label_cut": START + timedelta(days=4)},
        {"unlabelled_rows": 3},
        {"splits": {"train": split(0, 8), "validation": split(1), "test": split(2)}},
    ],
)
def test_everything_that_went_in_is_in_the_id(home, change):
    assert write(home, **change).id != write(home).id


@pytest.mark.parametrize("name", ["train", "validation", "test"])
def test_an_empty_split_is_refused(home, name):
    splits = {"train": split(0), "validation": split(1), "test": split(2)}
    splits[name] = splits[name]._replace(rows=splits[name].rows.slice(0, 0))
    with pytest.raises(DataError, match=f"The {name} split has no rows"):
        write(home, splits)
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("value", [True, False])
def test_a_split_with_one_class_is_refused(home, value):
    splits = {"train": split(0), "validation": split(1), "test": split(2, late=[value] * 6)}
    with pytest.raises(DataError, match="The test split has only one class"):
        write(home, splits)


def test_an_entity_on_two_sides_is_refused(home):
    with pytest.raises(DataError, match="6 rows of the snapshot repeat an entity"):
        write(home, {"train": split(0), "validation": split(1), "test": split(0)})


def test_a_changed_file_is_not_believed(home):
    snapshot = write(home)
    file = Path(snapshot.uri) / "test.parquet"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match=r"test split of snapshot(.|\n)*changed"):
        read_split(snapshot, "test")


def test_a_missing_snapshot_is_explained(home):
    with pytest.raises(DataError, match=r"no snapshot 'nope'(.|\n)*fix:"):
        load_snapshot(home, "nope")
